//! How answers to v2 requests are signed (docs/protocol/v2.md, section 2).

use nara_proto::sync::SyncResponse;

use super::super::check::{Check, Group, Need, differs, ensure, must, run, should};
use super::super::peer::recent;
use super::super::signing::v1;
use super::super::wire::{get, post};

const ANSWERS: &str = "v2.md#2-answers";

pub(super) const GROUP: Group = Group {
    needs: &[Need::V2, Need::KnowsV2],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "v2-answer/200",
        ANSWERS,
        "the answer is signed, and bound to its request",
        run!(|peer| {
            let request = peer.v2_signed(recent(&peer.v2));
            peer.bound(&request, &peer.accepts(request.clone()).await?)
        }),
    ),
    must(
        "v2-answer/400",
        ANSWERS,
        "error answers are signed: 400",
        run!(|peer| {
            let request = peer.v2_signed(post("/events/sync", "no json"));
            peer.bound(&request, &peer.refuses(request.clone(), 400).await?)
        }),
    ),
    must(
        "v2-answer/405",
        ANSWERS,
        "error answers are signed: 405",
        run!(|peer| {
            let request = peer.v2_signed(get("/gossip/zine"));
            peer.bound(&request, &peer.refuses(request.clone(), 405).await?)
        }),
    ),
    must(
        "v2-answer/empty",
        ANSWERS,
        "an empty body is signed, too",
        run!(|peer| {
            let request = peer.v2_signed(post("/mesh/message", "{}"));
            peer.bound(&request, &peer.accepts(request.clone()).await?)
        }),
    ),
    must(
        "v2-answer/not-anothers",
        ANSWERS,
        "an answer verifies for its own request only",
        run!(|peer| {
            let request = peer.v2_signed(recent(&peer.v2));
            let answer = peer.accepts(request.clone()).await?;
            let other = peer.v2_signed(recent(&peer.v2));
            ensure(peer.bound(&other, &answer).is_err(), || {
                "it verifies for another request".to_owned()
            })
        }),
    ),
    must(
        "v2-answer/both",
        ANSWERS,
        "a request with both signatures gets both",
        run!(|peer| {
            let request = peer.v2_signed(v1(recent(&peer.v2), &peer.v2, peer.now()));
            let answer = peer.accepts(request.clone()).await?;
            peer.bound(&request, &answer)?;
            peer.signed_v1(&answer)
        }),
    ),
    should(
        "v2-answer/inner-signature",
        ANSWERS,
        "an answer to v2 alone has no inner sig, or a valid one",
        run!(|peer| {
            let answer = peer.accepts(peer.v2_signed(recent(&peer.v2))).await?;
            let response: SyncResponse = nara_proto::go_json::from_slice(&answer.body)
                .map_err(|error| differs(format!("the answer cannot be read: {error}")))?;
            let valid = response.sig.is_empty() || response.verify(&peer.key).is_ok();
            ensure(valid, || "sig does not verify".to_owned())
        }),
    ),
];
