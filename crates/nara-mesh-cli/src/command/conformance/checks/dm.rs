//! `POST /dm` (docs/protocol/v1.md, section 7.5).

use nara_mesh::identity::LocalNara;
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::go_json;

use super::super::check::{Check, Group, Need, differs, ensure, must, run, should};
use super::super::peer::Peer;
use super::super::wire::{Draft, post};

const DM: &str = "v1.md#75-post-dm";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "dm/unsigned",
        DM,
        "without emitter or signature: 400 `Unsigned event rejected`",
        run!(|peer| {
            let mut event = tease(peer, &peer.v1);
            event.sig.clear();
            peer.refuses_with(draft(peer, &event), 400, "Unsigned event rejected")
                .await
        }),
    ),
    must(
        "dm/unknown-emitter",
        DM,
        "an emitter without a known key: 403",
        run!(|peer| {
            let stranger = LocalNara::generate("a-stranger-of-conformance")
                .map_err(|error| differs(error.to_string()))?;
            peer.refuses(draft(peer, &tease(peer, &stranger)), 403)
                .await
                .map(drop)
        }),
    ),
    must(
        "dm/wrong-signature",
        DM,
        "a signature that does not verify: 403 `Invalid signature`",
        run!(|peer| {
            let thief =
                LocalNara::generate(peer.v1.name().as_str()).map_err(|error| differs(error.to_string()))?;
            peer.refuses_with(draft(peer, &tease(peer, &thief)), 403, "Invalid signature")
                .await
        }),
    ),
    must(
        "dm/refusal-is-signed",
        "v1.md#5-response-authentication",
        "error answers are signed: 403",
        run!(|peer| {
            let thief =
                LocalNara::generate(peer.v1.name().as_str()).map_err(|error| differs(error.to_string()))?;
            peer.signed_v1(&peer.refuses(draft(peer, &tease(peer, &thief)), 403).await?)
        }),
    ),
    must(
        "dm/stored",
        DM,
        "a valid event: 200 with from and success",
        run!(|peer| {
            let answer = peer.accepts(draft(peer, &tease(peer, &peer.v1))).await?;
            answer.has_keys(&["from", "success"])?;
            let receipt = answer.json()?;
            ensure(receipt["from"] == peer.name.as_str(), || {
                format!("from is {}", receipt["from"])
            })?;
            ensure(receipt["success"].is_boolean(), || {
                format!("success is {}", receipt["success"])
            })
        }),
    )
    .needs(&[Need::Write]),
    must(
        "dm/twice",
        DM,
        "an event that is known already: 200 with success false",
        run!(|peer| {
            let event = tease(peer, &peer.v1);
            peer.accepts(draft(peer, &event)).await?;
            let again = peer.accepts(draft(peer, &event)).await?.json()?;
            ensure(again["success"] == false, || {
                format!("success is {}", again["success"])
            })
        }),
    )
    .needs(&[Need::Write]),
    should(
        "dm/can-be-fetched",
        DM,
        "an event that was stored is in the answers of /events/sync",
        run!(|peer| {
            let event = tease(peer, &peer.v1);
            let stored = peer.accepts(draft(peer, &event)).await?.json()?;
            if stored["success"] != true {
                return Err(super::super::check::Fault::Skip(
                    "the event is not to the taste of the peer",
                ));
            }
            let request =
                serde_json::json!({ "mode": "recent", "limit": 50, "subjects": [peer.v1.name().as_str()] });
            let events = peer.accepts(peer.sync(request)).await?.events()?;
            ensure(
                events.iter().any(|found| found["id"] == event.id.as_str()),
                || "it is not there".to_owned(),
            )
        }),
    )
    .needs(&[Need::Write]),
];

/// Returns a signed tease of the peer. Its reason, `comeback`, passes the taste filter of nearly every nara.
fn tease(peer: &Peer, nara: &LocalNara) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: nara.name().as_str().to_owned(),
        target: peer.name.as_str().to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    let ts = peer.now().to_nanos();
    SyncEvent::signed(ts, Payload::Social(payload), nara.name().as_str(), nara.keypair())
}

fn draft(peer: &Peer, event: &SyncEvent) -> Draft {
    peer.v1_signed(post("/dm", go_json::to_vec(event)))
}
