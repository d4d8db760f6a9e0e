//! How answers to v1 requests are signed (docs/protocol/v1.md, section 5).

use super::super::check::{Check, Group, Need, ensure, must, run};
use super::super::peer::recent;
use super::super::wire::{get, post};

const SIGNED: &str = "v1.md#5-response-authentication";
const COMMON: &str = "v1.md#6-common-http-behaviour";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "v1-answer/200",
        SIGNED,
        "the answer is signed over its body",
        run!(|peer| { peer.signed_v1(&peer.accepts(peer.v1_signed(recent(&peer.v1))).await?) }),
    ),
    must(
        "v1-answer/empty",
        SIGNED,
        "an empty body is signed, too",
        run!(|peer| {
            let answer = peer.accepts(peer.v1_signed(post("/mesh/message", "{}"))).await?;
            ensure(answer.body.is_empty(), || "the body is not empty".to_owned())?;
            peer.signed_v1(&answer)
        }),
    ),
    must(
        "v1-answer/400",
        SIGNED,
        "error answers are signed: 400",
        run!(|peer| {
            peer.signed_v1(
                &peer
                    .refuses(peer.v1_signed(post("/events/sync", "no json")), 400)
                    .await?,
            )
        }),
    ),
    must(
        "v1-answer/405",
        SIGNED,
        "error answers are signed: 405",
        run!(|peer| {
            for path in [
                "/events/sync",
                "/gossip/zine",
                "/dm",
                "/world/relay",
                "/mesh/message",
            ] {
                let answer = peer.refuses(peer.v1_signed(get(path)), 405).await?;
                answer.is_text("Method not allowed")?;
                peer.signed_v1(&answer)?;
            }
            Ok(())
        }),
    ),
    must(
        "v1-answer/invalid-json",
        COMMON,
        "a body that cannot be decoded: 400 `Invalid JSON`",
        run!(|peer| {
            for path in ["/events/sync", "/gossip/zine", "/dm", "/world/relay"] {
                peer.refuses_with(peer.v1_signed(post(path, "{\"from\":")), 400, "Invalid JSON")
                    .await?;
            }
            Ok(())
        }),
    ),
    must(
        "v1-answer/nosniff",
        COMMON,
        "text errors carry X-Content-Type-Options: nosniff",
        run!(|peer| {
            let answer = peer.refuses(peer.v1_signed(post("/dm", "no json")), 400).await?;
            let sniff = answer.header("x-content-type-options").unwrap_or_default();
            ensure(sniff == "nosniff", || {
                format!("X-Content-Type-Options is {sniff:?}")
            })
        }),
    ),
    must(
        "v1-answer/no-v2",
        SIGNED,
        "an answer to v1 alone has no v2 signature",
        run!(|peer| {
            let answer = peer.accepts(peer.v1_signed(recent(&peer.v1))).await?;
            ensure(answer.header("signature").is_none(), || {
                "the answer has a v2 signature".to_owned()
            })
        }),
    ),
];
