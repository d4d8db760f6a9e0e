//! `world.json` and `world_next_hop.json`.

use std::collections::BTreeMap;

use nara_proto::identity::KeyPair;
use nara_proto::time::UnixNanos;
use nara_proto::world::{WorldMessage, next_hop as choose};
use sha2::{Digest as _, Sha256};

use crate::events::{decode, is_signature_of, keypair};
use crate::harness::{Case, Unreadable};

pub(crate) fn chain(case: &Case<'_>) -> Result<(), Unreadable> {
    let message: WorldMessage = decode(case)?;
    case.check("id", message.id.as_str());
    case.check("message", message.message.as_str());
    case.check("originator", message.originator.as_str());
    case.check("complete", message.is_complete());
    if case.has("start_ns") {
        let start = UnixNanos::new(case.int("start_ns")?);
        let new = WorldMessage::new(&message.originator, &message.message, start);
        case.check("id", new.id);
    }

    let mut keypairs: BTreeMap<&str, KeyPair> = BTreeMap::new();
    for fields in case.objects("participants")? {
        let participant = case.inner(fields);
        keypairs.insert(participant.text("name")?, keypair(&participant)?);
        case.absorb("participants", participant);
    }
    let outcome = message.verify_chain(|name| keypairs.get(name).map(KeyPair::public_key));
    case.check("expect", if outcome.is_ok() { "valid" } else { "invalid" });

    let hops = case.objects("hops")?;
    case.claim(
        "hops",
        "as many as in the message",
        hops.len() == message.hops().len(),
    );
    for (index, (fields, hop)) in hops.into_iter().zip(message.hops()).enumerate() {
        let case_hop = case.inner(fields);
        let signed = message.signed_json(index, &hop.nara);
        let digest = Sha256::digest(&signed);
        case_hop.check("nara", hop.nara.as_str());
        case_hop.check("timestamp", hop.timestamp.get());
        case_hop.check("stamp", hop.stamp.as_str());
        case_hop.check("signature_b64", hop.signature.as_str());
        case_hop.check("signed_json", String::from_utf8_lossy(&signed));
        case_hop.check("digest_hex", hex::encode(digest));
        if let (Ok(()), Some(keypair)) = (&outcome, keypairs.get(hop.nara.as_str())) {
            let same = is_signature_of(&hop.signature, keypair, &digest);
            case_hop.claim("signature_b64", "the one that the keypair makes", same);
        }
        case.absorb("hops", case_hop);
    }
    case.check_optional("error", outcome.err().map(|error| error.to_string()));
    Ok(())
}

pub(crate) fn next_hop(case: &Case<'_>) -> Result<(), Unreadable> {
    let mut clout = BTreeMap::new();
    for (name, score) in case.entries("clout")? {
        let score = score
            .as_f64()
            .ok_or_else(|| case.fail("clout", "a number", score.clone()))?;
        clout.insert(name, score);
    }
    let (visited, online) = (case.texts("visited")?, case.texts("online")?);
    let next = choose(
        case.text("current")?,
        case.text("originator")?,
        &visited,
        &online,
        &clout,
    );
    case.check("next", next.unwrap_or_default());
    case.check("expect", "ok");
    Ok(())
}
