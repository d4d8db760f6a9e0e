//! The properties of every signature of the profile; each refusal has its own test in the files below.

mod bounds;
mod capability;
mod gateway;
mod hostile;
mod oracle;
mod properties;
mod rfc;
mod streamed;

use std::sync::LazyLock;

use super::fields::{BODY_HEADER, CONTENT_DIGEST_HEADER, TO_HEADER};
use super::*;
use crate::identity::{KeyPair, NaraId, PublicKey, Soul};
use crate::time::UnixMillis;

/// 2026-01-22T16:40:00.250Z.
const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

const LINE: RequestLine<'static> = RequestLine {
    method: "POST",
    path: "/events/sync",
    query: Some("a=1&b=%20"),
};

const BODY: &[u8] = b"{\"from\":\"alice\"}";

fn signer(name: &str) -> Signer {
    Signer::new(KeyPair::from_soul(&soul(name)), name.parse().unwrap())
}

fn soul(name: &str) -> Soul {
    Soul::bond([name.len() as u8; 32], name)
}

fn key(name: &str) -> PublicKey {
    KeyPair::from_soul(&soul(name)).public_key()
}

fn id(name: &str) -> NaraId {
    NaraId::derive(&soul(name), name)
}

/// Returns a request from alice to bob.
fn request<'a>(change: impl FnOnce(&mut RequestToSign<'a>)) -> RequestSignature {
    static BOB: LazyLock<Recipient> = LazyLock::new(|| Recipient::Id(id("bob")));
    let mut request = RequestToSign {
        line: LINE,
        to: &BOB,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        now: NOW,
        nonce: Nonce::new(NOW, [7; 10]),
        channel: None,
    };
    change(&mut request);
    signer("alice").sign_request(&request)
}

fn headers(signed: &RequestSignature) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed.write_to(&mut headers);
    headers
}

/// Performs all checks of a receiver except body and replay cache.
fn receive(headers: &HeaderMap, line: RequestLine<'_>, now: UnixMillis) -> Result<(), SignatureError> {
    let received = RequestSignature::from_headers(headers)?;
    received.check_time(now)?;
    received.check_recipient(&id("bob"), &"bob".parse().unwrap())?;
    received.check_channel(None)?;
    received.check_key(&key("alice"))?;
    received.verify_signature(&key("alice"), line)
}

#[test]
fn a_signed_request_is_accepted_unchanged() {
    let signed = request(|_| {});
    let headers = headers(&signed);
    assert_eq!(RequestSignature::from_headers(&headers), Ok(signed.clone()));
    assert_eq!(receive(&headers, LINE, NOW), Ok(()));
    assert_eq!(signed.digest().unwrap().check(BODY), Ok(()));
    assert_eq!(signed.digest().unwrap().check(b"{}"), Err(SignatureError::Body));
    assert_eq!(signed.signed_at(), NOW);
    assert_eq!(signed.expires().get(), 1_769_100_030);
    assert!(is_claimed(&headers));
}

#[test]
fn the_signed_bytes_are_as_documented() {
    let binding = std::array::from_fn(|index| u8::try_from(index).unwrap());
    let signed = request(|request| request.channel = Some(ChannelBinding::new(binding)));
    let expected = format!(
        "\"@method\": POST\n\"@path\": /events/sync\n\"@query\": ?a=1&b=%20\n\
         \"content-digest\": sha-256=:nZSxWakJO9hM0bR9LQcrl76voukR8T+05hDUMQDTu24=:\n\
         \"x-nara-name\": alice\n\"x-nara-to\": {}\n\
         \"x-nara-channel\": :AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:\n\
         \"@signature-params\": (\"@method\" \"@path\" \"@query\" \"content-digest\" \"x-nara-name\" \"x-nara-to\" \
         \"x-nara-channel\");created=1769100000;expires=1769100030;nonce=\"AZvmk7v6BwcHBwcHBwcHBw==\";keyid=\"{}\";\
         alg=\"ed25519\";tag=\"nara-mesh\"",
        id("bob"),
        crate::identity::KeyId::from(&key("alice")),
    );
    assert_eq!(String::from_utf8(signed.base(LINE)).unwrap(), expected);
}

#[test]
fn no_query_is_signed_as_an_empty_one() {
    let signed = request(|request| request.line.query = None);
    let base = String::from_utf8(signed.base(RequestLine { query: None, ..LINE })).unwrap();
    assert!(base.contains("\"@query\": ?\n"), "{base}");
}

#[test]
fn each_part_of_the_request_line_is_signed() {
    let headers = headers(&request(|_| {}));
    for other in [
        RequestLine {
            method: "PUT",
            ..LINE
        },
        RequestLine { path: "/dm", ..LINE },
        RequestLine { query: None, ..LINE },
        RequestLine {
            query: Some("a=1"),
            ..LINE
        },
    ] {
        assert_eq!(
            receive(&headers, other, NOW),
            Err(SignatureError::BadSignature),
            "{other:?}"
        );
    }
}

