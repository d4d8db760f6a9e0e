//! Handles panics of a command. If the system refuses a thread or a descriptor, tokio and the standard
//! library panic: that is reported as an ordinary failure. Every other panic is a bug, and also ends with the
//! exit code of a failure.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use crate::failure::{Failure, Outcome};

/// Prefixes of panic messages that mean that the system refused a resource.
const REFUSALS: [&str; 3] = [
    "failed to create UnixStream",
    "OS can't spawn worker thread",
    "failed to spawn thread",
];

/// The hint if the system refuses more resources.
const MORE: &str = "raise the limits of open files and threads (`ulimit -n` and `-u`; for systemd LimitNOFILE and TasksMax), or end other programs";

/// Runs the main thread of a command and converts panics to failures.
pub(crate) fn caught<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    tell(panic::take_hook());
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        Err(match refusal(&*payload) {
            Some(refusal) => refused(refusal.to_owned()),
            None => Failure::failed("this is a bug in nara-mesh").hint("report it with the output above"),
        })
    })
}

/// Reports panics from now on, except those that become a failure of this thread, which reports them itself.
pub(crate) fn tell(told: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static) {
    let here = std::thread::current().id();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here || refusal(info.payload()).is_none() {
            told(info);
        }
    }));
}

/// Builds the failure for a resource that the system refused.
pub(crate) fn refused(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::failed("the system refuses this process more threads or open files")
        .caused_by(cause)
        .hint(MORE)
}

fn refusal(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied())?;
    REFUSALS
        .iter()
        .any(|begin| text.starts_with(begin))
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_had_is_a_failure_with_its_cause_and_so_is_any_panic() {
        let failure = caught::<()>(|| panic!("OS can't spawn worker thread: {}", "no more")).unwrap_err();
        assert_eq!(failure.causes(), ["OS can't spawn worker thread: no more"]);
        assert!(failure.hint.is_some_and(|hint| hint.contains("ulimit")));
        let failure = caught::<()>(|| panic!("of the program")).unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Failed);
    }
}
