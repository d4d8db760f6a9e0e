//! The smaller bodies: zines, imports, attestations, and the answers of open endpoints.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, nara, read_twice};
use nara_proto::checkpoint::Attestation;
use nara_proto::identity::PublicKey;
use nara_proto::import::{ImportRequest, ImportResponse};
use nara_proto::peer::{CheckpointsResponse, CoordinatesResponse, PeerQueryResponse, PingResponse, Receipt};
use nara_proto::zine::Zine;

fuzz_target!(|json: &[u8]| {
    let key = nara("alice").public_key();
    if let Some(zine) = read_twice::<Zine>(json) {
        let _ = zine.verify(&key);
    }
    if let Some(request) = read_twice::<ImportRequest>(json) {
        let _ = request.verify(&key, NOW);
    }
    if let Some(attestation) = read_twice::<Attestation>(json) {
        let _ = (attestation.verify(&key), attestation.is_self_attestation());
    }
    if let Some(answer) = read_twice::<PingResponse>(json) {
        let _ = PublicKey::from_base64(&answer.public_key);
    }
    let _ = read_twice::<ImportResponse>(json);
    let _ = read_twice::<CheckpointsResponse>(json);
    let _ = read_twice::<CoordinatesResponse>(json);
    let _ = read_twice::<PeerQueryResponse>(json);
    let _ = read_twice::<Receipt>(json);
});
