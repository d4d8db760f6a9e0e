//! The addresses of this machine, and when they change: networks are joined and left while connections are open.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// The addresses are read this often, which takes some microseconds: a connection that moves is quiet for so long.
const EVERY: Duration = Duration::from_secs(1);

/// Empty until they were read for the first time.
pub(super) type Addresses = watch::Receiver<BTreeSet<IpAddr>>;

/// Keeps them up to date. Addresses of one link only are left out: each container brings one, and no relay and no peer is
/// reached from them. Never ends.
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
            Err(error) => tracing::debug!(%error, "the addresses of this machine cannot be read"),
        }
    }
}

/// The addresses from which this machine reaches other networks, one of each family at most.
pub(super) fn outward() -> Vec<IpAddr> {
    // Of documentation (RFC 5737, RFC 3849). Nothing is sent there: the system only says which way it would take.
    const ELSEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let address = |(any, elsewhere): (&str, &str)| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(elsewhere)?;
        socket.local_addr()
    };
    let found = ELSEWHERE.into_iter().filter_map(|pair| address(pair).ok());
    found.map(|address| address.ip()).collect()
}

/// Waits until this machine no longer has an address. `was_known`: it was listed a moment ago. Where it is never listed,
/// as in some sandboxes, it is not lost either.
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
    async fn an_address_is_lost_when_it_was_listed_and_is_no_longer() {
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
