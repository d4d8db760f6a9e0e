//! `POST /world/relay` (docs/protocol/v1.md, sections 7.6 and 9).

use nara_mesh::identity::LocalNara;
use nara_proto::go_json;
use nara_proto::identity::KeyPair;
use nara_proto::world::WorldMessage;

use super::super::check::{Check, Group, Need, Verdict, differs, ensure, must, run};
use super::super::peer::Peer;
use super::super::wire::{Draft, post};

const RELAY: &str = "v1.md#76-post-worldrelay";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "world/unknown-hop",
        RELAY,
        "a hop without a known key: 400 `chain verification failed: unknown public key for …`",
        run!(|peer| {
            let stranger = LocalNara::generate("a-stranger-of-conformance")
                .map_err(|error| differs(error.to_string()))?;
            let mut message = postcard(peer);
            stamp(&mut message, stranger.name().as_str(), stranger.keypair(), peer)?;
            let answer = peer.refuses(draft(peer, &message), 400).await?;
            answer.begins_with("chain verification failed: unknown public key for a-stranger-of-conformance")
        }),
    ),
    must(
        "world/wrong-hop",
        RELAY,
        "a hop whose signature does not verify: 400 `chain verification failed: …`",
        run!(|peer| {
            let thief =
                LocalNara::generate(peer.v1.name().as_str()).map_err(|error| differs(error.to_string()))?;
            let mut message = postcard(peer);
            stamp(&mut message, thief.name().as_str(), thief.keypair(), peer)?;
            let answer = peer.refuses(draft(peer, &message), 400).await?;
            answer.begins_with("chain verification failed: invalid signature from ")
        }),
    ),
    must(
        "world/no-base64",
        RELAY,
        "a hop whose signature is not base64: 400 `chain verification failed: …`",
        run!(|peer| {
            let mut message = postcard(peer);
            stamp(&mut message, peer.v1.name().as_str(), peer.v1.keypair(), peer)?;
            for hop in message.hops.iter_mut().flatten() {
                hop.signature = "!".to_owned();
            }
            let answer = peer.refuses(draft(peer, &message), 400).await?;
            answer.begins_with("chain verification failed: invalid signature encoding for ")
        }),
    ),
    must(
        "world/refusal-is-signed",
        "v1.md#5-response-authentication",
        "error answers are signed: 400",
        run!(|peer| {
            let mut message = postcard(peer);
            stamp(&mut message, "a-stranger-of-conformance", peer.v1.keypair(), peer)?;
            peer.signed_v1(&peer.refuses(draft(peer, &message), 400).await?)
        }),
    ),
    must(
        "world/travels",
        RELAY,
        "a postcard is passed on: 200, or 400 `journey stuck …` or `failed to forward …`",
        run!(|peer| {
            let answer = peer.send(&draft(peer, &postcard(peer))).await?;
            answer.is_one_of(&[200, 400])?;
            if answer.status == 200 {
                return answer.has_keys(&["from", "success"]);
            }
            let text = answer.text();
            ensure(
                text.starts_with("journey stuck") || text.starts_with("failed to forward"),
                || format!("the body is {text:?}"),
            )
        }),
    )
    .needs(&[Need::Write]),
];

fn stamp(message: &mut WorldMessage, name: &str, keypair: &KeyPair, peer: &Peer) -> Verdict {
    let stamped = message.add_hop(name, peer.now().to_seconds(), keypair);
    stamped.map_err(|error| differs(error.to_string()))
}

fn postcard(peer: &Peer) -> WorldMessage {
    WorldMessage::new(peer.v1.name().as_str(), "conformance", peer.now().to_nanos())
}

fn draft(peer: &Peer, message: &WorldMessage) -> Draft {
    peer.v1_signed(post("/world/relay", go_json::to_vec(message)))
}
