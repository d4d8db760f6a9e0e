//! `request_auth.json` and `response_auth.json`.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use nara_proto::encoding::{base64_decode_lenient, base64_encode};
use nara_proto::identity::{KeyPair, NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{
    RequestAuth, RequestAuthError, ResponseAuth, body_hash, request_signature_base, response_signature_base,
    signed_path,
};
use serde_json::Value;

use crate::harness::{Case, Unreadable};

/// Returns public keys by name, from a field that maps names to keys.
pub(crate) fn known_keys(case: &Case<'_>, field: &str) -> Result<BTreeMap<String, PublicKey>, Unreadable> {
    let entries = case.entries(field)?;
    entries
        .into_iter()
        .map(|(name, key)| {
            let key = key.as_str().and_then(|key| PublicKey::from_base64(key).ok());
            let key = key.ok_or_else(|| case.fail(field, "public keys", name))?;
            Ok((name.to_owned(), key))
        })
        .collect()
}

/// Returns the headers as received: a list if a header is repeated.
pub(crate) fn header_map(case: &Case<'_>, field: &str) -> Result<HeaderMap, Unreadable> {
    let mut headers = HeaderMap::new();
    for (name, value) in case.entries(field)? {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            let parsed = value.as_str().and_then(|value| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
            });
            let (name, value) = parsed.ok_or_else(|| case.fail(field, "headers", name))?;
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// Returns the path of a request target, or of the part of a URL after the host: up to the query or fragment.
pub(crate) fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// Verifies a request like a server: headers, freshness, key by name, signature.
pub(crate) fn verify_request(
    headers: &HeaderMap,
    keys: &BTreeMap<String, PublicKey>,
    method: &str,
    path: &str,
    now: UnixMillis,
) -> Result<RequestAuth, RequestAuthError> {
    let auth = RequestAuth::from_headers(headers)?;
    auth.check_fresh(now)?;
    let key = keys
        .get(auth.name().as_str())
        .ok_or_else(|| RequestAuthError::UnknownSender(auth.name().clone()))?;
    auth.verify(key, method, path, now)?;
    Ok(auth)
}

pub(crate) fn request(case: &Case<'_>) -> Result<(), Unreadable> {
    let (name, method) = (case.text("name")?, case.text("method")?);
    let made = UnixMillis::new(case.int("timestamp_ms")?);
    let keypair = KeyPair::from_soul(&case.parsed("soul")?);
    case.check("public_key_b64", keypair.public_key().to_base64());

    // The client.
    let url = case.text("url")?;
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme
        .find('/')
        .map_or("", |at| path_of(&after_scheme[at..]));
    let signed = signed_path(path);
    let base = request_signature_base(name, made, method, &signed);
    case.check_optional("signed_path", std::str::from_utf8(&signed).ok());
    case.check("signed_path_hex", hex::encode(&signed));
    case.check_optional("string_to_sign", std::str::from_utf8(&base).ok());
    case.check("string_to_sign_hex", hex::encode(&base));
    if case.has("signature_b64") {
        case.check("signature_b64", keypair.sign(&base).to_base64());
        if let Ok(name) = NaraName::new(name) {
            let auth = RequestAuth::sign(&keypair, &name, made, method, path);
            case.check("signature_b64", auth.signature().to_base64());
        }
    }

    // The server.
    let target_path = path_of(case.text("request_target")?);
    case.check("server_path_hex", hex::encode(signed_path(target_path)));
    // The format has no field for the method on the wire; its description names this one note.
    let method = match case.text("note")? {
        "method changed on the wire" => "PUT",
        _ => method,
    };
    let headers = header_map(case, "headers")?;
    let keys = known_keys(case, "server_known_keys")?;
    let now = UnixMillis::new(case.int("server_now_ms")?);
    let outcome = verify_request(&headers, &keys, method, target_path, now);
    case.check("expect", if outcome.is_ok() { "valid" } else { "invalid" });
    case.check_optional("sender", outcome.as_ref().ok().map(|auth| auth.name().as_str()));
    let reason = outcome.err().map(|error| error.to_string());
    case.check_optional("status", reason.as_ref().map(|_| 401));
    case.check_optional("error", reason.clone());
    case.check_optional(
        "body",
        reason.map(|reason| format!("Authentication failed: {reason}\n")),
    );
    Ok(())
}

pub(crate) fn response(case: &Case<'_>) -> Result<(), Unreadable> {
    let name = case.text("name")?;
    let made = UnixMillis::new(case.int("timestamp_ms")?);
    let keypair = KeyPair::from_soul(&case.parsed("soul")?);
    case.check("public_key_b64", keypair.public_key().to_base64());

    // The responder.
    let signed_body = body(case, "signed_body_b64")?;
    let hash = body_hash(&signed_body);
    let base = response_signature_base(name, made, &hash);
    case.check("body_hash_b64", hash);
    case.check("signature_b64", keypair.sign(base.as_bytes()).to_base64());
    case.check("string_to_sign", base);

    // The receiver checks only the signature: v1 peers accept any age.
    let keys = known_keys(case, "known_keys")?;
    let received = body(case, "received_body_b64")?;
    let auth = ResponseAuth::from_headers(&header_map(case, "received_headers")?);
    let verified = auth.is_ok_and(|auth| {
        keys.get(auth.name().as_str())
            .is_some_and(|key| auth.verify_signature(key, &received).is_ok())
    });
    case.check("expect", if verified { "valid" } else { "invalid" });
    case.prose(&["error"]);
    Ok(())
}

fn body(case: &Case<'_>, field: &str) -> Result<Vec<u8>, Unreadable> {
    let text = case.text(field)?;
    let bytes = base64_decode_lenient(text.as_bytes()).map_err(|_| case.fail(field, "base64", text))?;
    case.check(field, base64_encode(&bytes));
    Ok(bytes)
}
