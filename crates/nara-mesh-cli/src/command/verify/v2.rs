//! `verify --headers`: profile v2.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::peers_file::PeerEntry;
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v2::{Recipient, RequestSignature};
use owo_colors::OwoColorize as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Printed, key_of};
use crate::cli::VerifyArgs;
use crate::command::read_input;
use crate::command::sign::v2::{recipient, request_line};
use crate::exit::Exit;
use crate::explain::{self, Receiver, V2Report};
use crate::failure::{Failure, Outcome};
use crate::output::printable;
use crate::printer::Printer;

/// A request in profile v2.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct VerifiedV2 {
    valid: bool,
    /// The problems.
    findings: Vec<String>,
    components: Vec<Component>,
    /// The signature base.
    signature_base: Option<String>,
    signature_base_hex: Option<String>,
    created_s: Option<i64>,
    expires_s: Option<i64>,
    key_id: Option<String>,
    compared: Compared,
}

/// A component of the signature base (RFC 9421, section 2).
#[derive(Serialize, ToSchema)]
struct Component {
    component: String,
    /// The value in the request.
    value: String,
    /// The value that was signed, if different.
    signed_as: Option<String>,
}

/// The values given for comparison.
#[derive(Serialize, ToSchema)]
struct Compared {
    body: bool,
    recipient: bool,
}

pub(super) fn verify(headers: &Path, args: &VerifyArgs, peers: &[PeerEntry], printer: Printer) -> Outcome {
    let headers = read_headers(headers)?;
    // clap has enforced that both are set.
    let method = args.method.as_deref().unwrap_or_default();
    let line = request_line(method, args.path.as_deref().unwrap_or_default())?;
    let body = args
        .body
        .as_deref()
        .map(|path| read_input(path, "body"))
        .transpose()?;
    let name = headers
        .get("x-nara-name")
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default();
    let key = key_of(&name, args, peers)?.ok_or_else(|| {
        Failure::usage(format!("no public key is known for {}", printable(&name)))
            .hint("pass --key, or --peers with its key")
    })?;
    let others: Vec<(String, PublicKey)> = peers
        .iter()
        .filter_map(|peer| Some((peer.name.to_string(), peer.key?)))
        .collect();
    let recipients = args
        .to
        .as_deref()
        .map_or_else(|| Ok(Vec::new()), |to| recipients(to, peers))?;
    let receiver = Receiver {
        now: args.now.map_or_else(|| SystemClock.now_millis(), UnixMillis::new),
        recipients: &recipients,
        body: body.as_deref(),
        others: &others,
    };
    let report = V2Report::new(&headers, line, &key, &receiver);
    print(&report, args.explain, printer)?;
    let signed = RequestSignature::from_headers(&headers).ok();
    let components = report.components.iter().map(|component| Component {
        component: component.id.clone(),
        value: component.value.clone(),
        signed_as: component.signed_as.clone(),
    });
    let base = report.base.as_deref();
    printer.json(Printed::V2(VerifiedV2 {
        valid: report.is_valid(),
        findings: findings(&report),
        components: components.collect(),
        signature_base: base.map(|base| String::from_utf8_lossy(base).into_owned()),
        signature_base_hex: base.map(explain::hex),
        created_s: signed.as_ref().map(|signed| signed.created().get()),
        expires_s: signed.as_ref().map(|signed| signed.expires().get()),
        key_id: signed.as_ref().map(|signed| signed.key_id().to_string()),
        compared: Compared {
            body: receiver.body.is_some(),
            recipient: !recipients.is_empty(),
        },
    }))?;
    Ok(if report.is_valid() {
        Exit::Ok
    } else {
        Exit::Unauthenticated
    })
}

/// Returns the accepted `X-Nara-To` values of a nara.
fn recipients(to: &str, peers: &[PeerEntry]) -> Outcome<Vec<Recipient>> {
    let given = recipient(to)?;
    let known = peers.iter().find(|peer| match &given {
        Recipient::Id(id) => peer.id.as_ref() == Some(id),
        Recipient::Name(name) => peer.name == *name,
    });
    let mut all = vec![given];
    if let Some(peer) = known {
        all.extend(peer.id.clone().map(Recipient::Id));
        all.push(Recipient::Name(peer.name.clone()));
    }
    Ok(all)
}

/// Reads `Name: value` lines, as recorded by HTTP tools. Other lines, such as the request line, are skipped.
fn read_headers(path: &Path) -> Outcome<HeaderMap> {
    let bytes = read_input(path, "headers")?;
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.trim_ascii()),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// Lists the problems and the likely causes.
fn findings(report: &V2Report) -> Vec<String> {
    let problems = report.problems.iter().map(ToString::to_string);
    problems.chain(report.causes.iter().cloned()).collect()
}

fn print(report: &V2Report, explain: bool, printer: Printer) -> Outcome<()> {
    if report.is_valid() {
        printer.line(format_args!("{}", "valid".green().bold()))?;
    } else {
        printer.line(format_args!("{}", "invalid".red().bold()))?;
    }
    for finding in findings(report) {
        printer.line(format_args!("  {}", printable(&finding)))?;
    }
    if !explain {
        return Ok(());
    }
    for component in &report.components {
        printer.line(format_args!(
            "{:<18} {}",
            printable(&component.id),
            printable(&component.value)
        ))?;
        if let Some(signed_as) = &component.signed_as {
            printer.line(format_args!("{:>18} {}", "signed as", printable(signed_as)))?;
        }
    }
    if let Some(base) = &report.base {
        printer.line(format_args!("base, hex    {}", explain::hex(base)))?;
    }
    Ok(())
}
