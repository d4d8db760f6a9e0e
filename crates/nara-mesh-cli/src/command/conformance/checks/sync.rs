//! `POST /events/sync` (docs/protocol/v1.md, section 7.3), and the JSON parsing rules (section 2).

use std::collections::HashSet;

use nara_proto::sync::SyncResponse;
use serde_json::{Value, json};

use super::super::check::{Check, Fault, Group, Need, Verdict, differs, ensure, must, run, should};
use super::super::peer::{Peer, times};
use super::super::wire::post;

const SYNC: &str = "v1.md#73-post-eventssync";
const JSON: &str = "v1.md#2-json-as-v1-peers-write-and-read-it";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "sync/answer",
        SYNC,
        "from is the responder, and ts is in seconds",
        run!(|peer| {
            let answer = peer
                .accepts(peer.sync(json!({ "mode": "recent", "limit": 1 })))
                .await?
                .json()?;
            ensure(answer["from"] == peer.name.as_str(), || {
                format!("from is {}", answer["from"])
            })?;
            let off = answer["ts"].as_i64().unwrap_or_default() - peer.now().to_seconds().get();
            ensure(off.abs() <= 30, || format!("ts is {}", answer["ts"]))
        }),
    ),
    must(
        "sync/signature",
        SYNC,
        "sig covers from, ts and the ids",
        run!(|peer| {
            let answer = peer
                .accepts(peer.sync(json!({ "mode": "recent", "limit": 5 })))
                .await?;
            let response: SyncResponse = nara_proto::go_json::from_slice(&answer.body)
                .map_err(|error| differs(format!("the answer cannot be read: {error}")))?;
            response
                .verify(&peer.key)
                .map_err(|error| differs(format!("sig: {error}")))
        }),
    ),
    should(
        "sync/nothing",
        SYNC,
        "events is null when nothing matched",
        run!(|peer| {
            let answer = peer
                .accepts(peer.sync(json!({ "mode": "page", "services": ["no-such-service"] })))
                .await?;
            ensure(answer.json()?["events"].is_null(), || {
                "events is not null".to_owned()
            })
        }),
    ),
    must(
        "sync/from-is-required",
        SYNC,
        "without from: 400 `from is required`",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(post("/events/sync", "{}")),
                400,
                "from is required",
            )
            .await
        }),
    ),
    must(
        "sync/recent",
        SYNC,
        "recent: at most limit events, newest first",
        run!(|peer| {
            let events = fetch(peer, json!({ "mode": "recent", "limit": 3 })).await?;
            ensure(events.len() <= 3, || format!("{} events", events.len()))?;
            ensure(times(&events).is_sorted_by(|a, b| a >= b), || {
                "they are not newest first".to_owned()
            })
        }),
    ),
    must(
        "sync/recent-default",
        SYNC,
        "recent: a limit of 0 or less, or above 5000, means 100",
        run!(|peer| {
            for limit in [0, -1, 5001] {
                let count = fetch(peer, json!({ "mode": "recent", "limit": limit }))
                    .await?
                    .len();
                ensure(count <= 100, || format!("limit {limit}: {count} events"))?;
            }
            Ok(())
        }),
    ),
    must(
        "sync/page",
        SYNC,
        "page: at most page_size events, oldest first",
        run!(|peer| {
            let events = fetch(peer, json!({ "mode": "page", "page_size": 3 })).await?;
            ensure(events.len() <= 3, || format!("{} events", events.len()))?;
            ensure(times(&events).is_sorted(), || {
                "they are not oldest first".to_owned()
            })
        }),
    ),
    must(
        "sync/next-cursor",
        SYNC,
        "page: a full page has next_cursor, the time of its last event",
        run!(|peer| {
            let answer = first_page(peer).await?;
            let last = times(&answer.events()?).last().copied().unwrap_or_default();
            let next = answer.json()?["next_cursor"].clone();
            ensure(next == last.to_string().as_str(), || {
                format!("next_cursor is {next}, but the last event is from {last}")
            })
        }),
    ),
    must(
        "sync/cursor",
        SYNC,
        "page: only events strictly later than the cursor",
        run!(|peer| {
            let cursor = times(&first_page(peer).await?.events()?)
                .last()
                .copied()
                .unwrap_or_default();
            let second = fetch(
                peer,
                json!({ "mode": "page", "page_size": 3, "cursor": cursor.to_string() }),
            )
            .await?;
            ensure(times(&second).iter().all(|ts| *ts > cursor), || {
                format!("an event is not later than {cursor}")
            })
        }),
    ),
    must(
        "sync/bad-cursor",
        SYNC,
        "page: a cursor that is not a number counts as 0",
        run!(|peer| {
            let first = fetch(peer, json!({ "mode": "page", "page_size": 1 })).await?;
            let same = fetch(
                peer,
                json!({ "mode": "page", "page_size": 1, "cursor": "yesterday" }),
            )
            .await?;
            ensure(ids(&first) == ids(&same), || {
                "the page differs from the one without a cursor".to_owned()
            })
        }),
    ),
    must(
        "sync/last-page",
        SYNC,
        "page: the last page has no next_cursor",
        run!(|peer| {
            let cursor = (i64::MAX - 1).to_string();
            let answer = peer
                .accepts(peer.sync(json!({ "mode": "page", "page_size": 1, "cursor": cursor })))
                .await?;
            let next = answer.json()?["next_cursor"].clone();
            ensure(next.is_null() && answer.events()?.is_empty(), || {
                format!("next_cursor is {next}")
            })
        }),
    ),
    must(
        "sync/sample",
        SYNC,
        "sample: at most sample_size events, oldest first, without duplicates",
        run!(|peer| {
            let events = fetch(peer, json!({ "mode": "sample", "sample_size": 3 })).await?;
            ensure(events.len() <= 3, || format!("{} events", events.len()))?;
            ensure(times(&events).is_sorted(), || {
                "they are not oldest first".to_owned()
            })?;
            let unique: HashSet<_> = ids(&events).into_iter().collect();
            ensure(unique.len() == events.len(), || "an event comes twice".to_owned())
        }),
    ),
    must(
        "sync/legacy",
        SYNC,
        "any other mode is the legacy one: the newest max_events, oldest first",
        run!(|peer| {
            let newest = fetch(peer, json!({ "mode": "recent", "limit": 1 })).await?;
            for mode in ["", "PAGE", "everything"] {
                let events = fetch(peer, json!({ "mode": mode, "max_events": 2 })).await?;
                ensure(events.len() <= 2, || format!("{} events", events.len()))?;
                ensure(times(&events).is_sorted(), || {
                    "they are not oldest first".to_owned()
                })?;
                let (last, newest) = (times(&events).last().copied(), times(&newest).last().copied());
                ensure(last >= newest, || {
                    format!("mode {mode:?}: the newest event is missing")
                })?;
            }
            Ok(())
        }),
    ),
    must(
        "sync/slices",
        SYNC,
        "legacy: slices of the events do not overlap",
        run!(|peer| {
            let mut seen = HashSet::new();
            for index in 0..2 {
                let request = json!({ "slice_total": 2, "slice_index": index, "max_events": 50 });
                for id in ids(&fetch(peer, request).await?) {
                    ensure(seen.insert(id.clone()), || format!("{id} is in both slices"))?;
                }
            }
            Ok(())
        }),
    ),
    must(
        "sync/services",
        SYNC,
        "services: events of these services only",
        run!(|peer| {
            let events = fetch(
                peer,
                json!({ "mode": "recent", "limit": 50, "services": ["social"] }),
            )
            .await?;
            ensure(events.iter().all(|event| event["svc"] == "social"), || {
                "an event of another service".to_owned()
            })
        }),
    ),
    must(
        "sync/subjects",
        SYNC,
        "subjects: events with these names as actor or target only",
        run!(|peer| {
            let events = fetch(
                peer,
                json!({ "mode": "recent", "limit": 50, "subjects": ["nobody-has-this-name-0"] }),
            )
            .await?;
            ensure(events.is_empty(), || {
                format!("{} events about an unused name", events.len())
            })
        }),
    ),
    must(
        "sync/null-lists",
        SYNC,
        "lists that are null mean all",
        run!(|peer| {
            let all = fetch(
                peer,
                json!({ "mode": "page", "page_size": 1, "services": null, "subjects": null }),
            )
            .await?;
            let plain = fetch(peer, json!({ "mode": "page", "page_size": 1 })).await?;
            ensure(ids(&all) == ids(&plain), || {
                "null is not the same as absent".to_owned()
            })
        }),
    ),
    must(
        "sync/unknown-keys",
        JSON,
        "unknown keys are ignored",
        run!(|peer| {
            peer.accepts(peer.sync(json!({ "mode": "recent", "limit": 1, "new_in_v9": { "a": [1] } })))
                .await
                .map(drop)
        }),
    ),
    must(
        "sync/key-case",
        JSON,
        "keys match regardless of letter case",
        run!(|peer| {
            let body = format!(
                "{{\"FROM\":{},\"Mode\":\"recent\",\"LIMIT\":1}}",
                json!(peer.v1.name().as_str())
            );
            let answer = peer.accepts(peer.v1_signed(post("/events/sync", body))).await?;
            ensure(answer.events()?.len() <= 1, || "LIMIT was not read".to_owned())
        }),
    ),
    must(
        "sync/repeated-keys",
        JSON,
        "the last of repeated keys wins",
        run!(|peer| {
            let body = format!(
                "{{\"from\":{},\"mode\":\"recent\",\"limit\":50,\"limit\":1}}",
                json!(peer.v1.name().as_str())
            );
            let answer = peer.accepts(peer.v1_signed(post("/events/sync", body))).await?;
            ensure(answer.events()?.len() <= 1, || {
                "the first limit counted".to_owned()
            })
        }),
    ),
    must(
        "sync/trailing-bytes",
        JSON,
        "bytes after the first JSON value are ignored",
        run!(|peer| {
            let body = format!("{{\"from\":{}}} and more", json!(peer.v1.name().as_str()));
            peer.accepts(peer.v1_signed(post("/events/sync", body)))
                .await
                .map(drop)
        }),
    ),
    must(
        "sync/null-body",
        JSON,
        "a body of null is an empty object",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(post("/events/sync", "null")),
                400,
                "from is required",
            )
            .await
        }),
    ),
    must(
        "sync/empty-body",
        JSON,
        "an empty body is an error",
        run!(|peer| {
            peer.refuses_with(peer.v1_signed(post("/events/sync", "")), 400, "Invalid JSON")
                .await
        }),
    ),
    must(
        "sync/strict-integers",
        JSON,
        "\"5\", 5.0 and 5e3 are not integers",
        run!(|peer| {
            for limit in ["\"5\"", "5.0", "5e3"] {
                let body = format!(
                    "{{\"from\":{},\"limit\":{limit}}}",
                    json!(peer.v1.name().as_str())
                );
                peer.refuses_with(peer.v1_signed(post("/events/sync", body)), 400, "Invalid JSON")
                    .await?;
            }
            Ok(())
        }),
    ),
    should(
        "sync/next-after",
        "v1.md#73-post-eventssync",
        "peers with v2 answer `after` with next_after, which loses no event of equal times",
        run!(|peer| {
            let answer = first_page(peer).await?;
            let last = answer.events()?.last().cloned().unwrap_or_default();
            let after = format!("{}:{}", last["ts"], last["id"].as_str().unwrap_or_default());
            let request =
                json!({ "mode": "page", "page_size": 1, "cursor": last["ts"].to_string(), "after": after });
            let next = peer.accepts(peer.sync(request)).await?;
            let repeated = ids(&next.events()?) == ids(std::slice::from_ref(&last));
            ensure(!repeated, || {
                "the event before the cursor was repeated".to_owned()
            })?;
            let full = next.events()?.len() == 1;
            ensure(!full || next.json()?["next_after"].is_string(), || {
                "next_after is missing".to_owned()
            })
        }),
    )
    .needs(&[Need::V2]),
];

/// Returns the events of an answer.
async fn fetch(peer: &Peer, request: Value) -> Verdict<Vec<Value>> {
    peer.accepts(peer.sync(request)).await?.events()
}

/// Returns a full page of one event.
async fn first_page(peer: &Peer) -> Verdict<super::super::wire::Answer> {
    let answer = peer
        .accepts(peer.sync(json!({ "mode": "page", "page_size": 1 })))
        .await?;
    if answer.events()?.is_empty() {
        return Err(Fault::Skip("the peer has no events"));
    }
    Ok(answer)
}

fn ids(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .map(|event| event["id"].as_str().unwrap_or_default().to_owned())
        .collect()
}
