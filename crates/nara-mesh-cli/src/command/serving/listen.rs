//! Where `serve` listens: an address that may come later, or a host name.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use nara_proto::backoff::Backoff;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::signals::Signals;
use crate::cli::Listen;
use crate::failure::Outcome;
use crate::hosts;
use crate::printer::Printer;
use crate::service_manager;

/// How often it is looked whether the address is there.
const PERIOD: Duration = Duration::from_secs(1);

/// When the operator is told again what this waits for, at first; the pause doubles up to an hour.
const FIRST_REMINDER: Duration = Duration::from_secs(60);

/// Waits until the address is one of this machine. `None`: a signal ended the wait.
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
        // However long it takes: the service manager must not end the start.
        service_manager::starting(PERIOD);
        let is_news = reason != told;
        if is_news || Instant::now() >= next {
            service_manager::status(format_args!("waiting for {listen}: {reason}"));
            printer.warn(format_args!("waiting for {listen}: {reason}"));
            printer
                .json_line(json!({ "event": "waiting", "listen": listen.to_string(), "reason": reason }))?;
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

/// The address, if it is one of this machine; else why not.
async fn look(listen: &Listen) -> Result<SocketAddr, String> {
    let found = hosts::address_of(listen).await;
    let address = found.map_err(|error| format!("the host name is not found: {error}"))?;
    // Whatever else is wrong with it, the one who listens there says.
    match TcpListener::bind((address.ip(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(missing(address.ip())),
        _ => Ok(address),
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
    use super::*;

    #[tokio::test]
    async fn an_address_of_this_machine_is_there_and_another_one_is_missing_with_the_way_out() {
        let listen = |text: &str| text.parse::<Listen>().unwrap();
        assert_eq!(look(&listen("127.0.0.1:7")).await, Ok(([127, 0, 0, 1], 7).into()));
        let named = look(&listen("localhost:7")).await.unwrap();
        assert!(named.ip().is_loopback() && named.port() == 7, "{named}");
        // Of the documentation range: nobody has it.
        let reason = look(&listen("192.0.2.7")).await.unwrap_err();
        assert!(
            reason.contains("192.0.2.7 yet") && reason.contains("`nara-mesh up`"),
            "{reason}"
        );
    }
}
