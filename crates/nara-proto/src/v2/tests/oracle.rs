//! Another implementation of RFC 9421 (`httpsig`) signs messages that we accept, and accepts messages that we sign.

use httpsig::prelude::message_component::{HttpMessageComponent, HttpMessageComponentId};
use httpsig::prelude::{
    AlgorithmName, HttpSignatureBase, HttpSignatureHeaders, HttpSignatureParams, PublicKey, SecretKey,
};
use proptest::prelude::*;

use super::*;
use crate::identity::{KeyId, Signature};

/// Returns the base that the oracle builds from the parameters and the signed lines.
fn oracle_base(params: &HttpSignatureParams, base: &[u8]) -> HttpSignatureBase {
    let base = std::str::from_utf8(base).unwrap();
    let lines: Vec<_> = base
        .lines()
        .filter(|line| !line.starts_with("\"@signature-params\""))
        .collect();
    let components: Vec<_> = lines
        .into_iter()
        .map(|line| HttpMessageComponent::try_from(line).unwrap())
        .collect();
    HttpSignatureBase::try_new(&components, params).unwrap()
}

fn secret(name: &str) -> SecretKey {
    SecretKey::from_bytes(&AlgorithmName::Ed25519, soul(name).seed()).unwrap()
}

fn public(name: &str) -> PublicKey {
    PublicKey::from_bytes(&AlgorithmName::Ed25519, key(name).as_bytes()).unwrap()
}

/// Returns the fields as the oracle parses them.
fn read(headers: &HeaderMap) -> HttpSignatureHeaders {
    let field = |name| headers[name].to_str().unwrap();
    let map =
        HttpSignatureHeaders::try_parse(field(SIGNATURE_HEADER), field(SIGNATURE_INPUT_HEADER)).unwrap();
    map.get("nara").unwrap().clone()
}

fn signed_body(body: Option<&[u8]>) -> SignedBody {
    body.map_or(SignedBody::Streamed, |body| {
        SignedBody::Digest(ContentDigest::of(body))
    })
}

fn component_of_body(body: Option<&[u8]>) -> &'static str {
    match body {
        Some(_) => "content-digest",
        None => "x-nara-body",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_oracle_accepts_our_signatures(
        path in "/[a-z0-9/%~._-]{0,30}", query in "[a-z0-9=&%]{0,30}", body: Option<Vec<u8>>, nonce: [u8; 16],
        channel: Option<[u8; 32]>,
    ) {
        // The oracle compares `expires` with the clock of the machine.
        let now = UnixMillis::new(4_000_000_000_000);
        let line = RequestLine { method: "GET", path: &path, query: Some(&query) };
        let signed = request(|request| {
            request.line = line;
            request.body = signed_body(body.as_deref());
            request.now = now;
            request.nonce = Nonce::from_bytes(nonce);
            request.channel = channel.map(ChannelBinding::new);
        });
        let theirs = read(&headers(&signed));
        let base = signed.base(line);
        // The oracle orders parameters differently, so it verifies our bytes, and builds its own lines.
        let rebuilt = oracle_base(theirs.signature_params(), &base).as_bytes();
        let lines = |base: &[u8]| String::from_utf8(base.to_vec()).unwrap().rsplit_once('\n').unwrap().0.to_owned();
        prop_assert_eq!(lines(&rebuilt), lines(&base));
        let verifying: &dyn Fn(&[u8]) -> bool =
            &|base| httpsig::prelude::VerifyingKey::verify(&public("alice"), base, signed.signature().as_bytes()).is_ok();
        prop_assert!(verifying(&base));
        prop_assert!(!verifying(&rebuilt[1..]));
    }

    #[test]
    fn we_accept_signatures_of_the_oracle(path in "/[a-z0-9/%~._-]{0,30}", body: Option<Vec<u8>>, nonce: [u8; 16]) {
        let line = RequestLine { method: "POST", path: &path, query: None };
        let of_body = component_of_body(body.as_deref());
        let ours = request(|request| {
            request.line = line;
            request.body = signed_body(body.as_deref());
        });
        let ids = ["@method", "@path", "@query", of_body, "x-nara-name", "x-nara-to"];
        let ids: Vec<_> = ids.into_iter().map(|id| HttpMessageComponentId::try_from(id).unwrap()).collect();
        let mut params = HttpSignatureParams::try_new(&ids).unwrap();
        params
            .set_created(1_769_100_000)
            .set_expires(1_769_100_030)
            .set_nonce(&crate::encoding::base64_encode(&nonce))
            .set_alg(&AlgorithmName::Ed25519)
            .set_keyid(&KeyId::from(&key("alice")).to_string())
            .set_tag(TAG);
        let base = oracle_base(&params, &ours.base(line));
        let theirs = base.build_signature_headers(&secret("alice"), Some(LABEL)).unwrap();
        let mut headers = headers(&ours);
        headers.insert(SIGNATURE_INPUT_HEADER, fields::value(theirs.signature_input_header_value()));
        headers.insert(SIGNATURE_HEADER, fields::value(theirs.signature_header_value()));
        prop_assert_eq!(receive(&headers, line, NOW), Ok(()));
    }

    #[test]
    fn we_accept_the_answers_that_the_oracle_signs(body: Option<Vec<u8>>, status in 200_u16..600) {
        let question = request(|_| {});
        let status = http::StatusCode::from_u16(status).unwrap();
        let ours = signer("bob").sign_response(&ResponseToSign {
            status,
            body: signed_body(body.as_deref()),
            request: question.signature(),
            now: NOW,
        });
        let of_body = format!("\"{}\"", component_of_body(body.as_deref()));
        let ids = ["\"@status\"", &of_body, "\"x-nara-name\"", "\"signature\";req"];
        let ids: Vec<_> = ids.into_iter().map(|id| HttpMessageComponentId::try_from(id).unwrap()).collect();
        let mut params = HttpSignatureParams::try_new(&ids).unwrap();
        params
            .set_created(1_769_100_000)
            .set_alg(&AlgorithmName::Ed25519)
            .set_keyid(&KeyId::from(&key("bob")).to_string())
            .set_tag(TAG);
        let base = oracle_base(&params, &ours.base(status, question.signature()));
        let signature = base.build_raw_signature(&secret("bob")).unwrap();
        let mut headers = HeaderMap::new();
        ours.write_to(&mut headers);
        let theirs = base.build_signature_headers(&secret("bob"), Some(LABEL)).unwrap();
        headers.insert(SIGNATURE_INPUT_HEADER, fields::value(theirs.signature_input_header_value()));
        headers.insert(SIGNATURE_HEADER, fields::value(theirs.signature_header_value()));
        let read = ResponseSignature::from_headers(&headers).unwrap();
        prop_assert_eq!(read.verify_signature(&key("bob"), status, question.signature()), Ok(()));
        prop_assert_eq!(signature.len(), size_of::<Signature>());
    }
}
