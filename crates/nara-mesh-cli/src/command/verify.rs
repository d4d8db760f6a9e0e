//! `verify`: verifies a request or an event, offline, and explains failures.

mod v2;

use std::path::Path;
use std::time::Duration;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::peers_file::PeerEntry;
use nara_proto::identity::PublicKey;
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};
use nara_proto::v1::FRESHNESS_WINDOW;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::read_event;
use crate::cli::VerifyArgs;
use crate::exit::Exit;
use crate::explain::{
    self, Claim, Difference, EventReport, PrintedReport, Report, SignatureText, TimestampText,
};
use crate::failure::{Failure, Outcome};
use crate::output::printable;
use crate::printer::{Printer, harmless, human};
use crate::settings::Settings;

pub(super) fn run(args: &VerifyArgs, settings: &Settings, printer: Printer) -> Outcome {
    let peers = settings.peers()?;
    if let Some(path) = &args.event {
        return verify_event(path, args, &peers, printer);
    }
    if let Some(headers) = &args.headers {
        return v2::verify(headers, args, &peers, printer);
    }
    let name = settings
        .name()
        .ok_or_else(|| Failure::usage("no sender is given").hint("pass the X-Nara-Name as --name"))?;
    let key = key_of(name.as_str(), args, &peers)?.ok_or_else(|| {
        Failure::usage(format!("no public key is known for {name}"))
            .hint("pass --key, or --peers with its key")
    })?;
    let others: Vec<(String, PublicKey)> = peers
        .iter()
        .filter_map(|peer| Some((peer.name.to_string(), peer.key?)))
        .collect();
    let now = args.now.map_or_else(|| SystemClock.now_millis(), UnixMillis::new);
    // clap has enforced that all four are set.
    let claim = Claim {
        name: name.as_str(),
        timestamp: args.timestamp.as_deref().unwrap_or_default(),
        signature: args.signature.as_deref().unwrap_or_default(),
        method: args.method.as_deref().unwrap_or_default(),
        path: args.path.as_deref().unwrap_or_default(),
    };
    let report = Report::new(&claim, &key, now, &others);
    let findings = findings(&report, &claim, now, args.expected.as_deref(), &key);
    print(&report, &findings, args, printer)?;
    printer.json(Printed::V1(verified(&report, findings, args.expected.as_deref())))?;
    Ok(if report.is_valid() {
        Exit::Ok
    } else {
        Exit::Unauthenticated
    })
}

fn key_of(name: &str, args: &VerifyArgs, peers: &[PeerEntry]) -> Outcome<Option<PublicKey>> {
    if let Some(text) = &args.key {
        return PublicKey::from_base64(text)
            .map(Some)
            .map_err(|error| Failure::usage(format!("--key: {error}")));
    }
    Ok(peers
        .iter()
        .find(|peer| peer.name.as_str() == name)
        .and_then(|peer| peer.key))
}

/// Lists the problems, most important first.
fn findings(
    report: &Report,
    claim: &Claim<'_>,
    now: UnixMillis,
    expected: Option<&str>,
    key: &PublicKey,
) -> Vec<String> {
    let mut findings = Vec::new();
    match report.timestamp {
        TimestampText::Canonical(_) => {}
        TimestampText::Sloppy(time) => findings.push(format!(
            "the timestamp {:?} is not in its shortest form: write {time}",
            claim.timestamp
        )),
        TimestampText::Invalid => findings.push(format!(
            "the timestamp {:?} is not a whole number of milliseconds",
            claim.timestamp
        )),
    }
    match &report.signature {
        SignatureText::Canonical(_) => {}
        SignatureText::Sloppy(signature, why) => {
            findings.push(format!("the signature is {why}; write {}", signature.to_base64()));
        }
        SignatureText::Invalid(why) => findings.push(format!("the signature is malformed: {why}")),
    }
    if let Some(attempt) = &report.attempt {
        findings.extend(attempt.causes.iter().cloned());
    } else if !report.signature_verifies && report.base.is_some() && report.signature.signature().is_some() {
        let over_expected = expected
            .zip(report.signature.signature())
            .is_some_and(|(expected, signature)| key.verify(expected.as_bytes(), signature).is_ok());
        findings.push(if over_expected {
            "the signature covers the expected string, which is not the string that must be signed".to_owned()
        } else {
            "the signature does not verify, and no common mistake explains it: it was made with another \
             key, or over other contents"
                .to_owned()
        });
    }
    if let (Some(by), Some(time)) = (report.stale_by, report.timestamp.time()) {
        if let Some(unit) = other_unit(time, now) {
            findings.push(format!(
                "the timestamp looks like {unit}: the header needs milliseconds"
            ));
        }
        let direction = if time > now { "in the future" } else { "too old" };
        findings.push(format!(
            "the timestamp is {direction}: request {}, receiver {} ({} apart; {} is the limit): check both clocks",
            explain::date(time),
            explain::date(now),
            human(by),
            human(FRESHNESS_WINDOW)
        ));
    }
    findings
}

/// Returns the unit in which a timestamp would be within a day of now.
fn other_unit(time: UnixMillis, now: UnixMillis) -> Option<&'static str> {
    const DAY: Duration = Duration::from_secs(86_400);
    let readings = [
        ("seconds", UnixSeconds::new(time.get()).to_millis()),
        ("microseconds", UnixMillis::new(time.get().div_euclid(1_000))),
        ("nanoseconds", UnixNanos::new(time.get()).to_millis()),
    ];
    readings
        .into_iter()
        .find(|(_, reading)| reading.abs_diff(now) < DAY)
        .map(|(unit, _)| unit)
}

