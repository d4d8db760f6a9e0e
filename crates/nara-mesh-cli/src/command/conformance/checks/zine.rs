//! `POST /gossip/zine` (docs/protocol/v1.md, sections 7.4 and 10). The zines are empty, so nothing is stored.

use nara_mesh::identity::LocalNara;
use nara_proto::go_json;
use nara_proto::zine::Zine;

use super::super::check::{Check, Group, Need, differs, ensure, known, must, run, should};
use super::super::peer::{Peer, times};
use super::super::wire::post;

const ZINE: &str = "v1.md#74-post-gossipzine";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "zine/from-is-required",
        ZINE,
        "without from: 400 `from is required`",
        run!(|peer| {
            peer.refuses_with(
                peer.v1_signed(post("/gossip/zine", "{}")),
                400,
                "from is required",
            )
            .await
        }),
    ),
    must(
        "zine/unsigned",
        ZINE,
        "without a signature, where the key is known: 403 `Invalid signature`",
        run!(|peer| {
            let zine = Zine {
                signature: String::new(),
                ..empty(peer, &peer.v1)
            };
            peer.refuses_with(peer.v1_signed(draft(&zine)), 403, "Invalid signature")
                .await
        }),
    ),
    must(
        "zine/wrong-signature",
        ZINE,
        "with a signature over other data: 403 `Invalid signature`",
        run!(|peer| {
            let mut zine = empty(peer, &peer.v1);
            zine.created_at = nara_proto::time::UnixSeconds::new(zine.created_at.get() - 1);
            peer.refuses_with(peer.v1_signed(draft(&zine)), 403, "Invalid signature")
                .await
        }),
    ),
    must(
        "zine/answer",
        ZINE,
        "200 with the zine of the responder, signed",
        run!(|peer| {
            let answer = peer
                .accepts(peer.v1_signed(draft(&empty(peer, &peer.v1))))
                .await?;
            peer.signed_v1(&answer)?;
            let zine: Zine = go_json::from_slice(&answer.body)
                .map_err(|error| differs(format!("the answer is not a zine: {error}")))?;
            ensure(zine.from == peer.name.as_str(), || {
                format!("from is {:?}", zine.from)
            })?;
            zine.verify(&peer.key)
                .map_err(|error| differs(format!("the signature of the zine: {error}")))
        }),
    ),
    must(
        "zine/recent",
        ZINE,
        "the events of the last five minutes",
        run!(|peer| {
            let answer = peer
                .accepts(peer.v1_signed(draft(&empty(peer, &peer.v1))))
                .await?;
            // One minute more than five, because the clocks may differ.
            let oldest = (peer.now().get() - 360_000) * 1_000_000;
            ensure(times(&answer.events()?).iter().all(|ts| *ts >= oldest), || {
                "an event is too old".to_owned()
            })
        }),
    ),
    should(
        "zine/null-events",
        "v1.md#10-zines",
        "events may be null",
        run!(|peer| {
            let zine = Zine {
                events: None,
                ..empty(peer, &peer.v1)
            };
            peer.accepts(peer.v1_signed(draft(&zine))).await.map(drop)
        }),
    ),
    known(
        "zine/other-from",
        ZINE,
        "from need not be the authenticated sender",
        run!(|peer| {
            let other = LocalNara::generate("somebody-else").map_err(|error| differs(error.to_string()))?;
            peer.accepts(peer.v1_signed(draft(&empty(peer, &other))))
                .await
                .map(drop)
        }),
    ),
];

fn empty(peer: &Peer, nara: &LocalNara) -> Zine {
    Zine::signed(
        nara.name().as_str(),
        peer.now().to_seconds(),
        Vec::new(),
        nara.keypair(),
    )
}

fn draft(zine: &Zine) -> super::super::wire::Draft {
    post("/gossip/zine", go_json::to_vec(zine))
}
