//! The addresses of this machine and their changes: a machine may change networks while connections are open.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// The polling interval: the maximum delay before a change of network is noticed. One poll takes some microseconds.
const EVERY: Duration = Duration::from_millis(250);

/// A receiver of the addresses; empty until the first poll.
pub(super) type Addresses = watch::Receiver<BTreeSet<IpAddr>>;

/// Keeps the addresses up to date. Skips link-local addresses: each container has one, and neither relays nor peers
/// are reachable from them. Never returns.
pub(super) async fn run(addresses: watch::Sender<BTreeSet<IpAddr>>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let found = interfaces
                    .iter()
                    .filter(|interface| !interface.is_link_local())
                    .map(if_addrs::Interface::ip)
                    .collect();
                addresses.send_if_modified(|old| {
                    let differs = *old != found;
                    *old = found;
                    differs
                });
            }
            Err(error) => tracing::debug!(%error, "cannot read the addresses of this machine"),
        }
    }
}

/// Returns the source addresses of the default routes, at most one per family.
pub(super) fn outward() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849). Connecting a UDP socket sends nothing; it only selects a route.
    const ELSEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let address = |(any, elsewhere): (&str, &str)| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(elsewhere)?;
        socket.local_addr()
    };
    let found = ELSEWHERE.into_iter().filter_map(|pair| address(pair).ok());
    found.map(|address| address.ip()).collect()
}

/// Waits until this machine no longer has an address. `was_known` states that the address was listed before. An address
/// that is never listed, as in some sandboxes, is never lost.
pub(super) async fn lost(addresses: &mut Addresses, address: IpAddr, was_known: bool) {
    let is_known = was_known || addresses.wait_for(|known| known.contains(&address)).await.is_ok();
    if !is_known
        || addresses
            .wait_for(|known| !known.contains(&address))
            .await
            .is_err()
    {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_address_is_lost_once_it_is_no_longer_listed() {
        let [ours, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let addresses = watch::Sender::default();
        let mut known = addresses.subscribe();
        assert!(
            lost(&mut known, ours, false).now_or_never().is_none(),
            "not read yet"
        );
        addresses.send_replace(BTreeSet::from([other]));
        assert!(
            lost(&mut known, ours, false).now_or_never().is_none(),
            "never listed"
        );
        assert!(lost(&mut known, ours, true).now_or_never().is_some());
        let mut waiting = std::pin::pin!(lost(&mut known, ours, false));
        assert!(waiting.as_mut().now_or_never().is_none());
        addresses.send_replace(BTreeSet::from([ours, other]));
        assert!(waiting.as_mut().now_or_never().is_none());
        addresses.send_replace(BTreeSet::from([other]));
        assert!(waiting.as_mut().now_or_never().is_some());
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
