//! Generates the seeds of the target `signature`: `cargo run --example signature_seeds` in `fuzz/`.

use std::fs;

use http::{HeaderMap, StatusCode};
use nara_fuzz::{NOW, nara};
use nara_proto::v2::{
    CAPABILITY_HEADER, Capability, ChannelBinding, ContentDigest, Nonce, Recipient, RequestLine,
    RequestToSign, ResponseToSign, SignedBody, Signer,
};

fn write(name: &str, target: &str, headers: &HeaderMap) -> std::io::Result<()> {
    let mut seed = target.as_bytes().to_vec();
    for (name, value) in headers {
        seed.extend_from_slice(format!("\n{name}: ").as_bytes());
        seed.extend_from_slice(value.as_bytes());
    }
    fs::write(
        format!("{}/seeds/signature/{name}", env!("CARGO_MANIFEST_DIR")),
        seed,
    )
}

fn main() -> std::io::Result<()> {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let signer = Signer::new(alice.keypair().clone(), alice.name().clone());
    let line = RequestLine {
        method: "POST",
        path: "/events/sync",
        query: Some("a=b"),
    };
    let to_id = Recipient::Id(bob.id().clone());
    let to_name = Recipient::Name(bob.name().clone());
    let channel = Some(ChannelBinding::new([7; 32]));
    let mut signature = None;
    let digest = SignedBody::Digest(ContentDigest::of(b"{}"));
    for (name, to, channel, body) in [
        ("request", &to_id, None, digest),
        ("request-to-name", &to_name, None, digest),
        ("request-on-channel", &to_id, channel, digest),
        ("request-streamed", &to_id, None, SignedBody::Streamed),
        (
            "request-streamed-on-channel",
            &to_id,
            channel,
            SignedBody::Streamed,
        ),
    ] {
        let signed = signer.sign_request(&RequestToSign {
            line,
            to,
            body,
            now: NOW,
            nonce: Nonce::new(NOW, [7; 10]),
            channel,
        });
        let mut headers = HeaderMap::new();
        signed.write_to(&mut headers);
        write(name, "/events/sync?a=b", &headers)?;
        signature = Some(*signed.signature());
    }
    for (name, body) in [("response", digest), ("response-streamed", SignedBody::Streamed)] {
        let mut headers = HeaderMap::new();
        signer
            .sign_response(&ResponseToSign {
                status: StatusCode::OK,
                body,
                request: &signature.expect("a request was signed"),
                now: NOW,
            })
            .write_to(&mut headers);
        write(name, "", &headers)?;
    }
    let mut headers = HeaderMap::new();
    let capability = signer.sign_capability(&Capability {
        id: alice.id().clone(),
        v2: true,
        streams: true,
        tls: true,
        raw_public_key: true,
        port: std::num::NonZeroU16::new(9700),
        at: NOW,
    });
    headers.insert(CAPABILITY_HEADER, capability.to_field());
    write("capability", "", &headers)
}