#[test]
fn each_field_is_signed() {
    let other = request(|request| {
        request.body = SignedBody::Digest(ContentDigest::of(b"{}"));
        request.nonce = Nonce::new(NOW, [8; 10]);
        request.now = UnixMillis::new(NOW.get() + 1000);
    });
    let other = headers(&other);
    for field in [CONTENT_DIGEST_HEADER, SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER] {
        let mut swapped = headers(&request(|_| {}));
        swapped.insert(field.clone(), other[&field].clone());
        assert_eq!(
            receive(&swapped, LINE, NOW),
            Err(SignatureError::BadSignature),
            "{field}"
        );
    }
    let mut swapped = headers(&request(|_| {}));
    swapped.insert(TO_HEADER, fields::value("bob"));
    assert_eq!(receive(&swapped, LINE, NOW), Err(SignatureError::BadSignature));
    let mut swapped = headers(&request(|_| {}));
    swapped.insert(crate::v1::NAME_HEADER, fields::value("alicf"));
    assert_eq!(receive(&swapped, LINE, NOW), Err(SignatureError::BadSignature));
}

#[test]
fn a_request_is_for_its_recipient_by_id_or_by_name() {
    let by_name = Recipient::Name("bob".parse().unwrap());
    assert_eq!(
        receive(&headers(&request(|request| request.to = &by_name)), LINE, NOW),
        Ok(())
    );
    for other in [
        Recipient::Id(id("carol")),
        Recipient::Name("carol".parse().unwrap()),
    ] {
        let headers = headers(&request(|request| request.to = &other));
        assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::Recipient));
    }
    let name = Recipient::Name("Ñandú, b".parse().unwrap());
    assert_eq!(name.to_string(), "%C3%91and%C3%BA%2C%20b");
}

#[test]
fn a_request_is_good_from_its_window_to_its_expiry() {
    let headers = headers(&request(|_| {}));
    let at = |seconds: i64| receive(&headers, LINE, UnixMillis::new(NOW.get() + seconds * 1000));
    assert_eq!(at(-30), Ok(()));
    assert!(matches!(at(-31), Err(SignatureError::Stale { .. })));
    assert_eq!(at(30), Ok(()));
    assert!(matches!(at(31), Err(SignatureError::Stale { .. })));
    assert_eq!(
        at(42).unwrap_err().to_string(),
        "signed at 1769100000 s, 42 s behind the receiver's clock (1769100042 s): one of the two clocks is wrong"
    );
    assert!(
        at(-42)
            .unwrap_err()
            .to_string()
            .contains("42 s ahead of the receiver's")
    );
}

#[test]
fn a_signature_is_for_its_connection() {
    let ours = ChannelBinding::new([1; 32]);
    let bound = request(|request| request.channel = Some(ours));
    let read = RequestSignature::from_headers(&headers(&bound)).unwrap();
    assert_eq!(read.check_channel(Some(&ours)), Ok(()));
    assert_eq!(read.verify_signature(&key("alice"), LINE), Ok(()));
    let other = ChannelBinding::new([2; 32]);
    assert_eq!(read.check_channel(Some(&other)), Err(SignatureError::Channel));
    assert_eq!(read.check_channel(None), Err(SignatureError::Channel));
    let unbound = request(|_| {});
    assert_eq!(unbound.check_channel(Some(&ours)), Err(SignatureError::Channel));
}

#[test]
fn another_key_than_the_known_one_is_named() {
    let error = request(|_| {}).check_key(&key("bob")).unwrap_err();
    assert!(matches!(error, SignatureError::KeyId { .. }), "{error}");
}

#[test]
fn a_nonce_without_a_time_leaves_the_second() {
    let signed = request(|request| request.nonce = Nonce::from_bytes([0xff; 16]));
    assert_eq!(signed.signed_at(), UnixMillis::new(1_769_100_000_000));
}

#[test]
fn an_answer_belongs_to_its_question_and_status() {
    let question = request(|_| {});
    let other = request(|request| request.nonce = Nonce::new(NOW, [8; 10]));
    let answer = signer("bob").sign_response(&ResponseToSign {
        status: http::StatusCode::OK,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        request: question.signature(),
        now: NOW,
    });
    let mut headers = HeaderMap::new();
    answer.write_to(&mut headers);
    let read = ResponseSignature::from_headers(&headers).unwrap();
    assert_eq!(read, answer);
    let verify = |key, status, request: &RequestSignature| {
        read.verify_signature(
            &key,
            http::StatusCode::from_u16(status).unwrap(),
            request.signature(),
        )
    };
    let bad = Err(SignatureError::BadSignature);
    assert_eq!(verify(key("bob"), 200, &question), Ok(()));
    assert_eq!(verify(key("alice"), 200, &question), bad);
    assert_eq!(verify(key("bob"), 201, &question), bad);
    assert_eq!(verify(key("bob"), 200, &other), bad);
    assert_eq!(read.check_time(NOW), Ok(()));
    assert!(read.check_time(UnixMillis::new(NOW.get() + 31_000)).is_err());
    assert_eq!(read.check_key(&key("bob")), Ok(()));
    assert!(read.check_key(&key("alice")).is_err());
    assert_eq!(read.name().as_str(), "bob");
}

#[test]
fn a_digest_in_parts_is_the_one_of_the_whole() {
    let mut hasher = DigestHasher::default();
    hasher.update(&BODY[..3]);
    hasher.update(&BODY[3..]);
    assert_eq!(hasher.finish(), ContentDigest::of(BODY));
}

#[test]
fn the_prefix_of_the_member_is_its_label() {
    assert_eq!(fields::LABEL_PREFIX, format!("{LABEL}="));
}
