//! The committed vectors of signature profile v2: our signatures equal theirs, and we refuse the invalid cases.

#![expect(clippy::unwrap_used, reason = "a vector that cannot be read fails the test")]

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::{KeyPair, PublicKey, Signature, Soul};
use nara_proto::succession::Succession;
use nara_proto::time::UnixMillis;
use nara_proto::v2::{
    CAPABILITY_HEADER, Capability, ChannelBinding, ContentDigest, Nonce, Recipient, RequestLine,
    RequestSignature, RequestToSign, ResponseSignature, ResponseToSign, SignatureError, SignedBody,
    SignedCapability, Signer,
};
use serde_json::Value;

/// A case, or a part of one.
struct Case(Value);

impl Case {
    fn text(&self, field: &str) -> &str {
        self.0[field]
            .as_str()
            .unwrap_or_else(|| panic!("{field} of {}", self.0))
    }

    fn parsed<T: FromStr<Err: std::fmt::Debug>>(&self, field: &str) -> T {
        self.text(field).parse().unwrap()
    }

    fn millis(&self, field: &str) -> UnixMillis {
        UnixMillis::new(self.0[field].as_i64().unwrap())
    }

    fn bytes<const N: usize>(&self, field: &str) -> Option<[u8; N]> {
        let text = self.0[field].as_str()?;
        let bytes = (0..N).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().ok()
    }

    fn channel(&self) -> Option<ChannelBinding> {
        self.bytes("channel_hex").map(ChannelBinding::new)
    }

    fn key(&self) -> PublicKey {
        PublicKey::from_base64(self.text("public_key_b64")).unwrap()
    }

    fn signer(&self) -> Signer {
        let soul: Soul = self.parsed("soul");
        Signer::new(KeyPair::from_soul(&soul), self.parsed("name"))
    }

    fn line(&self) -> RequestLine<'_> {
        let target = self.text("target");
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        RequestLine {
            method: self.text("method"),
            path,
            query,
        }
    }

    fn body(&self) -> SignedBody {
        if self.0["streamed"] == true {
            SignedBody::Streamed
        } else {
            SignedBody::Digest(ContentDigest::of(self.text("body").as_bytes()))
        }
    }

    /// Only a receiver that accepts streams (`streamed`) accepts a body without a digest.
    fn check_body(&self, signed: SignedBody) -> Result<(), SignatureError> {
        match signed {
            SignedBody::Streamed if self.0["streamed"] == true => Ok(()),
            signed => signed.digest()?.check(self.text("body").as_bytes()),
        }
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0["status"].as_u64().unwrap().try_into().unwrap()).unwrap()
    }

    fn request_signature(&self) -> Signature {
        Signature::from_canonical_base64(self.text("request_signature_b64").as_bytes()).unwrap()
    }

    fn headers(&self) -> HeaderMap {
        let headers = self.0["headers"].as_object().unwrap().iter();
        headers
            .map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_str().unwrap().as_bytes());
                (HeaderName::try_from(name).unwrap(), value.unwrap())
            })
            .collect()
    }

    fn receiver(&self) -> Self {
        Self(self.0["receiver"].clone())
    }

    /// Checks the verdict, and returns whether the case is valid.
    fn check<E: ToString>(&self, outcome: Result<(), E>) -> bool {
        let error = outcome.err().map(|error| error.to_string());
        let expected = self.0["error"].as_str().map(str::to_owned);
        assert_eq!(error, expected, "{}", self.text("case"));
        assert_eq!(expected.is_none(), self.text("expect") == "valid");
        expected.is_none()
    }
}

fn cases(file: &str) -> impl Iterator<Item = Case> {
    let cases: Vec<Value> = serde_json::from_str(file).unwrap();
    assert!(cases.len() > 5);
    cases.into_iter().map(Case)
}

