//! World messages and their signature chains.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, nara, read_twice};
use nara_proto::world::WorldMessage;

fuzz_target!(|json: &[u8]| {
    let Some(mut message) = read_twice::<WorldMessage>(json) else {
        return;
    };
    let alice = nara("alice");
    let key = alice.public_key();
    let _ = (
        message.verify_chain(|_| None),
        message.verify_chain(|_| Some(key)),
        message.is_complete(),
    );
    // Whatever the message is, the first hop added to an empty chain verifies.
    message.hops = None;
    let added = message.add_hop("alice", NOW.to_seconds(), alice.keypair());
    if added.is_ok() && message.id.len() >= nara_proto::world::MIN_ID_LEN {
        assert!(message.verify_chain(|_| Some(key)).is_ok());
    }
});
