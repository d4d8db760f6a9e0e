//! `sign`: signs a request or an event, offline.

pub(super) mod v2;

use std::path::Path;

use nara_local_api::model::Event;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::go_json;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{RequestAuth, request_signature_base, signed_path};
use serde::Serialize;
use utoipa::ToSchema;

use super::read_event;
use crate::cli::SignArgs;
use crate::exit::Exit;
use crate::explain::{self, EventReport, PrintedReport};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(args: &SignArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    if let Some(path) = &args.event {
        return sign_event(path, args.explain, &nara, printer);
    }
    // clap has enforced that both are set.
    let method = args.method.as_deref().unwrap_or_default();
    let path = args.path.as_deref().unwrap_or_default();
    if let Some(to) = &args.to {
        return v2::sign(args, to, method, path, &nara, printer);
    }
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(
            Failure::usage(format!("{path:?} is not a path as on a request line"))
                .hint("it must begin with / and have no query, which only profile v2 signs (--to)"),
        );
    }
    let now = args
        .timestamp
        .map_or_else(|| SystemClock.now_millis(), UnixMillis::new);
    let auth = RequestAuth::sign(nara.keypair(), nara.name(), now, method, path);
    let decoded = signed_path(path);
    let base = request_signature_base(nara.name().as_str(), now, method, &decoded);
    if args.explain {
        printer.line("The signature base is name + timestamp + method + path, with nothing between them:")?;
        printer.line(format_args!("  name       {}", nara.name()))?;
        printer.line(format_args!(
            "  timestamp  {now}  (Unix milliseconds; {})",
            explain::date(now)
        ))?;
        printer.line(format_args!("  method     {method}"))?;
        let note = if *decoded == *path.as_bytes() {
            ""
        } else {
            "  (percent-decoded)"
        };
        printer.line(format_args!("  path       {}{note}", explain::escape(&decoded)))?;
        printer.line(format_args!("base         {}", explain::escape(&base)))?;
        printer.line(format_args!("base, hex    {}", explain::hex(&base)))?;
        printer.line("Not covered: host, query, other headers, body.")?;
        printer.line("")?;
    }
    printer.line(format_args!("X-Nara-Name: {}", nara.name()))?;
    printer.line(format_args!("X-Nara-Timestamp: {now}"))?;
    printer.line(format_args!("X-Nara-Signature: {}", auth.signature().to_base64()))?;
    printer.json(Printed::V1(SignedV1 {
        name: nara.name().to_string(),
        timestamp_ms: now.get(),
        method: method.to_owned(),
        path: path.to_owned(),
        signed_path_hex: explain::hex(&decoded),
        signature_base: String::from_utf8_lossy(&base).into_owned(),
        signature_base_hex: explain::hex(&base),
        signature: auth.signature().to_base64(),
        public_key: nara.public_key().to_base64(),
    }))?;
    Ok(Exit::Ok)
}

/// The output of `sign`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Printed {
    V1(SignedV1),
    V2(v2::SignedV2),
    Event(SignedEvent),
}

/// A request in profile v1.
#[derive(Serialize, ToSchema)]
pub(super) struct SignedV1 {
    name: String,
    timestamp_ms: i64,
    method: String,
    path: String,
    /// The decoded path, as signed.
    signed_path_hex: String,
    signature_base: String,
    signature_base_hex: String,
    signature: String,
    public_key: String,
}

/// An event with its id and its signature.
#[derive(Serialize, ToSchema)]
pub(super) struct SignedEvent {
    #[serde(flatten)]
    report: PrintedReport,
    event: Event,
}

fn sign_event(path: &Path, explain: bool, nara: &LocalNara, printer: Printer) -> Outcome {
    let mut event = read_event(path)?;
    event.id = event.compute_id();
    event.sign(nara.name().as_str(), nara.keypair());
    let report = EventReport::new(&event, Some(&nara.public_key()));
    if let Err(problem) = report.well_formed {
        return Err(Failure::failed(format!("the event is malformed: {problem}"))
            .hint("it is not signed, because every nara would refuse it"));
    }
    let json_text = go_json::to_string(&event);
    if explain {
        for line in report.lines() {
            printer.line(line)?;
        }
        printer.line("")?;
    }
    printer.line(&json_text)?;
    printer.json(Printed::Event(SignedEvent {
        report: report.printed(),
        event: Event::of(&event),
    }))?;
    Ok(Exit::Ok)
}
