//! Which v2 requests are accepted (docs/protocol/v2.md, sections 1 and 3).

use http::Method;
use nara_mesh::identity::LocalNara;
use nara_proto::v2::{ContentDigest, Recipient};

use super::super::check::{Check, Group, Need, Verdict, differs, ensure, must, run, should};
use super::super::peer::{Peer, recent};
use super::super::signing::{V2, of_nothing, v1};
use super::super::wire::{Draft, get, post};

const HEADERS: &str = "v2.md#1-requests";
const RECIPIENT: &str = "v2.md#11-recipient";
const INPUT: &str = "v2.md#12-signature-input";
const NONCE: &str = "v2.md#13-nonce";
const BASE: &str = "v2.md#14-signature-base";
const BESIDE: &str = "v2.md#15-beside-v1";
const STREAMED: &str = "v2.md#16-streamed-bodies";
const VERIFYING: &str = "v2.md#3-verifying-a-request";
const DOWNGRADE: &str = "v2.md#31-downgrade";

pub(super) const GROUP: Group = Group {
    needs: &[Need::V2, Need::KnowsV2],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "v2-request/to-id",
        RECIPIENT,
        "a request to the id of the peer is answered",
        run!(|peer| { peer.accepts(request(peer)).await.map(drop) }),
    ),
    must(
        "v2-request/to-name",
        RECIPIENT,
        "a request to the name of the peer is answered",
        run!(|peer| {
            let name = Recipient::Name(peer.name.clone()).to_string();
            peer.accepts(changed(peer, |v2| v2.set("x-nara-to", name)))
                .await
                .map(drop)
        }),
    ),
    must(
        "v2-request/to-another",
        RECIPIENT,
        "a request to another nara: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.set("x-nara-to", "somebody-else"))).await }),
    ),
    must(
        "v2-request/beside-v1",
        BESIDE,
        "a request with both signatures is answered",
        run!(|peer| {
            let draft = v1(recent(&peer.v2), &peer.v2, peer.now());
            peer.accepts(peer.v2_signed(draft)).await.map(drop)
        }),
    ),
    must(
        "v2-request/no-recipient",
        HEADERS,
        "without X-Nara-To: 401",
        run!(|peer| { refused(peer, request(peer).without("x-nara-to")).await }),
    ),
    must(
        "v2-request/no-digest",
        HEADERS,
        "without Content-Digest: 401",
        run!(|peer| { refused(peer, request(peer).without("content-digest")).await }),
    ),
    must(
        "v2-request/no-name",
        HEADERS,
        "without X-Nara-Name: 401",
        run!(|peer| { refused(peer, request(peer).without("x-nara-name")).await }),
    ),
    must(
        "v2-request/no-input",
        HEADERS,
        "Signature without Signature-Input: 401",
        run!(|peer| { refused(peer, request(peer).without("signature-input")).await }),
    ),
    must(
        "v2-request/no-signature",
        HEADERS,
        "Signature-Input without Signature: 401",
        run!(|peer| { refused(peer, request(peer).without("signature")).await }),
    ),
    must(
        "v2-request/no-fall-back",
        BESIDE,
        "an invalid v2 signature with a valid v1 signature: 401",
        run!(|peer| {
            let draft = v1(recent(&peer.v2), &peer.v2, peer.now());
            refused(peer, peer.v2_signed(draft).with("signature", "nara=:AAAA:")).await
        }),
    ),
    must(
        "v2-request/repeated-header",
        HEADERS,
        "a repeated header: 401",
        run!(|peer| {
            let draft = request(peer);
            let to = draft.header("x-nara-to");
            refused(peer, draft.again("x-nara-to", to)).await
        }),
    ),
    must(
        "v2-request/channel-on-plain",
        HEADERS,
        "X-Nara-Channel on plain HTTP: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.bind(&[7; 32]))).await }),
    ),
    must(
        "v2-request/other-path",
        BASE,
        "the path is covered",
        run!(|peer| {
            let draft = peer.v2_signed(post("/mesh/message", "{}"));
            refused(peer, draft.target("/events/sync")).await
        }),
    ),
    must(
        "v2-request/other-query",
        BASE,
        "the query is covered",
        run!(|peer| { refused(peer, request(peer).target("/events/sync?not=covered")).await }),
    ),
    must(
        "v2-request/query",
        BASE,
        "a request with a query is answered",
        run!(|peer| {
            peer.accepts(peer.v2_signed(recent(&peer.v2).target("/events/sync?is=covered")))
                .await
                .map(drop)
        }),
    ),
    must(
        "v2-request/empty-query",
        BASE,
        "no query and an empty one are the same",
        run!(|peer| {
            peer.accepts(request(peer).target("/events/sync?"))
                .await
                .map(drop)
        }),
    ),
    must(
        "v2-request/other-method",
        BASE,
        "the method is covered",
        run!(|peer| { refused(peer, peer.v2_signed(get("/events/sync")).method(Method::POST)).await }),
    ),
    must(
        "v2-request/other-name",
        BASE,
        "the name is covered",
        run!(|peer| { refused(peer, request(peer).with("x-nara-name", peer.v1.name().as_str())).await }),
    ),
    must(
        "v2-request/other-digest",
        BASE,
        "the digest is covered",
        run!(|peer| {
            let other = recent(&peer.v1).body;
            let draft = request(peer).with("content-digest", ContentDigest::of(&other).to_field());
            refused(peer, draft.body(other)).await
        }),
    ),
    must(
        "v2-request/other-body",
        VERIFYING,
        "a body with another digest: 400",
        run!(|peer| {
            let draft = request(peer);
            let longer = [&draft.body[..], b" "].concat();
            peer.refuses(draft.body(longer), 400).await.map(drop)
        }),
    ),
    must(
        "v2-request/other-signature",
        VERIFYING,
        "a signature over other data: 401",
        run!(|peer| {
            let other = format!("nara=:{}:", of_nothing(peer.v2.keypair()));
            refused(peer, request(peer).with("signature", other)).await
        }),
    ),
    must(
        "v2-request/other-key",
        VERIFYING,
        "a signature of another key: 401",
        run!(|peer| {
            let thief =
                LocalNara::generate(peer.v2.name().as_str()).map_err(|error| differs(error.to_string()))?;
            let draft = recent(&peer.v2);
            refused(peer, peer.v2_parts(&draft, &thief).sign(draft)).await
        }),
    ),
    must(
        "v2-request/too-old",
        VERIFYING,
        "|now − created| > 30 s: 401 with X-Nara-Time",
        run!(|peer| {
            let answer = peer.refuses(changed(peer, |v2| v2.shift(-40)), 401).await?;
            ensure(answer.header("x-nara-time").is_some(), || {
                "X-Nara-Time is missing".to_owned()
            })
        }),
    ),
    must(
        "v2-request/in-future",
        VERIFYING,
        "|now − created| > 30 s: 401, in the future as well",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.shift(40))).await }),
    ),
    must(
        "v2-request/25s-ahead",
        VERIFYING,
        "a request from 25 s ahead is accepted",
        run!(|peer| { peer.accepts(changed(peer, |v2| v2.shift(25))).await.map(drop) }),
    ),
    should(
        "v2-request/25s-ago",
        VERIFYING,
        "a request from 25 s ago is accepted, unless the peer has just started",
        run!(|peer| { peer.accepts(changed(peer, |v2| v2.shift(-25))).await.map(drop) }),
    ),
    must(
        "v2-request/expired",
        VERIFYING,
        "after expires: 401",
        run!(|peer| {
            let created = peer.now_and(-20).to_seconds().get();
            refused(
                peer,
                changed(peer, |v2| {
                    v2.set("created", created.to_string());
                    v2.set("expires", (created + 10).to_string());
                }),
            )
            .await
        }),
    ),
    must(
        "v2-request/long-life",
        INPUT,
        "expires more than 30 s after created: 401",
        run!(|peer| {
            let created = peer.now().to_seconds().get();
            refused(
                peer,
                changed(peer, |v2| v2.set("expires", (created + 32).to_string())),
            )
            .await
        }),
    ),
    must(
        "v2-request/backwards",
        INPUT,
        "expires before created: 401",
        run!(|peer| {
            let created = peer.now().to_seconds().get();
            refused(
                peer,
                changed(peer, |v2| v2.set("expires", (created - 5).to_string())),
            )
            .await
        }),
    ),
    must(
        "v2-request/replay",
        NONCE,
        "a nonce that was used: 401",
        run!(|peer| {
            let draft = request(peer);
            peer.accepts(draft.clone()).await?;
            refused(peer, draft).await
        }),
    ),
    must(
        "v2-request/replay-changed",
        NONCE,
        "a nonce that was used, in another request: 401",
        run!(|peer| {
            let first = request(peer);
            let input = first.header("signature-input");
            let nonce = input
                .split("nonce=")
                .nth(1)
                .and_then(|rest| rest.split(';').next());
            let nonce = nonce.unwrap_or_default().to_owned();
            peer.accepts(first).await?;
            refused(
                peer,
                peer.v2_changed(post("/mesh/message", "{}"), |v2| v2.set("nonce", nonce)),
            )
            .await
        }),
    ),
    must(
        "v2-request/random-nonce",
        NONCE,
        "sixteen random bytes are a nonce",
        run!(|peer| {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(|error| differs(error.to_string()))?;
            let nonce = format!("\"{}\"", nara_proto::encoding::base64_encode(&random));
            let draft = changed(peer, |v2| v2.set("nonce", nonce));
            let answer = peer.send(&draft).await?;
            // A v2 time is truncated to seconds, so it may precede the start of the peer.
            ensure(answer.status == 200 || answer.text().contains("start"), || {
                format!("status {}", answer.status)
            })
        }),
    ),
    must(
        "v2-request/short-nonce",
        NONCE,
        "a nonce of another length: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.set("nonce", "\"AAAA\""))).await }),
    ),
    must(
        "v2-request/parameter-order",
        INPUT,
        "parameters may have any order",
        run!(|peer| {
            peer.accepts(changed(peer, |v2| v2.parameters.reverse()))
                .await
                .map(drop)
        }),
    ),
    must(
        "v2-request/component-order",
        INPUT,
        "components have one order: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.components.swap(0, 1))).await }),
    ),
    must(
        "v2-request/fewer-components",
        INPUT,
        "a component is missing: 401",
        run!(|peer| {
            refused(
                peer,
                changed(peer, |v2| v2.components.retain(|(name, _)| *name != "@query")),
            )
            .await
        }),
    ),
    must(
        "v2-request/more-components",
        INPUT,
        "a component more: 401",
        run!(|peer| {
            refused(
                peer,
                changed(peer, |v2| v2.components.push(("x-more", "1".to_owned()))),
            )
            .await
        }),
    ),
    must(
        "v2-request/unknown-parameter",
        INPUT,
        "a parameter that is not of this profile: 401",
        run!(|peer| {
            refused(
                peer,
                changed(peer, |v2| v2.parameters.push(("more", "1".to_owned()))),
            )
            .await
        }),
    ),
    must(
        "v2-request/missing-parameters",
        INPUT,
        "each parameter is required: 401",
        run!(|peer| {
            for missing in ["created", "expires", "nonce", "keyid", "alg", "tag"] {
                refused(
                    peer,
                    changed(peer, |v2| v2.parameters.retain(|(name, _)| *name != missing)),
                )
                .await?;
            }
            Ok(())
        }),
    ),
    must(
        "v2-request/algorithm",
        INPUT,
        "another alg than ed25519: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.set("alg", "\"hmac-sha256\""))).await }),
    ),
    must(
        "v2-request/tag",
        INPUT,
        "another tag than nara-mesh: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.set("tag", "\"other\""))).await }),
    ),
    must(
        "v2-request/key-id",
        VERIFYING,
        "a keyid of another key: 401",
        run!(|peer| {
            let other = nara_proto::identity::KeyId::from(&peer.v1.public_key());
            refused(peer, changed(peer, |v2| v2.set("keyid", format!("\"{other}\"")))).await
        }),
    ),
    must(
        "v2-request/label",
        INPUT,
        "labels are not signed: another one than nara is accepted with the tag",
        run!(|peer| {
            let draft = request(peer);
            let (input, signature) = (draft.header("signature-input"), draft.header("signature"));
            let draft = draft.with("signature-input", input.replacen("nara=", "sig1=", 1));
            let draft = draft.with("signature", signature.replacen("nara=", "sig1=", 1));
            peer.accepts(draft).await.map(drop)
        }),
    ),
    must(
        "v2-request/white-space",
        INPUT,
        "optional white space in Signature-Input: 401",
        run!(|peer| { refused(peer, changed(peer, |v2| v2.set("alg", "\"ed25519\" "))).await }),
    ),
    must(
        "v2-request/base64",
        INPUT,
        "base64 without padding: 401",
        run!(|peer| {
            let draft = request(peer);
            let unpadded = draft
                .header("signature")
                .replace("=:", ":")
                .replacen("nara:", "nara=:", 1);
            refused(peer, draft.with("signature", unpadded)).await
        }),
    ),
    must(
        "v2-request/stream-not-taken",
        STREAMED,
        "a streamed body where none is accepted: 401",
        run!(|peer| {
            let draft = recent(&peer.v2);
            let mut v2 = peer.v2_parts(&draft, &peer.v2);
            streamed(&mut v2);
            refused(peer, v2.sign(draft)).await
        }),
    ),
    must(
        "v2-request/two-bodies",
        STREAMED,
        "Content-Digest and X-Nara-Body: 401",
        run!(|peer| { refused(peer, request(peer).with("x-nara-body", "stream")).await }),
    ),
    must(
        "v2-request/other-body-word",
        STREAMED,
        "X-Nara-Body with another value: 401",
        run!(|peer| {
            let draft = recent(&peer.v2);
            let mut v2 = peer.v2_parts(&draft, &peer.v2);
            streamed(&mut v2);
            v2.set("x-nara-body", "later");
            refused(peer, v2.sign(draft)).await
        }),
    ),
    must(
        "v2-request/no-body",
        HEADERS,
        "a request without a body has the digest of no bytes",
        run!(|peer| {
            peer.refuses_with(peer.v2_signed(get("/dm")), 405, "Method not allowed")
                .await
        }),
    ),
    must(
        "v2-request/401-unsigned",
        "v2.md#2-answers",
        "a refusal by authentication is text/plain, and unsigned",
        run!(|peer| {
            let answer = peer.refuses(request(peer).without("x-nara-to"), 401).await?;
            answer.begins_with("Authentication failed: ")?;
            answer.has_kind("text/plain; charset=utf-8")?;
            answer.is_unsigned()
        }),
    ),
    must(
        "v2-request/downgrade",
        DOWNGRADE,
        "v1 alone from a nara that has proven v2: 401",
        run!(|peer| {
            peer.accepts(request(peer)).await?;
            refused(peer, v1(recent(&peer.v2), &peer.v2, peer.now())).await
        }),
    ),
];

/// Returns a valid request.
fn request(peer: &Peer) -> Draft {
    peer.v2_signed(recent(&peer.v2))
}

/// Returns a valid request, with parts of the signature changed before signing.
fn changed(peer: &Peer, change: impl FnOnce(&mut V2)) -> Draft {
    peer.v2_changed(recent(&peer.v2), change)
}

/// Covers the marker of a streamed body instead of a digest.
fn streamed(v2: &mut V2) {
    for component in &mut v2.components {
        if component.0 == "content-digest" {
            *component = ("x-nara-body", "stream".to_owned());
        }
    }
}

async fn refused(peer: &Peer, draft: Draft) -> Verdict {
    peer.refuses(draft, 401).await.map(drop)
}
