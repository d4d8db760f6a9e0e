//! Profile v2: signatures of requests and answers, digests, channels, and the capability of `/ping`.
#![no_main]

use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, first_line, headers, nara};
use nara_proto::v2::{RequestLine, RequestSignature, ResponseSignature, SignedCapability};

/// Checks that serializing the parsed headers reproduces them: a message has exactly one spelling.
fn same(read: &HeaderMap, written: &HeaderMap) {
    for (name, value) in written {
        assert_eq!(
            read.get(name).map(|value| value.as_bytes()),
            Some(value.as_bytes()),
            "{name}"
        );
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (target, lines) = first_line(bytes);
    let target = String::from_utf8_lossy(target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let headers = headers(lines);
    let alice = nara("alice");
    let key = alice.public_key();
    if let Ok(request) = RequestSignature::from_headers(&headers) {
        let line = RequestLine {
            method: "POST",
            path,
            query,
        };
        let _ = (
            request.check_time(NOW),
            request.check_key(&key),
            request.check_channel(None),
        );
        let _ = (
            request.check_recipient(alice.id(), alice.name()),
            request.signed_at(),
        );
        let _ = (
            request.verify_signature(&key, line),
            request.digest().and_then(|digest| digest.check(lines)),
        );
        assert!(request.expires() >= request.created());
        let mut written = HeaderMap::new();
        request.write_to(&mut written);
        same(&headers, &written);
        assert_eq!(RequestSignature::from_headers(&written).as_ref(), Ok(&request));
        if let Ok(response) = ResponseSignature::from_headers(&headers) {
            let _ = response.verify_signature(&key, StatusCode::OK, request.signature());
        }
    }
    if let Ok(response) = ResponseSignature::from_headers(&headers) {
        let _ = (response.check_time(NOW), response.check_key(&key));
        let mut written = HeaderMap::new();
        response.write_to(&mut written);
        same(&headers, &written);
        assert_eq!(ResponseSignature::from_headers(&written), Ok(response));
    }
    if let Ok(Some(capability)) = SignedCapability::from_headers(&headers) {
        let _ = capability.verify(alice.name(), &key, NOW);
        let mut written = HeaderMap::new();
        written.insert(nara_proto::v2::CAPABILITY_HEADER, capability.to_field());
        same(&headers, &written);
    }
});
