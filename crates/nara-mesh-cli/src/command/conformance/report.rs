//! The report of the checks: for people, and as JSON (docs/schemas/conformance.json).

use std::net::SocketAddr;

use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::v2::Capability;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::check::{Check, Level};
use super::checks::GROUPS;
use super::peer::Exchange;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::{Printer, count, harmless, render, table};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Pass,
    /// The actual behaviour of the peer.
    Fail(String),
    /// The missing requirement.
    Skipped(String),
}

impl Finding {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Skipped(_) => "skipped",
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            Self::Pass => None,
            Self::Fail(text) | Self::Skipped(text) => Some(text),
        }
    }
}

/// A check and its result.
#[derive(Debug)]
pub(super) struct Result {
    pub(super) check: &'static Check,
    pub(super) finding: Finding,
    pub(super) exchanges: Vec<Exchange>,
}

/// The results for a peer.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: NaraName,
    pub(super) address: SocketAddr,
    pub(super) key: PublicKey,
    pub(super) capability: Option<Capability>,
    /// The peer's answer when it refused the v1 nara.
    pub(super) refusal: Option<String>,
    pub(super) results: Vec<Result>,
}

impl Report {
    fn number(&self, level: Level, finding: &str) -> usize {
        let counted = |result: &&Result| result.check.level == level && result.finding.as_str() == finding;
        self.results.iter().filter(counted).count()
    }

    /// Returns `Partial` if a MUST failed, and `Unauthenticated` if the peer refuses the checking naras.
    pub(super) fn exit(&self) -> Exit {
        if self.number(Level::Must, "fail") > 0 {
            Exit::Partial
        } else if self.refusal.is_some() {
            Exit::Unauthenticated
        } else {
            Exit::Ok
        }
    }

    fn to_json(&self) -> Value {
        let level = |level| {
            json!({
                "pass": self.number(level, "pass"),
                "fail": self.number(level, "fail"),
                "skipped": self.number(level, "skipped"),
            })
        };
        let announced = |what: fn(&Capability) -> bool| self.capability.as_ref().is_some_and(what);
        json!({
            "peer": {
                "name": self.name.as_str(),
                "address": self.address.to_string(),
                "key_id": KeyId::from(&self.key).to_string(),
                "announces": {
                    "v2": announced(|capability| capability.v2),
                    "streams": announced(|capability| capability.streams),
                    "tls": announced(|capability| capability.tls),
                    "raw_public_key": announced(|capability| capability.raw_public_key),
                },
                "refuses_us": self.refusal,
            },
            "summary": {
                "must": level(Level::Must),
                "should": level(Level::Should),
                "deviation-known": level(Level::DeviationKnown),
            },
            "checks": self.results.iter().map(Result::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Result {
    fn to_json(&self) -> Value {
        let exchanges: Vec<Value> = self
            .exchanges
            .iter()
            .map(|exchange| json!({ "sent": exchange.sent, "came": exchange.came }))
            .collect();
        json!({
            "id": self.check.id,
            "level": self.check.level.as_str(),
            "section": format!("docs/protocol/{}", self.check.section),
            "says": self.check.says,
            "verdict": self.finding.as_str(),
            "detail": self.finding.detail(),
            "exchanges": exchanges,
        })
    }
}

/// Prints the results: failures with the requests and answers, and all others if wanted.
pub(super) fn print(report: &Report, all: bool, printer: Printer) -> Outcome<()> {
    printer.json(report.to_json())?;
    for result in &report.results {
        let word = match (&result.finding, result.check.level) {
            (Finding::Pass, _) if !all => continue,
            (Finding::Skipped(_), _) if !all => continue,
            (Finding::Pass, _) => "pass".green().to_string(),
            (Finding::Skipped(_), _) => "skipped".dimmed().to_string(),
            (Finding::Fail(_), Level::Must) => "FAIL".red().bold().to_string(),
            (Finding::Fail(_), _) => "differs".yellow().to_string(),
        };
        printer.line(format_args!(
            "{word}  {}  ({})",
            result.check.id.bold(),
            result.check.level.as_str()
        ))?;
        printer.line(format_args!("      says   {}", result.check.says))?;
        printer.line(format_args!(
            "      where  docs/protocol/{}",
            result.check.section
        ))?;
        if let Some(detail) = result.finding.detail() {
            printer.line(format_args!("      found  {}", harmless(detail)))?;
        }
        for exchange in &result.exchanges {
            printer.line(format_args!("      sent   {}", harmless(&exchange.sent)))?;
            printer.line(format_args!("      came   {}", harmless(&exchange.came)))?;
        }
    }
    let mut summary = table(["LEVEL", "PASS", "FAIL", "SKIPPED"]);
    for level in [Level::Must, Level::Should, Level::DeviationKnown] {
        summary.add_row([
            level.as_str().to_owned(),
            report.number(level, "pass").to_string(),
            report.number(level, "fail").to_string(),
            report.number(level, "skipped").to_string(),
        ]);
    }
    printer.line(render(&summary))?;
    printer.line(format_args!(
        "{} at {}: {}",
        harmless(report.name.as_str()),
        report.address,
        match report.number(Level::Must, "fail") {
            0 => "no MUST check failed".to_owned(),
            failed => format!("{} failed", count(failed, "MUST check")),
        }
    ))
}

/// Prints all checks without running them.
pub(super) fn list(printer: Printer) -> Outcome {
    let checks: Vec<&Check> = GROUPS.iter().flat_map(|group| group.checks).collect();
    let mut rows = table(["CHECK", "LEVEL", "WHERE", "SAYS"]);
    for check in &checks {
        rows.add_row([check.id, check.level.as_str(), check.section, check.says]);
    }
    printer.line(render(&rows))?;
    let listed: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({
                "id": check.id,
                "level": check.level.as_str(),
                "section": format!("docs/protocol/{}", check.section),
                "says": check.says,
            })
        })
        .collect();
    printer.json(json!({ "checks": listed }))?;
    Ok(Exit::Ok)
}
