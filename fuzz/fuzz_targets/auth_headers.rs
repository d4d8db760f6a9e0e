//! The three headers of v1, on requests and on answers.
#![no_main]

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, first_line, headers, nara};
use nara_proto::v1::{RequestAuth, ResponseAuth};

fuzz_target!(|bytes: &[u8]| {
    let (path, lines) = first_line(bytes);
    let path = String::from_utf8_lossy(path);
    let headers = headers(lines);
    let key = nara("alice").public_key();
    if let Ok(auth) = RequestAuth::from_headers(&headers) {
        let _ = auth.verify(&key, "POST", &path, NOW);
        let _ = auth.verify_signature(&key, "POST", &path);
        let mut written = HeaderMap::new();
        auth.write_to(&mut written);
        // A request has exactly one spelling (defect G19).
        for (name, value) in &written {
            assert_eq!(
                headers.get(name).map(|value| value.as_bytes()),
                Some(value.as_bytes())
            );
        }
    }
    if let Ok(auth) = ResponseAuth::from_headers(&headers) {
        let _ = auth.verify(&key, path.as_bytes(), NOW);
        let _ = auth.verify_signature(&key, path.as_bytes());
    }
});
