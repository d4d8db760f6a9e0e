//! Reads what a running nara reports about the proof of an answer.

use std::str::FromStr;

use http::HeaderMap;
use nara_mesh::Coverage;
use nara_mesh::client::{BodyProof, Verification};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use percent_encoding::percent_decode_str;

/// Removes the headers `X-Nara-*` from an answer and interprets them: see docs/local-api.md.
pub(super) fn told(headers: &mut HeaderMap) -> Verification {
    let mut take = |name: &str| -> Option<String> {
        let value = headers.remove(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    fn parsed<T: FromStr>(text: Option<String>) -> Option<T> {
        text?.parse().ok()
    }
    let mut verification = Verification::open();
    let name = take("x-nara-responder");
    let name = name.and_then(|name| Some(percent_decode_str(&name).decode_utf8().ok()?.into_owned()));
    verification.responder = parsed(name);
    verification.key = take("x-nara-responder-key").and_then(|key| PublicKey::from_base64(&key).ok());
    verification.key_source = parsed(take("x-nara-key-source"));
    verification.signed_at = parsed(take("x-nara-signed-at")).map(UnixMillis::new);
    verification.bound = take("x-nara-bound").as_deref() == Some("?1");
    verification.channel = take("x-nara-channel").as_deref() == Some("?1");
    verification.body = match take("x-nara-body-proof").as_deref() {
        Some("head-only") => BodyProof::HeadOnly,
        Some("at-end") => BodyProof::AtEnd,
        Some("channel") => BodyProof::Channel,
        Some("whole") => BodyProof::Whole,
        _ => BodyProof::None,
    };
    verification.request = match take("x-nara-coverage").as_deref() {
        Some("method-and-path") => Some(Coverage::MethodAndPath),
        Some("head") => Some(Coverage::Head),
        Some("whole") => Some(Coverage::Whole),
        Some("channel") => Some(Coverage::Channel),
        _ => None,
    };
    verification
}
