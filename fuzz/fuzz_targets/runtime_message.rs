//! Runtime messages and their payloads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::nara;
use nara_proto::runtime_message::RuntimeMessage;

fuzz_target!(|json: &[u8]| {
    let Ok(message) = RuntimeMessage::from_json(json) else {
        return;
    };
    let _ = (message.verify(&nara("alice").public_key()), message.id_preimage());
    let written = message.to_json();
    let again = RuntimeMessage::from_json(&written).expect("what we write, we read");
    assert_eq!(again.to_json(), written);
});
