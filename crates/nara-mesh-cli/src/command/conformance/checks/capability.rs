//! What a peer announces in its `/ping` answer (docs/protocol/v2.md, section 5).

use nara_proto::v2::SignedCapability;

use super::super::check::{Check, Fault, Group, Need, Verdict, differs, ensure, must, run, should};
use super::super::peer::Peer;
use super::super::wire::{Answer, get};

const CAPABILITY: &str = "v2.md#5-learning-that-a-peer-speaks-v2";

pub(super) const GROUP: Group = Group {
    needs: &[],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "capability/form",
        CAPABILITY,
        "the header is a dictionary of RFC 9651 with at most 1,024 bytes, once",
        run!(|peer| {
            let answer = announcement(peer).await?;
            let count = answer.headers.get_all("x-nara-capability").iter().count();
            ensure(count == 1, || format!("it occurs {count} times"))?;
            signed(&answer).map(drop)
        }),
    ),
    must(
        "capability/proof",
        CAPABILITY,
        "proof is a signature of the key over key, name and statement, and fresh",
        run!(|peer| {
            let answer = announcement(peer).await?;
            let signed = signed(&answer)?;
            let verified = signed.verify(&peer.name, &peer.key, peer.now());
            verified.map(drop).map_err(|error| differs(error.to_string()))
        }),
    ),
    must(
        "capability/proof-is-last",
        CAPABILITY,
        "proof is the last member",
        run!(|peer| {
            let text = announcement(peer)
                .await?
                .header("x-nara-capability")
                .unwrap_or_default();
            let last = text.rsplit(", ").next().unwrap_or_default();
            ensure(last.starts_with("proof=:"), || {
                format!("the last member is {last:?}")
            })
        }),
    ),
    must(
        "capability/words",
        CAPABILITY,
        "signatures has v2, if anything is announced",
        run!(|peer| {
            let answer = announcement(peer).await?;
            let capability = signed(&answer)?.unverified().clone();
            ensure(capability.v2, || "signatures does not have v2".to_owned())
        }),
    ),
    should(
        "capability/stable",
        CAPABILITY,
        "the id does not change",
        run!(|peer| {
            let answer = announcement(peer).await?;
            let id = signed(&answer)?.unverified().id.clone();
            let known = peer.capability.as_ref().map(|capability| &capability.id);
            ensure(known == Some(&id), || format!("the id is now {id}"))
        }),
    )
    .needs(&[Need::V2]),
];

async fn announcement(peer: &Peer) -> Verdict<Answer> {
    let answer = peer.accepts(get("/ping")).await?;
    if answer.header("x-nara-capability").is_none() {
        return Err(Fault::Skip("the peer announces only v1"));
    }
    Ok(answer)
}

fn signed(answer: &Answer) -> Verdict<SignedCapability> {
    let signed =
        SignedCapability::from_headers(&answer.headers).map_err(|error| differs(error.to_string()))?;
    signed.ok_or_else(|| differs("the header is missing"))
}
