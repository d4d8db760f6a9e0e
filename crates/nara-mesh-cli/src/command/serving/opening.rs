//! What is told while the ledger is opened: an older one is converted before the nara serves.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lines::NaraLine;
use crate::printer::Printer;
use crate::service_manager;

/// How often the service manager hears of it.
const REPORT: Duration = Duration::from_secs(1);

/// How often people do.
const LINE: Duration = Duration::from_secs(10);

/// Tells how far the opening has come, and stops it once `ended` is set.
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
            // However long it takes: the service manager must not end the start.
            service_manager::starting(REPORT);
        }
        if all > 0 && is_due(&mut reported, REPORT) {
            service_manager::status(text(done, all));
        }
        if all > 0 && is_due(&mut told, LINE) {
            printer.note(text(done, all));
            // Lines of a daemon wait in a queue.
            let _ = printer.json_line(NaraLine::Converting { done, all });
        }
        ControlFlow::Continue(())
    }
}

fn text(done: u64, all: u64) -> String {
    format!("converting the ledger of an older program: {done} of {all} events")
}

fn is_due(last: &mut Option<Instant>, pause: Duration) -> bool {
    if last.is_some_and(|last| last.elapsed() < pause) {
        return false;
    }
    *last = Some(Instant::now());
    true
}
