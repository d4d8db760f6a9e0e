//! `sign --to`: profile v2.

use std::collections::BTreeMap;

use getrandom::fill;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::time::UnixMillis;
use nara_proto::v2::{ContentDigest, Nonce, Recipient, RequestLine, RequestToSign, SignedBody};
use serde::Serialize;
use utoipa::ToSchema;

use super::Printed;
use crate::cli::SignArgs;
use crate::command::read_input;
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

pub(super) fn sign(
    args: &SignArgs,
    to: &str,
    method: &str,
    target: &str,
    nara: &LocalNara,
    printer: Printer,
) -> Outcome {
    let line = request_line(method, target)?;
    let to = recipient(to)?;
    let body = args
        .body
        .as_deref()
        .map_or_else(|| Ok(Vec::new()), |path| read_input(path, "body"))?;
    let now = args
        .timestamp
        .map_or_else(|| SystemClock.now_millis(), UnixMillis::new);
    let mut random = [0; 10];
    fill(&mut random).map_err(|error| Failure::failed(format!("no random bytes: {error}")))?;
    let signed = nara.signer().sign_request(&RequestToSign {
        line,
        to: &to,
        body: SignedBody::Digest(ContentDigest::of(&body)),
        now,
        nonce: Nonce::new(now, random),
        channel: None,
    });
    let mut headers = http::HeaderMap::new();
    signed.write_to(&mut headers);
    let base = signed.base(line);
    if args.explain {
        printer.line("The signature base (RFC 9421, section 2.5), one line for each component:")?;
        for line in String::from_utf8_lossy(&base).lines() {
            printer.line(format_args!("  {line}"))?;
        }
        printer.line(format_args!("base, hex    {}", explain::hex(&base)))?;
        printer.line(format_args!(
            "Valid until {} s ({}). Not covered: host, other headers.",
            signed.expires(),
            explain::date(signed.expires().to_millis())
        ))?;
        printer.line("")?;
    }
    let mut shown = BTreeMap::new();
    for name in [
        "x-nara-name",
        "x-nara-to",
        "content-digest",
        "signature-input",
        "signature",
    ] {
        let value = String::from_utf8_lossy(headers[name].as_bytes()).into_owned();
        printer.line(format_args!("{}: {value}", title_case(name)))?;
        shown.insert(name.to_owned(), value);
    }
    printer.json(Printed::V2(SignedV2 {
        name: nara.name().to_string(),
        to: to.to_string(),
        method: method.to_owned(),
        target: target.to_owned(),
        headers: shown,
        signature_base: String::from_utf8_lossy(&base).into_owned(),
        signature_base_hex: explain::hex(&base),
        signature: signed.signature().to_base64(),
        public_key: nara.public_key().to_base64(),
    }))?;
    Ok(Exit::Ok)
}

/// A request in profile v2.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct SignedV2 {
    name: String,
    /// The receiver.
    to: String,
    method: String,
    /// Path and query.
    target: String,
    /// The headers of the signature.
    headers: BTreeMap<String, String>,
    signature_base: String,
    signature_base_hex: String,
    signature: String,
    public_key: String,
}

/// Splits a path with an optional query.
pub(in crate::command) fn request_line<'a>(method: &'a str, target: &'a str) -> Outcome<RequestLine<'a>> {
    if !target.starts_with('/') || target.contains('#') {
        return Err(
            Failure::usage(format!("{target:?} is not a path as on a request line"))
                .hint("it must begin with /, and may have a query"),
        );
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok(RequestLine { method, path, query })
}

/// Parses an id, else a name.
pub(in crate::command) fn recipient(text: &str) -> Outcome<Recipient> {
    if let Ok(id) = text.parse() {
        return Ok(Recipient::Id(id));
    }
    text.parse()
        .map(Recipient::Name)
        .map_err(|error| Failure::usage(format!("--to: {error}")))
}

/// Converts `x-nara-to` to `X-Nara-To`.
fn title_case(name: &str) -> String {
    let parts = name.split('-').map(|part| {
        let (first, rest) = part.split_at(1);
        format!("{}{rest}", first.to_uppercase())
    });
    parts.collect::<Vec<_>>().join("-")
}
