//! Panics of a command. Where the system refuses a thread or a descriptor, tokio and the standard library panic: that is a
//! failure like any other. Everything else is a fault of the program, and ends with the exit code of a failure as well.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use crate::failure::{Failure, Outcome};

/// How the panics begin that mean a refusal of the system.
const REFUSALS: [&str; 3] = [
    "failed to create UnixStream",
    "OS can't spawn worker thread",
    "failed to spawn thread",
];

/// What to do where the system refuses more.
const MORE: &str = "raise the limits of open files and threads (`ulimit -n` and `-u`; for systemd LimitNOFILE and TasksMax), or end other programs";

/// Runs the main thread of a command. Panics become failures.
pub(crate) fn caught<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    tell(panic::take_hook());
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        Err(match refusal(&*payload) {
            Some(refusal) => refused(refusal.to_owned()),
            None => Failure::failed("this is a fault of the program")
                .hint("report it, with what it printed above"),
        })
    })
}

/// Tells of panics from now on, but for those that become a failure of this thread, which tells them itself.
pub(crate) fn tell(told: impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static) {
    let here = std::thread::current().id();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here || refusal(info.payload()).is_none() {
            told(info);
        }
    }));
}

/// The failure of a program to which the system gives no more.
pub(crate) fn refused(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::failed("the system gives this process no more threads or open files")
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