fn print(report: &Report, findings: &[String], args: &VerifyArgs, printer: Printer) -> Outcome<()> {
    if report.is_valid() {
        printer.line(format_args!("{}", "valid".green().bold()))?;
    } else {
        printer.line(format_args!("{}", "invalid".red().bold()))?;
    }
    for finding in findings {
        printer.line(format_args!("  {}", printable(finding)))?;
    }
    let Some(base) = &report.base else {
        return Ok(());
    };
    if args.explain {
        printer.line(format_args!("base         {}", explain::escape(base)))?;
        printer.line(format_args!("base, hex    {}", explain::hex(base)))?;
    }
    if let Some(attempt) = report.attempt.as_ref().filter(|_| args.explain) {
        printer.line(format_args!("signed       {}", explain::escape(&attempt.base)))?;
        print_difference(base, &attempt.base, "must be", "signed", printer)?;
    }
    if let Some(expected) = &args.expected {
        print_difference(base, expected.as_bytes(), "must be", "expected", printer)?;
    }
    Ok(())
}

fn print_difference(ours: &[u8], theirs: &[u8], we: &str, they: &str, printer: Printer) -> Outcome<()> {
    let Some(difference) = Difference::between(ours, theirs) else {
        return printer.line(format_args!(
            "the {they} string is the string that must be signed"
        ));
    };
    let [first, second, mark] = difference.context(ours, theirs);
    printer.line(difference.summary())?;
    printer.line(format_args!("  {we:<9}  {first}"))?;
    printer.line(format_args!("  {they:<9}  {second}"))?;
    printer.line(format_args!("             {mark}"))
}

/// The output of `verify`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Printed {
    V1(VerifiedV1),
    V2(v2::VerifiedV2),
    Event(VerifiedEvent),
}

/// A request in profile v1.
#[derive(Serialize, ToSchema)]
pub(super) struct VerifiedV1 {
    valid: bool,
    signature_verifies: bool,
    /// The problems.
    findings: Vec<String>,
    /// The signature base.
    #[schema(required)]
    signature_base: Option<String>,
    signature_base_hex: Option<String>,
    /// How far its time is beyond the accepted window.
    stale_by_ms: Option<u64>,
    /// The text that was actually signed, if found.
    signed_instead_hex: Option<String>,
    signed_instead_difference: Option<FirstDifference>,
    /// Where the base differs from the expected string.
    expected_difference: Option<FirstDifference>,
}

/// The first difference of two texts.
#[derive(Serialize, ToSchema)]
struct FirstDifference {
    offset: usize,
    /// Absent past the end.
    expected_byte: Option<u8>,
    found_byte: Option<u8>,
}

/// An event.
#[derive(Serialize, ToSchema)]
pub(super) struct VerifiedEvent {
    #[serde(flatten)]
    report: PrintedReport,
    valid: bool,
    /// The problems.
    findings: Vec<String>,
}

fn verified(report: &Report, findings: Vec<String>, expected: Option<&str>) -> VerifiedV1 {
    let difference = |theirs: &[u8]| {
        let difference = Difference::between(report.base.as_deref()?, theirs)?;
        Some(FirstDifference {
            offset: difference.offset,
            expected_byte: difference.expected,
            found_byte: difference.found,
        })
    };
    let attempt = report.attempt.as_ref();
    let base = report.base.as_deref();
    VerifiedV1 {
        valid: report.is_valid(),
        signature_verifies: report.signature_verifies,
        findings,
        signature_base: base.map(|base| String::from_utf8_lossy(base).into_owned()),
        signature_base_hex: base.map(explain::hex),
        stale_by_ms: report
            .stale_by
            .map(|by| u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        signed_instead_hex: attempt.map(|attempt| explain::hex(&attempt.base)),
        signed_instead_difference: attempt.and_then(|attempt| difference(&attempt.base)),
        expected_difference: expected.and_then(|expected| difference(expected.as_bytes())),
    }
}

fn verify_event(path: &Path, args: &VerifyArgs, peers: &[PeerEntry], printer: Printer) -> Outcome {
    let event = read_event(path)?;
    let key = key_of(&event.emitter, args, peers)?.or_else(|| event.embedded_key());
    let report = EventReport::new(&event, key.as_ref());
    let mut findings = Vec::new();
    if let Err(problem) = report.well_formed {
        findings.push(format!("malformed: {problem}"));
    }
    if !report.genuine_id {
        findings.push(format!(
            "the id {} does not follow from the content",
            harmless(&event.id)
        ));
    }
    match (event.is_signed(), report.signature_verifies) {
        (false, _) => findings.push("it is not signed".to_owned()),
        (true, None) => findings.push(format!(
            "no public key is known for the emitter {}: pass --key",
            harmless(&event.emitter)
        )),
        (true, Some(false)) => {
            findings.push("the signature does not verify with the key of the emitter".to_owned())
        }
        (true, Some(true)) => {}
    }
    let valid = findings.is_empty();
    printer.line(if valid {
        "valid".green().bold().to_string()
    } else {
        "invalid".red().bold().to_string()
    })?;
    for finding in &findings {
        printer.line(format_args!("  {}", printable(finding)))?;
    }
    if args.explain {
        for line in report.lines() {
            printer.line(line)?;
        }
        if let Some(difference) = Difference::between(report.recomputed_id.as_bytes(), event.id.as_bytes()) {
            printer.line(format_args!("id: {}", difference.summary()))?;
        }
    }
    printer.json(Printed::Event(VerifiedEvent {
        report: report.printed(),
        valid,
        findings,
    }))?;
    Ok(if valid { Exit::Ok } else { Exit::Unauthenticated })
}
