//! Notifies the service manager: systemd, or another one that sets `NOTIFY_SOCKET`. Without one, nothing is
//! sent.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::printer::harmless;

/// How often the status line is sent.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Margin beyond the start timeouts of the program itself.
const START_MARGIN: Duration = Duration::from_secs(30);

/// Whether the last message was lost: an unreachable manager is logged once.
static LOST: AtomicBool = AtomicBool::new(false);

/// Returns whether there is a service manager.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Extends the start timeout of the service manager to `limit` from now.
pub(crate) fn starting(limit: Duration) {
    let micros = limit.saturating_add(START_MARGIN).as_micros();
    tell(&[NotifyState::ExtendTimeoutUsec(
        u32::try_from(micros).unwrap_or(u32::MAX),
    )]);
}

/// Reports that the nara serves.
pub(crate) fn ready(status: impl Display) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// Reports that a reload begins. It ends with [`ready`].
pub(crate) fn reloading() {
    // systemd compares this time with that of its reload request.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "cannot notify the service manager of the reload"),
    }
}

/// Reports that the nara is stopping.
pub(crate) fn stopping(status: impl Display) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&line(status))]);
}

/// Sends the status line.
pub(crate) fn status(status: impl Display) {
    tell(&[NotifyState::Status(&line(status))]);
}

/// Sends the status line and, if the service manager requested a watchdog, a keep-alive.
pub(crate) fn alive(status: impl Display) {
    let status = line(status);
    match watchdog() {
        Some(_) => tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]),
        None => tell(&[NotifyState::Status(&status)]),
    }
}

/// Returns how often [`alive`] is due.
pub(crate) fn interval() -> Duration {
    // Half of the watchdog timeout, as sd_watchdog_enabled(3) recommends.
    watchdog().map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2))
}

fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::from_millis(1))
}

/// Flattens a status to one line.
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
            tracing::warn!(%error, "cannot notify the service manager on NOTIFY_SOCKET");
        }
        Err(_) => {}
    }
}
