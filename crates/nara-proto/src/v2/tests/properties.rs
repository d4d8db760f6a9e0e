use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    "[!-~é✓][ -~é✓]{0,20}[!-~é✓]"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A signed message is parsed back unchanged, verifies, and verifies for nothing else.
    #[test]
    fn a_signed_message_parses_and_verifies(
        from in name(), to in name(), path in "/[!-\"$->@-~]{0,30}", query in "[!-~]{0,30}", body: Option<Vec<u8>>,
        now in 0_i64..9_000_000_000_000, nonce: [u8; 16], channel: Option<[u8; 32]>,
    ) {
        let from = signer(&from);
        let line = RequestLine { method: "POST", path: &path, query: Some(&query) };
        let channel = channel.map(ChannelBinding::new);
        let signed_body = body.map_or(SignedBody::Streamed, |body| SignedBody::Digest(ContentDigest::of(&body)));
        let signed = from.sign_request(&RequestToSign {
            line,
            to: &Recipient::Name(to.parse().unwrap()),
            body: signed_body,
            now: UnixMillis::new(now),
            nonce: Nonce::from_bytes(nonce),
            channel,
        });
        let read = RequestSignature::from_headers(&headers(&signed)).unwrap();
        prop_assert_eq!(&read, &signed);
        let key = from.keypair().public_key();
        prop_assert_eq!(read.check_key(&key), Ok(()));
        prop_assert_eq!(read.check_time(UnixMillis::new(now)), Ok(()));
        prop_assert_eq!(read.check_channel(channel.as_ref()), Ok(()));
        prop_assert_eq!(read.check_recipient(&id("nobody"), &to.parse().unwrap()), Ok(()));
        prop_assert_eq!(read.verify_signature(&key, line), Ok(()));
        prop_assert_eq!(read.body(), signed_body);
        let longer = format!("{path}x");
        let other = RequestLine { path: &longer, ..line };
        prop_assert_eq!(read.verify_signature(&key, other), Err(SignatureError::BadSignature));
    }

    /// No bytes in any field cause a panic, and only the original ones are accepted.
    #[test]
    fn a_changed_byte_is_refused(field in 0_usize..5, at: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let mut headers = headers(&request(|_| {}));
        let field = [
            SignedField::ContentDigest,
            SignedField::Name,
            SignedField::Signature,
            SignedField::SignatureInput,
            SignedField::To,
        ][field].header();
        let before = headers[&field].clone();
        let mut bytes = before.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let after = HeaderValue::from_bytes(&bytes).unwrap();
        let is_same = before == after;
        headers.insert(field, after);
        prop_assert_eq!(receive(&headers, LINE, NOW).is_ok(), is_same);
    }

    /// No exchanged header turns a streamed body into a signed one, or a signed body into a streamed one.
    #[test]
    fn the_statement_about_the_body_cannot_be_changed(streamed: bool, body: Vec<u8>, with_marker: bool, with_digest: bool) {
        let digest = SignedBody::Digest(ContentDigest::of(&body));
        let signed_body = if streamed { SignedBody::Streamed } else { digest };
        let mut headers = headers(&request(|request| request.body = signed_body));
        headers.remove(BODY_HEADER);
        headers.remove(CONTENT_DIGEST_HEADER);
        if with_marker {
            SignedBody::Streamed.write_to(&mut headers);
        }
        if with_digest {
            let marker = headers.remove(BODY_HEADER);
            digest.write_to(&mut headers);
            headers.extend(marker.map(|marker| (BODY_HEADER, marker)));
        }
        let is_same = with_marker == streamed && with_digest != streamed;
        prop_assert_eq!(receive(&headers, LINE, NOW).is_ok(), is_same);
    }

    /// The window is the same in both directions, and no time causes a panic.
    #[test]
    fn any_time_is_judged(created: i64, now: i64) {
        let signed = request(|request| request.now = UnixMillis::new(created));
        let fresh = signed.check_time(UnixMillis::new(now)).is_ok();
        let seconds = |time: i64| UnixMillis::new(time).to_seconds();
        let apart = seconds(created).abs_diff(seconds(now)).as_secs();
        prop_assert_eq!(fresh, apart <= 30);
        let _ = RequestSignature::from_headers(&headers(&signed));
    }

    /// Parsing never panics.
    #[test]
    fn any_header_is_read(
        input: Vec<u8>, signature: Vec<u8>, digest: Vec<u8>, marker in prop_oneof![any::<Vec<u8>>(), Just(b"stream".to_vec())],
        capability: Vec<u8>, streamed: bool,
    ) {
        let mut headers = headers(&request(|request| if streamed { request.body = SignedBody::Streamed }));
        for (field, bytes) in [
            (SIGNATURE_INPUT_HEADER, input),
            (SIGNATURE_HEADER, signature),
            (CONTENT_DIGEST_HEADER, digest),
            (BODY_HEADER, marker),
            (CAPABILITY_HEADER, capability),
        ] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert(field, value);
            }
        }
        let _ = RequestSignature::from_headers(&headers);
        let _ = ResponseSignature::from_headers(&headers);
        let _ = SignedCapability::from_headers(&headers);
    }
}
