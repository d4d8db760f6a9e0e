//! Messages with a streamed body: the signature proves the head and states that it does not prove the body.

use http::{HeaderValue, StatusCode};

use super::*;

fn streamed() -> HeaderMap {
    headers(&request(|request| request.body = SignedBody::Streamed))
}

#[test]
fn a_streamed_request_is_proven_at_its_head() {
    let headers = streamed();
    assert_eq!(headers[BODY_HEADER], "stream");
    assert!(!headers.contains_key(CONTENT_DIGEST_HEADER));
    assert_eq!(receive(&headers, LINE, NOW), Ok(()));
    let other = RequestLine { path: "/dm", ..LINE };
    assert_eq!(receive(&headers, other, NOW), Err(SignatureError::BadSignature));
}

#[test]
fn the_signed_bytes_name_the_marker_in_place_of_the_digest() {
    for channel in [None, Some(ChannelBinding::new([7; 32]))] {
        let digest = request(|request| request.channel = channel);
        let streamed = request(|request| {
            request.channel = channel;
            request.body = SignedBody::Streamed;
        });
        let expected = String::from_utf8(digest.base(LINE)).unwrap();
        let expected = expected
            .replace(&ContentDigest::of(BODY).to_field(), "stream")
            .replace("content-digest", "x-nara-body");
        assert_eq!(String::from_utf8(streamed.base(LINE)).unwrap(), expected);
    }
}

#[test]
fn a_receiver_that_takes_no_streams_refuses_one() {
    let signed = RequestSignature::from_headers(&streamed()).unwrap();
    assert_eq!(signed.body(), SignedBody::Streamed);
    assert_eq!(signed.digest(), Err(SignatureError::Streamed));
}

#[test]
fn exactly_one_header_stands_for_the_body() {
    let mut both = streamed();
    both.insert(
        CONTENT_DIGEST_HEADER,
        fields::value(ContentDigest::of(BODY).to_field()),
    );
    assert_eq!(receive(&both, LINE, NOW), Err(SignatureError::TwoBodies));
    let mut both = headers(&request(|_| {}));
    both.insert(BODY_HEADER, HeaderValue::from_static("stream"));
    assert_eq!(receive(&both, LINE, NOW), Err(SignatureError::TwoBodies));

    let mut none = streamed();
    none.remove(BODY_HEADER);
    assert_eq!(
        receive(&none, LINE, NOW),
        Err(SignatureError::Missing(SignedField::ContentDigest))
    );
    let mut twice = streamed();
    twice.append(BODY_HEADER, HeaderValue::from_static("stream"));
    assert_eq!(
        receive(&twice, LINE, NOW),
        Err(SignatureError::Repeated(SignedField::Body))
    );
}

#[test]
fn the_marker_has_one_spelling() {
    for other in [
        "Stream",
        "stream ",
        " stream",
        "streamed",
        "?1",
        "\"stream\"",
        "stream;a",
        "",
    ] {
        let mut headers = streamed();
        headers.insert(BODY_HEADER, HeaderValue::from_static(other));
        assert_eq!(
            receive(&headers, LINE, NOW),
            Err(SignatureError::Malformed(SignedField::Body)),
            "{other:?}"
        );
    }
}

#[test]
fn a_signed_body_cannot_be_turned_into_a_streamed_one() {
    let swap = |from: &RequestSignature, to: SignedBody| {
        let mut swapped = headers(from);
        to.write_to(&mut swapped);
        receive(&swapped, LINE, NOW)
    };
    let digest = SignedBody::Digest(ContentDigest::of(BODY));
    let signed = request(|_| {});
    assert!(matches!(
        swap(&signed, SignedBody::Streamed),
        Err(SignatureError::Components { .. })
    ));
    let signed = request(|request| request.body = SignedBody::Streamed);
    assert!(matches!(
        swap(&signed, digest),
        Err(SignatureError::Components { .. })
    ));
    // With the list of components changed as well, the signature covers other bytes.
    let mut forged = headers(&request(|_| {}));
    SignedBody::Streamed.write_to(&mut forged);
    let input = forged[SIGNATURE_INPUT_HEADER].to_str().unwrap();
    let input = fields::value(input.replace("content-digest", "x-nara-body"));
    forged.insert(SIGNATURE_INPUT_HEADER, input);
    assert_eq!(receive(&forged, LINE, NOW), Err(SignatureError::BadSignature));
}

#[test]
fn a_streamed_answer_is_proven_at_its_head() {
    let question = request(|_| {});
    let sign = |body| {
        signer("bob").sign_response(&ResponseToSign {
            status: StatusCode::OK,
            body,
            request: question.signature(),
            now: NOW,
        })
    };
    let mut headers = HeaderMap::new();
    sign(SignedBody::Streamed).write_to(&mut headers);
    let read = ResponseSignature::from_headers(&headers).unwrap();
    assert_eq!(
        (read.body(), read.digest()),
        (SignedBody::Streamed, Err(SignatureError::Streamed))
    );
    let verify = |status| read.verify_signature(&key("bob"), status, question.signature());
    assert_eq!(verify(StatusCode::OK), Ok(()));
    assert_eq!(verify(StatusCode::ACCEPTED), Err(SignatureError::BadSignature));

    // Existing headers of the answer are replaced, including the other header about the body.
    sign(SignedBody::Digest(ContentDigest::of(BODY))).write_to(&mut headers);
    let read = ResponseSignature::from_headers(&headers).unwrap();
    assert_eq!(read.digest(), Ok(ContentDigest::of(BODY)));
    SignedBody::Streamed.write_to(&mut headers);
    assert!(matches!(
        ResponseSignature::from_headers(&headers),
        Err(SignatureError::Components { .. })
    ));
}

#[test]
fn a_request_says_which_answer_it_accepts() {
    let mut headers = HeaderMap::new();
    assert_eq!(AcceptSignature::from_headers(&headers), None);
    for accepts in [AcceptSignature::Streamed, AcceptSignature::Digest] {
        accepts.write_to(&mut headers);
        assert_eq!(AcceptSignature::from_headers(&headers), Some(accepts));
    }
    let of_a_later_version = HeaderValue::from_static("nara=(\"@status\" \"x-nara-body\" \"date\")");
    headers.insert("accept-signature", of_a_later_version);
    assert_eq!(
        AcceptSignature::from_headers(&headers),
        Some(AcceptSignature::Digest)
    );
}
