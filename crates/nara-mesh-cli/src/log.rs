//! The log, on stderr or in the journal.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clap::ColorChoice;
use serde_json::{Map, Value, json};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::cli::LogFormat;
use crate::failure::{Failure, Outcome};
use crate::journal::{self, Journal, Record};
use crate::output::{self, LogWriter};
use crate::panics;
use crate::settings::Settings;

/// The most lines of one kind that are written within [`WINDOW`].
const MOST_OF_A_KIND: u32 = 10;

/// The most kinds that are tracked: peers can cause new ones.
const MOST_KINDS: usize = 1024;

const WINDOW: Duration = Duration::from_secs(10);

/// The log target of messages that are not tracing events.
const TARGET: &str = "nara_mesh";

/// The format of [`say`], if not text.
static STRUCTURED: OnceLock<LogFormat> = OnceLock::new();

/// Starts the log.
pub(crate) fn start(settings: &Settings) -> Outcome<()> {
    let filter: Targets = settings.log.parse().map_err(|error: ParseError| {
        Failure::usage(format!("{:?} is not a log filter", settings.log))
            .caused_by(error)
            .hint("--log, NARA_MESH_LOG and RUST_LOG take level or module=level, separated by commas")
    })?;
    let ansi = match settings.color {
        ColorChoice::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let lines = match settings.log_format {
        LogFormat::Text => fmt::layer()
            .with_writer(|| LogWriter::Text)
            .with_ansi(ansi)
            .with_target(settings.verbose)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .with_current_span(false)
            .with_writer(|| LogWriter::Json)
            .boxed(),
        LogFormat::Journald => {
            let journal = Journal::at(Path::new(journal::SOCKET)).map_err(|error| {
                Failure::usage(format!("the journal does not listen on {}", journal::SOCKET))
                    .caused_by(error)
                    .hint("--log-format text and --log-format json write the log to stderr")
            })?;
            output::open_journal(journal).map_err(panics::refused)?;
            journal::Records.boxed()
        }
    };
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    let registry = registry.with(crate::otlp::layers()?);
    registry
        .with(lines.with_filter(Repetitions::default()).with_filter(filter))
        .init();
    Ok(())
}

/// From now on, [`say`] uses this format: for daemons, whose stderr is their log.
pub(crate) fn say_in(format: LogFormat) {
    if format != LogFormat::Text {
        STRUCTURED.get_or_init(|| format);
    }
}

/// Reports something that is not a tracing event. `text` is for people; other formats use `message` and
/// `fields`.
pub(crate) fn say(level: Level, text: &str, message: &str, fields: &[(&str, &str)]) {
    let message = message.trim();
    match STRUCTURED.get() {
        None | Some(LogFormat::Text) => output::stderr(text),
        Some(_) if message.is_empty() => {}
        Some(LogFormat::Json) => {
            let mut timestamp = String::new();
            // Writing to a string cannot fail.
            let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
            let fields: Map<String, Value> = std::iter::once(&("message", message))
                .chain(fields)
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect();
            let line = json!({
                "timestamp": timestamp,
                "level": level.as_str(),
                "fields": fields,
                "target": TARGET,
            });
            output::stderr(&output::json(&line.to_string()));
        }
        Some(LogFormat::Journald) => {
            let mut record = Record::new(level, TARGET);
            record.field("message", message);
            for (name, value) in fields {
                record.field(name, value);
            }
            output::journal(record.into_bytes());
        }
    }
}

/// Suppresses repeated log lines of one kind: peers can cause them.
#[derive(Debug)]
pub(crate) struct Repetitions<K>(Mutex<HashMap<K, Kind>>);

/// The count of one kind of line, such as the warnings of one call site.
#[derive(Debug)]
struct Kind {
    since: Instant,
    count: u32,
}

impl<K> Default for Repetitions<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Repetitions<K> {
    /// Returns whether the next line is written, and logs how many were suppressed before it.
    pub(crate) fn admits(&self, kind: K) -> bool {
        let (admitted, left_out) = self.admit(kind, Instant::now());
        if left_out > 0 {
            let text = format!("suppressed {left_out} lines like the next one");
            say(Level::WARN, &text, &text, &[("left_out", &left_out.to_string())]);
        }
        admitted
    }

    /// Returns whether the next line is written, and how many were suppressed before it.
    pub(crate) fn admit(&self, kind: K, now: Instant) -> (bool, u32) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= MOST_KINDS && !kinds.contains_key(&kind) {
            kinds.retain(|_, kind| now.duration_since(kind.since) < WINDOW);
            if kinds.len() >= MOST_KINDS {
                return (false, 0);
            }
        }
        let kind = kinds.entry(kind).or_insert(Kind { since: now, count: 0 });
        let mut left_out = 0;
        if now.duration_since(kind.since) >= WINDOW {
            left_out = kind.count.saturating_sub(MOST_OF_A_KIND);
            *kind = Kind { since: now, count: 0 };
        }
        kind.count = kind.count.saturating_add(1);
        (kind.count <= MOST_OF_A_KIND, left_out)
    }
}

impl<S: Subscriber> Filter<S> for Repetitions<Identifier> {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::WARN {
            return true;
        }
        self.admits(event.metadata().callsite())
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::{Callsite as _, DefaultCallsite};
    use tracing::field::FieldSet;
    use tracing::metadata::Kind as MetadataKind;

    use super::*;

    static CALLSITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
    static METADATA: Metadata<'static> = Metadata::new(
        "test",
        "test",
        Level::WARN,
        None,
        None,
        None,
        FieldSet::new(&[], Identifier(&CALLSITE)),
        MetadataKind::EVENT,
    );

    #[test]
    fn a_flood_of_one_kind_is_cut_and_counted() {
        let repetitions = Repetitions::default();
        let start = Instant::now();
        let admit = |after: Duration| repetitions.admit(CALLSITE.metadata().callsite(), start + after);
        let written = (0..100).filter(|_| admit(Duration::ZERO).0).count();
        assert_eq!(written, MOST_OF_A_KIND as usize);
        assert_eq!(admit(WINDOW), (true, 100 - MOST_OF_A_KIND));
        assert_eq!(admit(WINDOW * 2), (true, 0));
    }
}
