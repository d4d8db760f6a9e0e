//! Reports progress while the ledger is opened: a ledger of an older version is converted first.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lines::NaraLine;
use crate::printer::Printer;
use crate::service_manager;

/// How often the service manager is notified.
const REPORT: Duration = Duration::from_secs(1);

/// How often a line is printed.
const LINE: Duration = Duration::from_secs(10);

/// Reports the progress of opening, and stops it once `ended` is set.
pub(super) fn watch(
    ended: Arc<AtomicBool>,
    printer: Printer,
) -> impl FnMut(u64, u64) -> ControlFlow<()> + Send + 'static {
    let (mut extended, mut reported, mut told) = (None, None, None);
    move |done, all| {
        if ended.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if is_due(&mut extended, REPORT) {
            // Extends the start timeout of the service manager for as long as the conversion takes.
            service_manager::starting(REPORT);
        }
        if all > 0 && is_due(&mut reported, REPORT) {
            service_manager::status(text(done, all));
        }
        if all > 0 && is_due(&mut told, LINE) {
            printer.note(text(done, all));
            // The lines of a daemon are queued.
            let _ = printer.json_line(NaraLine::Converting { done, all });
        }
        ControlFlow::Continue(())
    }
}

fn text(done: u64, all: u64) -> String {
    format!("converting the ledger of an older version: {done} of {all} events")
}

fn is_due(last: &mut Option<Instant>, pause: Duration) -> bool {
    if last.is_some_and(|last| last.elapsed() < pause) {
        return false;
    }
    *last = Some(Instant::now());
    true
}
