//! Printed values parse back to the same value.

use nara_proto::encoding::{base64_decode_canonical, base64_decode_lenient, base64_encode};
use nara_proto::go_json::{self, Timestamp};
use nara_proto::identity::{KeyPair, NaraId, PublicKey, Signature, Soul};
use nara_proto::sync::Cursor;
use nara_proto::time::UnixNanos;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::text;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn identities_print_and_parse_back(seed in any::<[u8; 32]>(), name in text()) {
        let soul = Soul::bond(seed, &name);
        let again: Soul = soul.expose().parse().unwrap();
        prop_assert_eq!(again.expose(), soul.expose());
        prop_assert_eq!(again.is_bonded_to(&name), !name.is_empty());

        let id = NaraId::derive(&soul, &name);
        prop_assert_eq!(id.as_str().parse::<NaraId>(), Ok(id));
        let keypair = KeyPair::from_soul(&soul);
        let key = keypair.public_key();
        prop_assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
        let signature = keypair.sign(name.as_bytes());
        let printed = signature.to_base64();
        prop_assert_eq!(Signature::from_base64(&printed), Ok(signature));
        prop_assert_eq!(Signature::from_canonical_base64(printed.as_bytes()), Ok(signature));
    }

    #[test]
    fn base64_has_one_canonical_spelling(bytes in vec(any::<u8>(), 0..40), noise in vec(any::<u8>(), 0..12)) {
        let printed = base64_encode(&bytes);
        prop_assert_eq!(base64_decode_canonical(printed.as_bytes()), Ok(bytes.clone()));
        prop_assert_eq!(base64_decode_lenient(printed.as_bytes()), Ok(bytes));
        match base64_decode_canonical(&noise) {
            Ok(bytes) => prop_assert_eq!(base64_encode(&bytes).into_bytes(), noise),
            Err(error) => prop_assert!(error.at <= noise.len()),
        }
    }

    #[test]
    fn times_print_and_parse_back(nanos in any::<i64>(), minutes in -1439..1440) {
        let time = Timestamp::new(UnixNanos::new(nanos), minutes * 60).unwrap();
        let again = Timestamp::parse(&time.to_string()).unwrap();
        prop_assert_eq!(again, time);
        prop_assert_eq!(again.to_string(), time.to_string());
        prop_assert_eq!(again.to_nanos(), Some(UnixNanos::new(nanos)));
    }

    #[test]
    fn cursors_print_and_parse_back(ts in any::<i64>(), id in text()) {
        let cursor = Cursor::new(UnixNanos::new(ts), &id);
        prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn texts_and_floats_survive_json(text in text(), bits in any::<u64>()) {
        let json = go_json::to_vec(&text);
        prop_assert_eq!(go_json::from_slice::<String>(&json).unwrap(), text);
        let value = f64::from_bits(bits);
        if value.is_finite() {
            let json = go_json::to_vec(&value);
            prop_assert_eq!(go_json::from_slice::<f64>(&json).unwrap().to_bits(), bits);
        }
    }
}