#[test]
fn requests_are_signed_and_judged_as_recorded() {
    for case in cases(include_str!("vectors-v2/request.json")) {
        let receiver = case.receiver();
        let headers = case.headers();
        let check = || {
            let signed = RequestSignature::from_headers(&headers)?;
            signed.check_time(receiver.millis("now_ms"))?;
            signed.check_recipient(&receiver.parsed("id"), &receiver.parsed("name"))?;
            signed.check_channel(receiver.channel().as_ref())?;
            signed.check_key(&case.key())?;
            signed.verify_signature(&case.key(), receiver.line())?;
            receiver.check_body(signed.body())
        };
        if !case.check(check()) {
            continue;
        }
        let to = match case.text("to").parse() {
            Ok(id) => Recipient::Id(id),
            Err(_) => Recipient::Name(case.parsed("to")),
        };
        let now = case.millis("now_ms");
        let signed = case.signer().sign_request(&RequestToSign {
            line: case.line(),
            to: &to,
            body: case.body(),
            now,
            nonce: Nonce::new(now, case.bytes("random_hex").unwrap()),
            channel: case.channel(),
        });
        let mut ours = HeaderMap::new();
        signed.write_to(&mut ours);
        if case.0["added"] != true {
            assert_eq!(ours, headers, "{}", case.text("case"));
        }
        assert_eq!(signed.base(case.line()), case.text("signature_base").as_bytes());
    }
}

#[test]
fn answers_are_signed_and_judged_as_recorded() {
    for case in cases(include_str!("vectors-v2/response.json")) {
        let receiver = case.receiver();
        let headers = case.headers();
        let check = || {
            let signed = ResponseSignature::from_headers(&headers)?;
            signed.check_time(receiver.millis("now_ms"))?;
            signed.check_key(&case.key())?;
            receiver.check_body(signed.body())?;
            signed.verify_signature(&case.key(), receiver.status(), &receiver.request_signature())
        };
        if !case.check(check()) {
            continue;
        }
        let signed = case.signer().sign_response(&ResponseToSign {
            status: case.status(),
            body: case.body(),
            request: &case.request_signature(),
            now: case.millis("now_ms"),
        });
        let mut ours = HeaderMap::new();
        signed.write_to(&mut ours);
        if case.0["added"] != true {
            assert_eq!(ours, headers, "{}", case.text("case"));
        }
        let base = signed.base(case.status(), &case.request_signature());
        assert_eq!(base, case.text("signature_base").as_bytes());
    }
}

#[test]
fn capabilities_are_signed_and_judged_as_recorded() {
    for case in cases(include_str!("vectors-v2/capability.json")) {
        let capability = Capability {
            id: case.parsed("id"),
            v2: case.0["v2"].as_bool().unwrap(),
            streams: case.0["streams"] == true,
            tls: case.0["tls"].as_bool().unwrap(),
            raw_public_key: case.0["raw_public_key"].as_bool().unwrap(),
            handshake: false,
            port: case.0["port"]
                .as_u64()
                .map(|port| u16::try_from(port).unwrap().try_into().unwrap()),
            at: case.millis("at_ms"),
        };
        let headers = HeaderMap::from_iter([(CAPABILITY_HEADER, case.text("field").parse().unwrap())]);
        let check = || {
            let signed = SignedCapability::from_headers(&headers)?.unwrap();
            let now = case.millis("receiver_now_ms");
            let read = signed.verify(&case.parsed("name"), &case.key(), now)?;
            assert_eq!(*read, capability);
            Ok::<_, nara_proto::v2::CapabilityError>(())
        };
        if case.check(check()) {
            let signed = case.signer().sign_capability(&capability);
            assert_eq!(signed.to_field(), case.text("field"), "{}", case.text("case"));
        }
    }
}

#[test]
fn successions_are_stated_and_judged_as_recorded() {
    for case in cases(include_str!("vectors-v2/succession.json")) {
        let event: SyncEvent = go_json::from_slice(case.text("event").as_bytes()).unwrap();
        let read = Succession::from_event(&event);
        if !case.check(read.clone().map(drop)) {
            continue;
        }
        let keypair = |field| {
            let seed: Option<[u8; 32]> = case.bytes(field);
            seed.map(|seed| KeyPair::from_soul(&Soul::bond(seed, case.text("name"))))
        };
        let (name, at) = (case.parsed("name"), case.millis("at_ms"));
        let old = keypair("old_seed_hex").unwrap();
        let stated = match keypair("new_seed_hex") {
            Some(new) => Succession::rotate(&name, &old, &new, at).unwrap(),
            None => Succession::retire(&name, &old, at),
        };
        assert_eq!(read.as_ref(), Ok(&stated), "{}", case.text("case"));
        assert_eq!(go_json::to_string(&stated.to_event()), case.text("event"));
        let words: Vec<String> = serde_json::from_value(case.0["words"].clone()).unwrap();
        assert_eq!(stated.to_words(), words);
        assert_eq!(Succession::from_words(&words.join("\n")), Ok(stated));
    }
}
