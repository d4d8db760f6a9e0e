//! The addresses of this machine, and when they change: networks are joined and left while connections are open.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// The addresses are read this often, which takes some microseconds: a connection that moves is quiet for so long.
const EVERY: Duration = Duration::from_secs(1);

/// Empty until they were read for the first time.
pub(super) type Addresses = watch::Receiver<BTreeSet<IpAddr>>;

/// Keeps them up to date. Never ends.
pub(super) async fn run(addresses: watch::Sender<BTreeSet<IpAddr>>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let found = interfaces.iter().map(if_addrs::Interface::ip).collect();
                addresses.send_if_modified(|old| {
                    let differs = *old != found;
                    *old = found;
                    differs
                });
            }
            Err(error) => tracing::debug!(%error, "the addresses of this machine cannot be read"),
        }
    }
}

/// Waits until this machine no longer has an address.
pub(super) async fn lost(addresses: &mut Addresses, address: IpAddr) {
    let is_lost = |known: &BTreeSet<IpAddr>| !known.is_empty() && !known.contains(&address);
    if addresses.wait_for(is_lost).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_address_is_lost_when_others_are_known_and_it_is_not() {
        let addresses = watch::Sender::default();
        let ours = IpAddr::from([192, 0, 2, 1]);
        let mut known = addresses.subscribe();
        assert!(lost(&mut known, ours).now_or_never().is_none(), "not read yet");
        addresses.send_replace(BTreeSet::from([ours, IpAddr::from([192, 0, 2, 2])]));
        assert!(lost(&mut known, ours).now_or_never().is_none());
        addresses.send_replace(BTreeSet::from([IpAddr::from([192, 0, 2, 2])]));
        assert!(lost(&mut known, ours).now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_addresses_of_this_machine_are_read() {
        let addresses = watch::Sender::default();
        let mut known: Addresses = addresses.subscribe();
        let running = tokio::spawn(run(addresses));
        known.changed().await.unwrap();
        running.abort();
    }
}
