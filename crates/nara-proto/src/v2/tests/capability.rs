use std::num::NonZeroU16;

use super::*;

pub(super) fn capability() -> Capability {
    Capability {
        id: id("alice"),
        v2: true,
        streams: true,
        tls: true,
        raw_public_key: false,
        handshake: false,
        port: NonZeroU16::new(9700),
        at: NOW,
    }
}

pub(super) fn received(value: &str) -> Result<Option<SignedCapability>, CapabilityError> {
    let mut headers = HeaderMap::new();
    headers.insert(CAPABILITY_HEADER, fields::value(value));
    SignedCapability::from_headers(&headers)
}

pub(super) fn field() -> String {
    let signed = signer("alice").sign_capability(&capability());
    signed.to_field().to_str().unwrap().to_owned()
}

fn alice() -> crate::identity::NaraName {
    "alice".parse().unwrap()
}

#[test]
fn what_a_nara_says_of_itself_is_believed_with_its_key_only() {
    let read = received(&field()).unwrap().unwrap();
    assert_eq!(read.verify(&alice(), &key("alice"), NOW), Ok(&capability()));
    let bad = Err(CapabilityError::BadSignature);
    assert_eq!(read.verify(&alice(), &key("bob"), NOW), bad);
    assert_eq!(read.verify(&"alicia".parse().unwrap(), &key("alice"), NOW), bad);
    let later = UnixMillis::new(NOW.get() + 30_001);
    assert_eq!(
        read.verify(&alice(), &key("alice"), later),
        Err(CapabilityError::Stale)
    );
}

#[test]
fn every_part_is_signed() {
    for (from, to) in [
        ("tls=(x509)", "tls=()"),
        ("(v2 streams)", "(v2)"),
        ("(v2 streams)", "()"),
        ("at=1769", "at=1768"),
        ("port=9700", "port=9701"),
        (", port=9700", ""),
        ("id=\"", "x=1, id=\""),
    ] {
        let changed = field().replacen(from, to, 1);
        assert_ne!(changed, field());
        let read = received(&changed).unwrap().unwrap();
        let at = read.unverified().at;
        assert_eq!(
            read.verify(&alice(), &key("alice"), at),
            Err(CapabilityError::BadSignature),
            "{changed}"
        );
    }
}

#[test]
fn unknown_words_and_members_are_skipped() {
    let statement = format!(
        "id=\"{}\", signatures=(v9 v2), new=?1, tls=(quic), at={NOW}",
        id("alice")
    );
    let text = format!("nara-mesh/capability/1\n{} alice\n{statement}", key("alice"));
    let proof = signer("alice").keypair().sign(text.as_bytes()).to_base64();
    let read = received(&format!("{statement}, proof=:{proof}:"))
        .unwrap()
        .unwrap();
    let capability = read.verify(&alice(), &key("alice"), NOW).unwrap();
    assert!(capability.v2 && !capability.tls && !capability.raw_public_key);
}

#[test]
fn an_invalid_capability_is_refused() {
    assert_eq!(SignedCapability::from_headers(&HeaderMap::new()), Ok(None));
    for bad in [
        "",
        "proof=::",
        "id=\"x\", proof=:AAAA:",
        &field().replace("id=", "ID="),
        &field().replace("at=", "at=-9999999999999999"),
        &field().replace("port=9700", "port=0"),
        &field().replace("port=9700", "port=65536"),
        &field().replace("port=9700", "port=\"9700\""),
        &field().replace(", proof=:", ", proof=::"),
        &format!("{}{}", "a, ".repeat(400), field()),
    ] {
        assert_eq!(received(bad), Err(CapabilityError::Malformed), "{bad}");
    }
    let mut twice = HeaderMap::new();
    twice.append(CAPABILITY_HEADER, fields::value(field()));
    twice.append(CAPABILITY_HEADER, fields::value(field()));
    assert_eq!(
        SignedCapability::from_headers(&twice),
        Err(CapabilityError::Malformed)
    );
}
