//! `POST /mesh/message` (docs/protocol/v1.md, sections 7.7 and 12).

use nara_proto::go_json::Timestamp;
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage, StashRequest};

use super::super::check::{Check, Group, Need, Verdict, ensure, must, run};
use super::super::peer::Peer;
use super::super::wire::post;

const MESSAGE: &str = "v1.md#77-post-meshmessage";
const RECEIVING: &str = "v1.md#123-receiving";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "message/nonsense",
        MESSAGE,
        "any body: 200 with an empty body",
        run!(|peer| { taken(peer, b"this is no message".to_vec()).await }),
    ),
    must(
        "message/empty",
        MESSAGE,
        "an empty body: 200 with an empty body",
        run!(|peer| { taken(peer, Vec::new()).await }),
    ),
    must(
        "message/unknown-kind",
        RECEIVING,
        "an unknown kind is dropped: 200 with an empty body",
        run!(|peer| {
            let message = String::from_utf8_lossy(&stash_request(peer).to_json())
                .replace("stash:request", "stash:invented");
            taken(peer, message.into_bytes()).await
        }),
    ),
    must(
        "message/wrong-signature",
        RECEIVING,
        "a signature that does not verify: dropped, 200 with an empty body",
        run!(|peer| {
            let message = RuntimeMessage {
                id: "0000000000000000".to_owned(),
                ..stash_request(peer)
            };
            taken(peer, message.to_json()).await
        }),
    ),
    must(
        "message/not-found",
        "v1.md#124-replies",
        "a stash that does not exist: 200 with an empty body, the reply comes as a request",
        run!(|peer| { taken(peer, stash_request(peer).to_json()).await }),
    ),
];

async fn taken(peer: &Peer, body: Vec<u8>) -> Verdict {
    let answer = peer.accepts(peer.v1_signed(post("/mesh/message", body))).await?;
    ensure(answer.body.is_empty(), || "the body is not empty".to_owned())
}

fn stash_request(peer: &Peer) -> RuntimeMessage {
    let id = peer.v1.id().as_str();
    let payload = MessagePayload::StashRequest(StashRequest {
        owner_id: id.to_owned(),
        request_id: "conformance".to_owned(),
    });
    RuntimeMessage::new(
        peer.v1.name().as_str(),
        id,
        Timestamp::utc(peer.now().to_nanos()),
        payload,
    )
    .to(peer.name.as_str(), "")
    .sign(peer.v1.keypair())
}
