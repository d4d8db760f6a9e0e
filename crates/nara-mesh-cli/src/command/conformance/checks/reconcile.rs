//! `POST /events/reconcile` and `POST /events/fetch` (docs/protocol/reconciliation.md).

use nara_proto::reconcile::{ItemSet, Reconciler};
use serde_json::json;

use super::super::check::{Check, Group, Need, Verdict, differs, ensure, must, run};
use super::super::peer::Peer;
use super::super::wire::{Draft, post};

const RECONCILE: &str = "reconciliation.md#2-post-eventsreconcile";
const FRAME: &str = "reconciliation.md#21-frame";
const FETCH: &str = "reconciliation.md#3-post-eventsfetch";
/// The frame version, which alone is an empty frame.
const VERSION: u8 = 0x61;
/// A scope without events.
const NOTHING: &str = "/events/reconcile?from=1&to=1";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1, Need::Reconcile],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "reconcile/in-sync",
        FRAME,
        "two empty sets are in sync after one round",
        run!(|peer| {
            let (mut reconciler, frame) = begin()?;
            let answer = peer.accepts(frames(peer, NOTHING, frame)).await?;
            peer.signed_v1(&answer)?;
            let next = reconciler
                .take(&answer.body)
                .map_err(|error| differs(error.to_string()))?;
            ensure(next.is_none() && reconciler.is_in_sync(), || {
                "the peer reports a difference".to_owned()
            })
        }),
    ),
    must(
        "reconcile/answer",
        RECONCILE,
        "the answer is a frame, application/octet-stream",
        run!(|peer| {
            let (_, frame) = begin()?;
            let answer = peer.accepts(frames(peer, "/events/reconcile", frame)).await?;
            answer.has_kind("application/octet-stream")?;
            let first = answer.body.first().copied();
            ensure(first == Some(VERSION), || format!("it begins with {first:?}"))
        }),
    ),
    must(
        "reconcile/other-version",
        FRAME,
        "a frame of another version is answered with the version byte",
        run!(|peer| {
            let answer = peer.accepts(frames(peer, NOTHING, vec![0x62])).await?;
            ensure(*answer.body == [VERSION], || {
                format!("{} bytes received", answer.body.len())
            })
        }),
    ),
    must(
        "reconcile/nonsense",
        RECONCILE,
        "not a frame: 400",
        run!(|peer| {
            for nonsense in [&[][..], b"\x00\x01\x02", &[VERSION, 0, 0, 1]] {
                peer.refuses(frames(peer, NOTHING, nonsense.to_vec()), 400)
                    .await?;
            }
            Ok(())
        }),
    ),
    must(
        "reconcile/unknown-service",
        RECONCILE,
        "an unknown service or parameter, or a time that is not a number: 400",
        run!(|peer| {
            for query in ["services=no-such-service", "what=ever", "from=yesterday", "to="] {
                let (_, frame) = begin()?;
                peer.refuses(frames(peer, &format!("/events/reconcile?{query}"), frame), 400)
                    .await?;
            }
            Ok(())
        }),
    ),
    must(
        "reconcile/too-large",
        RECONCILE,
        "more than 262,144 bytes: 413",
        run!(|peer| {
            peer.refuses(frames(peer, NOTHING, vec![VERSION; 262_145]), 413)
                .await
                .map(drop)
        }),
    ),
    must(
        "fetch/unknown-id",
        FETCH,
        "unknown and malformed ids are left out",
        run!(|peer| {
            let answer = peer
                .accepts(fetch(peer, json!({ "ids": ["0".repeat(32), "no id"] })))
                .await?;
            peer.signed_v1(&answer)?;
            ensure(answer.events()?.is_empty(), || "there are events".to_owned())
        }),
    ),
    must(
        "fetch/known-id",
        FETCH,
        "the events with these ids, and no others",
        run!(|peer| {
            let newest = peer
                .accepts(peer.sync(json!({ "mode": "recent", "limit": 1 })))
                .await?
                .events()?;
            let Some(id) = newest.first().and_then(|event| event["id"].as_str()) else {
                return Err(super::super::check::Fault::Skip("the peer has no events"));
            };
            let events = peer
                .accepts(fetch(peer, json!({ "ids": [id] })))
                .await?
                .events()?;
            ensure(events.len() == 1 && events[0]["id"] == id, || {
                format!("{} events received", events.len())
            })
        }),
    ),
    must(
        "fetch/too-many",
        FETCH,
        "more than 5,000 ids: 400",
        run!(|peer| {
            let ids = vec!["0".repeat(32); 5001];
            peer.refuses(fetch(peer, json!({ "ids": ids })), 400)
                .await
                .map(drop)
        }),
    ),
    must(
        "fetch/from-is-required",
        FETCH,
        "without from: 400",
        run!(|peer| {
            peer.refuses(peer.v1_signed(post("/events/fetch", "{\"ids\":[]}")), 400)
                .await
                .map(drop)
        }),
    ),
    must(
        "fetch/other-from",
        FETCH,
        "another from than the sender: 403",
        run!(|peer| {
            let body = json!({ "from": peer.v2.name().as_str(), "ids": [] }).to_string();
            peer.refuses(peer.v1_signed(post("/events/fetch", body)), 403)
                .await
                .map(drop)
        }),
    ),
];

fn begin() -> Verdict<(Reconciler, Vec<u8>)> {
    Reconciler::begin(ItemSet::new([])).map_err(|error| differs(error.to_string()))
}

fn frames(peer: &Peer, target: &str, frame: Vec<u8>) -> Draft {
    peer.v1_signed(post(target, frame).with("content-type", "application/octet-stream"))
}

fn fetch(peer: &Peer, mut request: serde_json::Value) -> Draft {
    request["from"] = json!(peer.v1.name().as_str());
    peer.v1_signed(post("/events/fetch", request.to_string()))
}
