//! The log, on stderr.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ColorChoice;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::failure::{Failure, Outcome};
use crate::output::{self, LogWriter};
use crate::settings::Settings;

/// How many warnings of one kind are written within [`WINDOW`].
const MOST_OF_A_KIND: u32 = 10;

const WINDOW: Duration = Duration::from_secs(10);

/// Starts the log.
pub(crate) fn start(settings: &Settings) -> Outcome<()> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        Failure::usage(format!("{:?} is not a log filter", settings.log))
            .caused_by(error)
            .hint("--log, NARA_MESH_LOG and RUST_LOG take level or module=level, separated by commas")
    })?;
    let ansi = match settings.color {
        ColorChoice::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let lines = fmt::layer()
        .with_writer(|| LogWriter)
        .with_ansi(ansi)
        .with_target(settings.verbose)
        .with_filter(Repetitions::default());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    Ok(())
}

/// Leaves out warnings that are repeated too often: peers can cause them.
#[derive(Debug, Default)]
struct Repetitions(Mutex<HashMap<Identifier, Kind>>);

/// The warnings of one place in the code.
#[derive(Debug)]
struct Kind {
    since: Instant,
    count: u32,
}

impl Repetitions {
    /// Whether one more is written, and how many were left out before.
    fn admit(&self, kind: Identifier, now: Instant) -> (bool, u32) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

impl<S: Subscriber> Filter<S> for Repetitions {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::WARN {
            return true;
        }
        let (admitted, left_out) = self.admit(event.metadata().callsite(), Instant::now());
        if left_out > 0 {
            output::stderr(&format!("{left_out} warnings like the next one were left out"));
        }
        admitted
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
