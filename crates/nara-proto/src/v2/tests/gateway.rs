//! Additions of a gateway: its own signature and digests of other algorithms.

use http::{HeaderName, HeaderValue, StatusCode};

use super::*;

const GATEWAY_INPUT: &str =
    r#"gw=("@method" "@authority" "x-forwarded-for";req);created=1769100000;keyid="gw, 1";tag="gate,way""#;
const GATEWAY_SIGNATURE: &str = "gw=:AAECAwQFBgcICQ==:";
const OTHER_DIGEST: &str = "sha-512=:AAAA:, unixsum=:AA==:";

/// Adds a member to the field: behind the existing value, before it, or as a separate line before or behind it.
fn add(headers: &mut HeaderMap, field: HeaderName, added: &str, way: u8) {
    let before = headers.remove(&field).unwrap();
    let text = before.to_str().unwrap();
    let lines = match way {
        0 => vec![format!("{text}, {added}")],
        1 => vec![format!("{added},\t{text}")],
        2 => vec![text.to_owned(), added.to_owned()],
        _ => vec![added.to_owned(), text.to_owned()],
    };
    for line in lines {
        headers.append(field.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
}

fn add_all(headers: &mut HeaderMap, way: u8) {
    add(headers, SIGNATURE_INPUT_HEADER, GATEWAY_INPUT, way);
    add(headers, SIGNATURE_HEADER, GATEWAY_SIGNATURE, way);
    add(headers, CONTENT_DIGEST_HEADER, OTHER_DIGEST, way);
}

#[test]
fn a_request_with_the_signature_and_the_digests_of_a_gateway_is_verified_by_ours() {
    for way in 0..4 {
        for channel in [None, Some(ChannelBinding::new([7; 32]))] {
            let signed = request(|request| request.channel = channel);
            let mut headers = headers(&signed);
            add_all(&mut headers, way);
            assert!(is_claimed(&headers));
            let read = RequestSignature::from_headers(&headers).unwrap();
            assert_eq!(read.base(LINE), signed.base(LINE));
            assert_eq!(read.digest(), signed.digest());
            read.verify_signature(&signer("alice").keypair().public_key(), LINE)
                .unwrap();
            let other = RequestLine { path: "/dm", ..LINE };
            assert_eq!(
                read.verify_signature(&signer("alice").keypair().public_key(), other),
                Err(SignatureError::BadSignature)
            );
        }
    }
}

#[test]
fn an_answer_with_the_signature_and_the_digests_of_a_gateway_is_verified_by_ours() {
    let question = request(|_| {});
    let answer = signer("bob").sign_response(&ResponseToSign {
        status: StatusCode::OK,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        request: question.signature(),
        now: NOW,
    });
    for way in 0..4 {
        let mut headers = HeaderMap::new();
        answer.write_to(&mut headers);
        add_all(&mut headers, way);
        let read = ResponseSignature::from_headers(&headers).unwrap();
        let key = signer("bob").keypair().public_key();
        read.verify_signature(&key, StatusCode::OK, question.signature())
            .unwrap();
        assert_eq!(
            read.verify_signature(&key, StatusCode::CREATED, question.signature()),
            Err(SignatureError::BadSignature)
        );
    }
}

#[test]
fn a_sender_that_signs_two_digests_is_verified_too() {
    let signed = request(|_| {});
    let mut headers = headers(&signed);
    add(&mut headers, CONTENT_DIGEST_HEADER, "sha-512=:AAAA:", 1);
    let whole = format!("sha-512=:AAAA:,\t{}", ContentDigest::of(BODY).to_field());
    let base = String::from_utf8(signed.base(LINE)).unwrap();
    let base = base.replace(&ContentDigest::of(BODY).to_field(), &whole);
    let signature = signer("alice").keypair().sign(base.as_bytes());
    let signature = fields::byte_sequence_text("nara=", signature.as_bytes());
    headers.insert(SIGNATURE_HEADER, fields::value(&signature));
    assert_eq!(receive(&headers, LINE, NOW), Ok(()));
    headers.insert(
        CONTENT_DIGEST_HEADER,
        fields::value(ContentDigest::of(BODY).to_field()),
    );
    assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::BadSignature));
}

#[test]
fn a_label_that_was_changed_on_the_way_still_leads_to_our_signature() {
    let mut headers = headers(&request(|_| {}));
    for field in [SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER] {
        let text = headers[&field].to_str().unwrap().replacen("nara=", "sig1=", 1);
        headers.insert(field, fields::value(text));
    }
    assert!(is_claimed(&headers));
    assert_eq!(receive(&headers, LINE, NOW), Ok(()));
}

#[test]
fn digests_of_other_algorithms_alone_prove_nothing_and_ours_comes_once() {
    const FIELD: SignedField = SignedField::ContentDigest;
    for (field, expected) in [
        (OTHER_DIGEST.to_owned(), SignatureError::Malformed(FIELD)),
        (
            format!("{0}, {0}", ContentDigest::of(BODY).to_field()),
            SignatureError::Repeated(FIELD),
        ),
        (
            format!("{}, sha-512", ContentDigest::of(b"other").to_field()),
            SignatureError::BadSignature,
        ),
        (
            format!("{}, sha-256=1", ContentDigest::of(BODY).to_field()),
            SignatureError::Repeated(FIELD),
        ),
    ] {
        let mut headers = headers(&request(|_| {}));
        headers.insert(CONTENT_DIGEST_HEADER, fields::value(&field));
        assert_eq!(receive(&headers, LINE, NOW), Err(expected), "{field}");
    }
}

#[test]
fn a_gateway_signature_alone_claims_nothing_and_an_unreadable_one_claims_ours() {
    let with = |input: &str, signature: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE_INPUT_HEADER, fields::value(input));
        headers.insert(SIGNATURE_HEADER, fields::value(signature));
        is_claimed(&headers)
    };
    assert!(!is_claimed(&HeaderMap::new()));
    assert!(!with(GATEWAY_INPUT, GATEWAY_SIGNATURE));
    for (input, signature) in [
        ("gw=();tag=\"nara-mesh\"", GATEWAY_SIGNATURE),
        ("nara=();tag=\"other\"", GATEWAY_SIGNATURE),
        (GATEWAY_INPUT, "nara=:AA==:"),
        (GATEWAY_INPUT, "gw=:AA==:, nara"),
        ("gw=(", GATEWAY_SIGNATURE),
        ("", GATEWAY_SIGNATURE),
        ("gw=(), gw=()", GATEWAY_SIGNATURE),
    ] {
        assert!(with(input, signature), "{input} {signature}");
    }
    let long = format!("gw=\"{}\"", "a".repeat(members::MAX_LEN));
    assert!(with(&long, GATEWAY_SIGNATURE));
}
