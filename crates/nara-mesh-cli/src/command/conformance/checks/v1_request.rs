//! Which v1 requests are accepted (docs/protocol/v1.md, section 4).

use http::Method;
use nara_mesh::identity::LocalNara;

use super::super::check::{Check, Group, Need, differs, ensure, known, must, run, should};
use super::super::peer::recent;
use super::super::signing::{of_nothing, v1};
use super::super::wire::{get, post};

const HEADERS: &str = "v1.md#41-headers";
const ORDER: &str = "v1.md#43-verification-order-and-failures";
const REQUIRED: &str = "v1.md#42-where-it-is-required";
const MISSING: &str = "Authentication failed: missing auth headers";
const WRONG: &str = "Authentication failed: signature verification failed";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "v1-request/accepted",
        HEADERS,
        "a request with a valid signature is answered",
        run!(|peer| { peer.accepts(peer.v1_signed(recent(&peer.v1))).await.map(drop) }),
    ),
    must(
        "v1-request/all-signed-endpoints",
        REQUIRED,
        "the five signed endpoints want a signature",
        run!(|peer| {
            for path in [
                "/events/sync",
                "/gossip/zine",
                "/dm",
                "/world/relay",
                "/mesh/message",
            ] {
                peer.refuses_with(post(path, "{}"), 401, MISSING).await?;
            }
            Ok(())
        }),
    ),
    must(
        "v1-request/no-name",
        ORDER,
        "without X-Nara-Name: 401 `missing auth headers`",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(recent(&peer.v1)).without("x-nara-name"),
                401,
                MISSING,
            )
            .await
        }),
    ),
    must(
        "v1-request/no-timestamp",
        ORDER,
        "without X-Nara-Timestamp: 401 `missing auth headers`",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(recent(&peer.v1)).without("x-nara-timestamp"),
                401,
                MISSING,
            )
            .await
        }),
    ),
    must(
        "v1-request/no-signature",
        ORDER,
        "without X-Nara-Signature: 401 `missing auth headers`",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(recent(&peer.v1)).without("x-nara-signature"),
                401,
                MISSING,
            )
            .await
        }),
    ),
    must(
        "v1-request/empty-name",
        ORDER,
        "an empty header counts as missing",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(recent(&peer.v1)).with("x-nara-name", ""),
                401,
                MISSING,
            )
            .await
        }),
    ),
    must(
        "v1-request/no-number",
        ORDER,
        "a timestamp that is not a number: 401 `invalid timestamp`",
        run!(|peer| {
            let draft = peer.v1_signed(recent(&peer.v1)).with("x-nara-timestamp", "soon");
            peer.refuses_with(draft, 401, "Authentication failed: invalid timestamp")
                .await
        }),
    ),
    must(
        "v1-request/seconds",
        HEADERS,
        "timestamps are milliseconds: seconds are too old",
        run!(|peer| {
            let seconds = peer.now().to_seconds().get();
            let draft = v1(
                recent(&peer.v1),
                &peer.v1,
                nara_proto::time::UnixMillis::new(seconds),
            );
            peer.refuses(draft, 401).await.map(drop)
        }),
    ),
    must(
        "v1-request/too-old",
        ORDER,
        "|now − timestamp| > 30 s: 401",
        run!(|peer| {
            let draft = v1(recent(&peer.v1), &peer.v1, peer.now_and(-35));
            let answer = peer.refuses(draft, 401).await?;
            answer.begins_with("Authentication failed: timestamp too old or in future: ")
        }),
    ),
    must(
        "v1-request/in-future",
        ORDER,
        "|now − timestamp| > 30 s: 401, in the future as well",
        run!(|peer| {
            let draft = v1(recent(&peer.v1), &peer.v1, peer.now_and(35));
            let answer = peer.refuses(draft, 401).await?;
            answer.begins_with("Authentication failed: timestamp too old or in future: ")
        }),
    ),
    must(
        "v1-request/25s-ahead",
        ORDER,
        "a request from 25 s ahead is accepted",
        run!(|peer| {
            peer.accepts(v1(recent(&peer.v1), &peer.v1, peer.now_and(25)))
                .await
                .map(drop)
        }),
    ),
    should(
        "v1-request/25s-ago",
        ORDER,
        "a request from 25 s ago is accepted, unless the peer has just started",
        run!(|peer| {
            peer.accepts(v1(recent(&peer.v1), &peer.v1, peer.now_and(-25)))
                .await
                .map(drop)
        }),
    ),
    must(
        "v1-request/unknown-sender",
        ORDER,
        "no key for the name: 401 `unknown sender: {name}`",
        run!(|peer| {
            let stranger = LocalNara::generate("a-stranger-of-conformance")
                .map_err(|error| differs(error.to_string()))?;
            let draft = v1(recent(&stranger), &stranger, peer.now());
            let text = "Authentication failed: unknown sender: a-stranger-of-conformance";
            peer.refuses_with(draft, 401, text).await
        }),
    ),
    must(
        "v1-request/no-base64",
        ORDER,
        "a signature that is not base64: 401 `invalid signature encoding`",
        run!(|peer| {
            let draft = peer
                .v1_signed(recent(&peer.v1))
                .with("x-nara-signature", "!not-base64!");
            peer.refuses_with(draft, 401, "Authentication failed: invalid signature encoding")
                .await
        }),
    ),
    must(
        "v1-request/short-signature",
        ORDER,
        "a signature of another size: 401",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(recent(&peer.v1)).with("x-nara-signature", "AAAA"),
                401,
                WRONG,
            )
            .await
        }),
    ),
    must(
        "v1-request/wrong-signature",
        ORDER,
        "a signature over other data: 401",
        run!(|peer| {
            let draft = peer.v1_signed(recent(&peer.v1));
            peer.refuses_with(
                draft.with("x-nara-signature", of_nothing(peer.v1.keypair())),
                401,
                WRONG,
            )
            .await
        }),
    ),
    must(
        "v1-request/other-key",
        ORDER,
        "a signature of another key: 401",
        run!(|peer| {
            let name = peer.v1.name().as_str();
            let thief = LocalNara::generate(name).map_err(|error| differs(error.to_string()))?;
            peer.refuses_with(v1(recent(&peer.v1), &thief, peer.now()), 401, WRONG)
                .await
        }),
    ),
    must(
        "v1-request/its-own-name",
        ORDER,
        "the name of the peer itself is bound to its own key: 401 for any other",
        run!(|peer| {
            let thief =
                LocalNara::generate(peer.name.as_str()).map_err(|error| differs(error.to_string()))?;
            peer.refuses(v1(recent(&thief), &thief, peer.now()), 401)
                .await
                .map(drop)
        }),
    ),
    must(
        "v1-request/other-path",
        HEADERS,
        "the path is covered",
        run!(|peer| {
            let draft = peer.v1_signed(post("/mesh/message", "{}")).target("/events/sync");
            peer.refuses_with(draft, 401, WRONG).await
        }),
    ),
    must(
        "v1-request/other-method",
        HEADERS,
        "the method is covered",
        run!(|peer| {
            let draft = peer.v1_signed(get("/events/sync")).method(Method::POST);
            peer.refuses_with(draft, 401, WRONG).await
        }),
    ),
    must(
        "v1-request/other-time",
        HEADERS,
        "the timestamp is covered",
        run!(|peer| {
            let draft = peer.v1_signed(recent(&peer.v1));
            let other = peer.now().to_string();
            peer.refuses_with(draft.with("x-nara-timestamp", other), 401, WRONG)
                .await
        }),
    ),
    must(
        "v1-request/query",
        HEADERS,
        "the query is not covered",
        run!(|peer| {
            peer.accepts(
                peer.v1_signed(recent(&peer.v1))
                    .target("/events/sync?not=covered"),
            )
            .await
            .map(drop)
        }),
    ),
    must(
        "v1-request/decoded-path",
        HEADERS,
        "the percent-decoded path is signed",
        run!(|peer| {
            peer.accepts(peer.v1_signed(recent(&peer.v1).target("/events/s%79nc")))
                .await
                .map(drop)
        }),
    ),
    must(
        "v1-request/before-method",
        ORDER,
        "authentication comes before the method check",
        run!(|peer| { peer.refuses_with(get("/dm"), 401, MISSING).await }),
    ),
    must(
        "v1-request/401-unsigned",
        ORDER,
        "a 401 is text/plain with nosniff, and unsigned",
        run!(|peer| {
            let answer = peer.refuses(recent(&peer.v1), 401).await?;
            answer.is_unsigned()?;
            let sniff = answer.header("x-content-type-options").unwrap_or_default();
            ensure(sniff == "nosniff", || {
                format!("X-Content-Type-Options is {sniff:?}")
            })
        }),
    ),
    must(
        "v1-request/content-type",
        "v1.md#6-common-http-behaviour",
        "the Content-Type of a request is not checked",
        run!(|peer| {
            peer.accepts(peer.v1_signed(recent(&peer.v1)).with("content-type", "text/html"))
                .await
                .map(drop)
        }),
    ),
    must(
        "v1-request/same-millisecond",
        HEADERS,
        "two messages of one millisecond have one signature: both are accepted",
        run!(|peer| {
            let at = peer.now();
            for body in ["{\"first\":1}", "{\"second\":2}"] {
                peer.accepts(v1(post("/mesh/message", body), &peer.v1, at))
                    .await?;
            }
            Ok(())
        }),
    ),
    known(
        "v1-request/repeated-header",
        ORDER,
        "the first value of a repeated header counts",
        run!(|peer| {
            let draft = peer
                .v1_signed(recent(&peer.v1))
                .again("x-nara-name", "somebody-else");
            peer.accepts(draft).await.map(drop)
        }),
    ),
    known(
        "v1-request/plus",
        ORDER,
        "a timestamp may begin with +",
        run!(|peer| {
            let draft = peer.v1_signed(recent(&peer.v1));
            let plus = format!("+{}", draft.header("x-nara-timestamp"));
            peer.accepts(draft.with("x-nara-timestamp", plus)).await.map(drop)
        }),
    ),
    known(
        "v1-request/replay",
        HEADERS,
        "there is no nonce: the same request is accepted twice",
        run!(|peer| {
            let draft = peer.v1_signed(post("/world/relay", "no json"));
            peer.refuses(draft.clone(), 400).await?;
            peer.refuses(draft, 400).await.map(drop)
        }),
    ),
    must(
        "v1-request/time-of-refusal",
        "v2.md#32-clocks",
        "a refusal for the timestamp has X-Nara-Time",
        run!(|peer| {
            let draft = v1(recent(&peer.v1), &peer.v1, peer.now_and(-300));
            let answer = peer.refuses(draft, 401).await?;
            let told = answer
                .header("x-nara-time")
                .and_then(|time| time.parse::<i64>().ok());
            let told = told.ok_or_else(|| differs("X-Nara-Time is missing or not a number"))?;
            let off = (told - peer.now().get()).abs();
            ensure(off < 30_000, || {
                format!("X-Nara-Time is {off} ms from the time of its /ping")
            })
        }),
    )
    .needs(&[Need::V2]),
];
