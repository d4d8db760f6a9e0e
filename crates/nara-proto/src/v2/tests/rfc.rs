//! The vectors of the RFCs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;
use crate::identity::Signature;
use crate::v2::input::SignatureBase;

/// RFC 9421, appendix B.1.4.
const PRIVATE: &str = "n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU";
const PUBLIC: &str = "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs";

/// RFC 9421, appendix B.2.6.
const PARAMS: &str = r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
const SIGNATURE: &str =
    "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";

#[test]
fn the_base_and_the_signature_of_the_standard() {
    let mut base = SignatureBase::new();
    base.component("\"date\"", "Tue, 20 Apr 2021 02:07:55 GMT")
        .component("\"@method\"", "POST")
        .component("\"@path\"", "/foo")
        .component("\"@authority\"", "example.com")
        .component("\"content-type\"", "application/json")
        .component("\"content-length\"", "18");
    let base = base.finish(PARAMS);

    let seed: [u8; 32] = URL_SAFE_NO_PAD.decode(PRIVATE).unwrap().try_into().unwrap();
    let keypair = KeyPair::from_soul(&Soul::bond(seed, "rfc"));
    assert_eq!(
        keypair.public_key().as_bytes()[..],
        URL_SAFE_NO_PAD.decode(PUBLIC).unwrap()
    );
    let signature = Signature::from_canonical_base64(SIGNATURE.as_bytes()).unwrap();
    assert_eq!(keypair.sign(&base), signature);
    assert_eq!(keypair.public_key().verify(&base, &signature), Ok(()));
}

#[test]
fn a_good_signature_of_another_profile_is_refused() {
    let mut headers = headers(&request(|_| {}));
    headers.insert(SIGNATURE_INPUT_HEADER, fields::value(format!("sig-b26={PARAMS}")));
    headers.insert(SIGNATURE_HEADER, fields::value(format!("sig-b26=:{SIGNATURE}:")));
    assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::Label));
}

/// RFC 9530, appendix D, has the body with a line feed; RFC 9421, appendix B.2, without.
#[test]
fn the_digests_of_the_standards() {
    let digest = |body| ContentDigest::of(body).to_field();
    assert_eq!(
        digest(b"{\"hello\": \"world\"}\n"),
        "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    );
    assert_eq!(
        digest(b"{\"hello\": \"world\"}"),
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    );
    assert_eq!(
        ContentDigest::of(b"").to_field(),
        format!("sha-256=:{}:", STANDARD.encode(hex::decode(EMPTY).unwrap()))
    );
}

/// SHA-256 of the empty string (FIPS 180-4).
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
