//! The listening address of `serve`: it may appear later, and may change if it belongs to an interface or a
//! host name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nara_proto::backoff::Backoff;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::signals::Signals;
use crate::cli::Listen;
use crate::failure::Outcome;
use crate::hosts;
use crate::lines::NaraLine;
use crate::printer::Printer;
use crate::service_manager;

/// How often a missing address is checked.
const PERIOD: Duration = Duration::from_secs(1);

/// How often the current address is checked.
const LOOK: Duration = Duration::from_secs(10);

/// When the operator is first reminded of what the start waits for; the interval doubles up to an hour.
const FIRST_REMINDER: Duration = Duration::from_secs(60);

/// Waits until the address is one of this machine. `None` if a signal ended the wait.
pub(super) async fn wait(
    listen: &Listen,
    signals: &mut Signals,
    printer: Printer,
) -> Outcome<Option<SocketAddr>> {
    let (mut told, mut next) = (String::new(), Instant::now());
    let mut reminders = Backoff::new(FIRST_REMINDER, 60 * FIRST_REMINDER);
    loop {
        let reason = match look(listen).await {
            Ok(address) => return Ok(Some(address)),
            Err(reason) => reason,
        };
        // Extends the start timeout of the service manager for as long as the wait takes.
        service_manager::starting(PERIOD);
        let is_news = reason != told;
        if is_news || Instant::now() >= next {
            service_manager::status(format_args!("waiting for {listen}: {reason}"));
            printer.warn(format_args!("waiting for {listen}: {reason}"));
            printer.json_line(NaraLine::Waiting {
                listen: listen.to_string(),
                reason: reason.clone(),
            })?;
            if is_news {
                reminders.reset();
            }
            next = Instant::now() + reminders.after_failure(u32::MAX);
            told = reason;
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = signals.next_end() => return Ok(None),
        }
    }
}

/// Returns the address if it is one of this machine, else the reason.
async fn look(listen: &Listen) -> Result<SocketAddr, String> {
    let found = hosts::address_of(listen).await;
    let address = found.map_err(|error| error.to_string())?;
    match hosts::is_missing(address.ip()) {
        true => Err(missing(address.ip())),
        false => Ok(address),
    }
}

/// Moves the nara when the interface or the host of `--listen` no longer has the current address; reports
/// when that fails, or when no interface has the address. `again` triggers a check.
pub(super) async fn follow<L, M>(
    listen: &Listen,
    mut bound: IpAddr,
    again: &Notify,
    look: impl Fn() -> L,
    move_to: impl Fn(IpAddr) -> M,
    tell: impl Fn(NaraLine),
) where
    L: Future<Output = io::Result<Vec<SocketAddr>>>,
    M: Future<Output = io::Result<()>>,
{
    let (mut told, mut is_gone) = (None, false);
    loop {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = again.notified() => {}
        }
        let found = look().await.unwrap_or_default();
        // If nothing was resolved, keep the current address.
        let is_there = found.is_empty() || found.iter().any(|address| address.ip() == bound);
        let mut failed = None;
        for now in found.into_iter().filter(|_| !is_there) {
            match move_to(now.ip()).await {
                Ok(()) => {
                    (bound, failed) = (now.ip(), None);
                    break;
                }
                // Some of the addresses may belong to another machine.
                Err(error) => failed = failed.or_else(|| Some((now, error.to_string()))),
            }
        }
        if let Some((now, reason)) = failed.as_ref().filter(|_| failed != told) {
            tell(NaraLine::ListenMoved {
                listen: listen.to_string(),
                now: now.to_string(),
                bound: bound.to_string(),
                reason: Some(reason.clone()),
            });
        }
        told = failed;
        let is_missing = hosts::is_missing(bound);
        if is_missing && !is_gone {
            tracing::warn!(%bound, %listen, "no interface has the listening address now: peers cannot reach this nara");
        }
        is_gone = is_missing;
    }
}

fn missing(ip: IpAddr) -> String {
    format!(
        "no interface of this machine has the address {ip} yet; to join a tailnet and listen on this machine's address there, run \
         `nara-mesh up` instead"
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::future::ready;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn an_address_of_this_machine_is_there_and_another_one_is_missing_with_the_way_out() {
        let listen = |text: &str| text.parse::<Listen>().unwrap();
        assert_eq!(look(&listen("127.0.0.1:7")).await, Ok(([127, 0, 0, 1], 7).into()));
        let named = look(&listen("localhost:7")).await.unwrap();
        assert!(named.ip().is_loopback() && named.port() == 7, "{named}");
        let interface = look(&listen("lo:7")).await.unwrap();
        assert_eq!(interface, ([127, 0, 0, 1], 7).into());
        let reason = look(&listen("nobody.invalid:7")).await.unwrap_err();
        assert!(reason.contains("no network interface or host"), "{reason}");
        // An address of the documentation range, which no machine has.
        let reason = look(&listen("192.0.2.7")).await.unwrap_err();
        assert!(
            reason.contains("192.0.2.7 yet") && reason.contains("`nara-mesh up`"),
            "{reason}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_moves_is_followed_and_one_that_cannot_be_used_is_told_once() {
        let listen: Listen = "nara.example:9632".parse().unwrap();
        let [here, there, elsewhere]: [SocketAddr; 3] =
            ["10.0.0.1:9632", "10.0.0.2:9632", "10.0.0.3:9632"].map(|text| text.parse().unwrap());
        let answers = RefCell::new(VecDeque::from([
            // The current address is still present.
            Ok(vec![there, here]),
            Err(io::ErrorKind::TimedOut.into()),
            Ok(Vec::new()),
            // An address of another machine.
            Ok(vec![elsewhere]),
            Ok(vec![elsewhere]),
            Ok(vec![elsewhere, there]),
            Ok(vec![there]),
            Ok(vec![here]),
            Ok(vec![elsewhere]),
        ]));
        let told = RefCell::new(Vec::new());
        let again = Notify::new();
        let ended = CancellationToken::new();
        let look = || {
            let answer = answers.borrow_mut().pop_front();
            if answer.is_none() {
                ended.cancel();
            }
            ready(answer.unwrap_or_else(|| Ok(Vec::new())))
        };
        let moved = RefCell::new(Vec::new());
        let move_to = |ip: IpAddr| {
            if ip == elsewhere.ip() {
                return ready(Err(io::ErrorKind::AddrNotAvailable.into()));
            }
            moved.borrow_mut().push(ip);
            ready(Ok(()))
        };
        let tell = |line| told.borrow_mut().push(serde_json::to_value(line).unwrap());
        tokio::select! {
            () = follow(&listen, here.ip(), &again, look, move_to, tell) => {}
            () = ended.cancelled() => {}
        }
        let told = told.into_inner();
        assert_eq!(moved.into_inner(), [there.ip(), here.ip()]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|line| line["now"] == "10.0.0.3:9632"), "{told:?}");
        assert!(told.iter().all(|line| line["bound"] == "10.0.0.1"), "{told:?}");
        // A fixed address does not move, but is checked as well.
        let fixed = Listen::Address(here);
        let looks = RefCell::new(0);
        let look = || {
            *looks.borrow_mut() += 1;
            ready(Ok(vec![here]))
        };
        let following = follow(
            &fixed,
            here.ip(),
            &again,
            look,
            |_| ready(Err(io::ErrorKind::Other.into())),
            |line| panic!("{line:?}"),
        );
        tokio::time::timeout(3 * LOOK, following).await.unwrap_err();
        assert!(*looks.borrow() > 1);
    }
}
