//! The last accepted and the first refused value of each bound.

use super::*;
use crate::identity::NaraName;

fn longest_name() -> NaraName {
    // Each byte of the name takes three in the header.
    "é".repeat(NaraName::MAX_LEN / 2).parse().unwrap()
}

#[test]
fn the_longest_name_can_be_sender_and_recipient() {
    let name = longest_name();
    let to = Recipient::Name(name.clone());
    let signer = Signer::new(KeyPair::from_soul(&soul("alice")), name.clone());
    let signed = signer.sign_request(&RequestToSign {
        line: LINE,
        to: &to,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        now: NOW,
        nonce: Nonce::new(NOW, [7; 10]),
        channel: None,
    });
    let read = RequestSignature::from_headers(&headers(&signed)).unwrap();
    assert_eq!((read.name(), read.to()), (&name, to.to_string().as_str()));
    assert_eq!(read.to().len(), 3 * NaraName::MAX_LEN);
    assert_eq!(read.check_recipient(&id("bob"), &name), Ok(()));
    assert_eq!(read.verify_signature(&key("alice"), LINE), Ok(()));
}

#[test]
fn a_field_is_read_up_to_its_bound() {
    for field in [
        SignedField::Body,
        SignedField::Channel,
        SignedField::ContentDigest,
        SignedField::Name,
        SignedField::Signature,
        SignedField::SignatureInput,
        SignedField::To,
    ] {
        let read = |length| {
            let mut headers = HeaderMap::new();
            headers.insert(field.header(), fields::value("a".repeat(length)));
            fields::optional(&headers, field).map(|value| value.is_some())
        };
        assert_eq!(read(field.max_len()), Ok(true));
        assert_eq!(read(field.max_len() + 1), Err(SignatureError::TooLong(field)));
    }
}

#[test]
fn an_answer_is_good_within_its_window() {
    let question = request(|_| {});
    let answer = signer("bob").sign_response(&ResponseToSign {
        status: http::StatusCode::OK,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        request: question.signature(),
        now: NOW,
    });
    let at = |seconds: i64| answer.check_time(UnixMillis::new(NOW.get() + seconds * 1000));
    assert_eq!((at(-30), at(30)), (Ok(()), Ok(())));
    assert!(matches!(at(-31), Err(SignatureError::Stale { .. })));
    assert!(matches!(at(31), Err(SignatureError::Stale { .. })));
}

#[test]
fn a_capability_is_good_within_its_window() {
    let signed = signer("alice").sign_capability(&capability::capability());
    let name = "alice".parse().unwrap();
    let at = |millis: i64| {
        let outcome = signed.verify(&name, &key("alice"), UnixMillis::new(NOW.get() + millis));
        outcome.map(drop)
    };
    assert_eq!((at(-30_000), at(30_000)), (Ok(()), Ok(())));
    assert_eq!(at(-30_001), Err(CapabilityError::Stale));
    assert_eq!(at(30_001), Err(CapabilityError::Stale));
}

#[test]
fn a_capability_is_read_up_to_its_bound() {
    let short = capability::field();
    for (length, is_read) in [(1024, true), (1025, false)] {
        // Unknown members are skipped.
        let filler = "a".repeat(length - short.len() - ", x=".len());
        let long = short.replacen(", proof", &format!(", x={filler}, proof"), 1);
        assert_eq!(long.len(), length);
        assert_eq!(capability::received(&long).is_ok(), is_read);
    }
}

#[test]
fn a_missing_field_is_called_by_its_name() {
    for (field, name) in [
        (SignedField::Body, "X-Nara-Body"),
        (SignedField::Channel, "X-Nara-Channel"),
        (SignedField::ContentDigest, "Content-Digest"),
        (SignedField::Name, "X-Nara-Name"),
        (SignedField::Signature, "Signature"),
        (SignedField::SignatureInput, "Signature-Input"),
        (SignedField::To, "X-Nara-To"),
    ] {
        assert!(SignatureError::Missing(field).to_string().contains(name));
        assert_eq!(field.header().as_str(), name.to_lowercase());
    }
}
