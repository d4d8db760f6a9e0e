//! What the service manager is told: systemd, or another one that sets `NOTIFY_SOCKET`. Without one, nothing is sent.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::printer::harmless;

/// How often the status line is sent.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Time on top of what the program itself allows for its start.
const START_MARGIN: Duration = Duration::from_secs(30);

/// Whether the last message was lost: a manager that is gone is mentioned once.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether there is a service manager.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// The start takes up to `limit`, whatever the limit of the service manager.
pub(crate) fn starting(limit: Duration) {
    let micros = limit.saturating_add(START_MARGIN).as_micros();
    tell(&[NotifyState::ExtendTimeoutUsec(
        u32::try_from(micros).unwrap_or(u32::MAX),
    )]);
}

/// The nara serves.
pub(crate) fn ready(status: impl Display) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// A reload begins. It ends with [`ready`].
pub(crate) fn reloading() {
    // systemd tells by the time whether the message is older than its request.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// The nara ends.
pub(crate) fn stopping(status: impl Display) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
}

/// What the nara does now.
pub(crate) fn status(status: impl Display) {
    tell(&[NotifyState::Status(&line(status))]);
}

/// The same, and that the nara is alive, if the service manager asked to be told.
pub(crate) fn alive(status: impl Display) {
    let status = line(status);
    match watchdog() {
        Some(_) => tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]),
        None => tell(&[NotifyState::Status(&status)]),
    }
}

/// How often [`alive`] is due.
pub(crate) fn interval() -> Duration {
    // Half of it, as sd_watchdog_enabled(3) recommends.
    watchdog().map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2))
}

fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::from_millis(1))
}

/// A status is one line.
fn line(status: impl Display) -> String {
    harmless(&status.to_string())
}

fn tell(state: &[NotifyState<'_>]) {
    if !is_there() {
        return;
    }
    match sd_notify::notify(state) {
        Ok(()) => LOST.store(false, Ordering::Relaxed),
        Err(error) if !LOST.swap(true, Ordering::Relaxed) => {
            tracing::warn!(%error, "the service manager does not take messages on NOTIFY_SOCKET");
        }
        Err(_) => {}
    }
}
