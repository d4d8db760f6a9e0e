//! The signals of the program.

use std::pin::pin;
use std::time::Duration;

use nara_mesh::server::Shutdown;
use tokio::time::timeout;

use crate::failure::Outcome;
#[cfg(unix)]
use crate::{output, panics};

/// A signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) enum Signal {
    End,
    Reload,
}

#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// Whether a hangup reloads: closing a terminal ends its programs, but a daemon has none.
    hung_up: Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn new() -> Outcome<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let watch = |kind| signal(kind).map_err(panics::refused);
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            hung_up: if output::on_terminal() {
                Signal::End
            } else {
                Signal::Reload
            },
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::End,
            _ = self.terminate.recv() => Signal::End,
            _ = self.hangup.recv() => self.hung_up,
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new() -> Outcome<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) -> Signal {
        // If ctrl-C cannot be watched, stopping is the safe choice.
        let _ = tokio::signal::ctrl_c().await;
        Signal::End
    }
}

impl Signals {
    pub(super) async fn next_end(&mut self) {
        while self.next().await != Signal::End {}
    }
}

/// How long a shutdown may take after a second signal. One without requests in flight ends within it: programs such
/// as `timeout` send each signal twice.
const MOMENT: Duration = Duration::from_millis(500);

/// Waits for a shutdown, which a second signal aborts.
pub(super) async fn or_aborted(
    shutdown: impl Future<Output = Shutdown>,
    second: impl Future<Output = ()>,
) -> Shutdown {
    let mut shutdown = pin!(shutdown);
    tokio::select! {
        outcome = &mut shutdown => outcome,
        () = second => timeout(MOMENT, shutdown).await.unwrap_or(Shutdown::Forced),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts_only_what_does_not_end_by_itself() {
        let idle = async {
            sleep(MOMENT / 10).await;
            Shutdown::Graceful
        };
        assert_eq!(or_aborted(idle, ready(())).await, Shutdown::Graceful);
        assert_eq!(or_aborted(pending(), ready(())).await, Shutdown::Forced);
        let slow = async {
            sleep(MOMENT * 10).await;
            Shutdown::Graceful
        };
        assert_eq!(or_aborted(slow, pending()).await, Shutdown::Graceful);
    }
}
