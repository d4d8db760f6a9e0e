//! The limits that nara-mesh grants by default (docs/protocol/README.md). Others may grant more, but not
//! unlimited amounts.

use serde_json::json;

use super::super::check::{Check, Fault, Group, Need, ensure, must, run, should};
use super::super::wire::{get, post};

const LIMITS: &str = "README.md#limits";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "limits/1-mib-body",
        LIMITS,
        "a body of just under 1 MiB is read",
        run!(|peer| {
            let filler = "x".repeat((1 << 20) - 1000);
            peer.accepts(peer.sync(json!({ "mode": "recent", "limit": 1, "filler": filler })))
                .await
                .map(drop)
        }),
    ),
    should(
        "limits/large-body",
        LIMITS,
        "a larger body is refused with 413",
        run!(|peer| {
            // A peer may answer and close the connection before it has read the whole body.
            match peer.send(&peer.v1_signed(post("/dm", vec![b' '; 4 << 20]))).await {
                Ok(answer) => answer.is(413),
                Err(Fault::Differs(_)) => Ok(()),
                Err(skipped) => Err(skipped),
            }
        }),
    ),
    should(
        "limits/large-zine",
        LIMITS,
        "zines may have 16 MiB",
        run!(|peer| {
            let body = format!("{}{{\"from\":", " ".repeat(2 << 20));
            peer.refuses_with(peer.v1_signed(post("/gossip/zine", body)), 400, "Invalid JSON")
                .await
        }),
    ),
    should(
        "limits/large-header",
        LIMITS,
        "a header of more than 16 KiB is refused, or the connection closed",
        run!(|peer| {
            match peer
                .send(&get("/ping").with("x-filler", "x".repeat(64 << 10)))
                .await
            {
                Ok(answer) => answer.is_one_of(&[400, 431]),
                Err(Fault::Differs(_)) => Ok(()),
                Err(skipped) => Err(skipped),
            }
        }),
    ),
    should(
        "limits/long-list",
        LIMITS,
        "a JSON list of more than 100,000 elements is refused with 400",
        run!(|peer| {
            let services = vec!["a"; 100_001];
            peer.refuses(peer.sync(json!({ "services": services })), 400)
                .await
                .map(drop)
        }),
    ),
    must(
        "limits/deep-json",
        LIMITS,
        "deeply nested JSON is answered, and does not end the peer",
        run!(|peer| {
            let nested = "[".repeat(100_000);
            let body = format!("{{\"from\":{nested}");
            peer.send(&peer.v1_signed(post("/events/sync", body)))
                .await?
                .is(400)?;
            peer.accepts(get("/ping")).await.map(drop)
        }),
    ),
    should(
        "limits/long-name",
        LIMITS,
        "a name of more than 1,024 bytes is refused with 401",
        run!(|peer| {
            let draft = peer.sync(json!({})).with("x-nara-name", "n".repeat(2000));
            peer.refuses(draft, 401).await.map(drop)
        }),
    ),
    must(
        "limits/still-there",
        LIMITS,
        "after all of this, the peer answers as before",
        run!(|peer| {
            let answer = peer
                .accepts(peer.sync(json!({ "mode": "recent", "limit": 1 })))
                .await?;
            peer.signed_v1(&answer)?;
            ensure(answer.events()?.len() <= 1, || {
                "more events than were asked for".to_owned()
            })
        }),
    ),
];
