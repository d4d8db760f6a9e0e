//! End-to-end tests of two nodes in this process: through a relay in memory, and over UDP on loopback.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use ts_keys::{DiscoKeyPair, NodeKeyPair};
use ts_packetfilter::filter::CapIter;
use ts_packetfilter::{Filter, PacketInfo};

use super::device::Distance;
use super::direct::Policy;
use super::plane::PeerRoute;
use super::underlay::{DirectHost as _, RelayHost as _};
use super::*;

const REGION: u32 = 900;
const PORT: u16 = 9632;
/// A guard against tests that hang.
const LONG: Duration = Duration::from_secs(120);

struct Anything;

impl Filter for Anything {
    fn match_for(&self, _info: &PacketInfo, _caps: CapIter<'_, '_>) -> Option<&str> {
        Some("anything")
    }
}

struct Side {
    driver: Arc<Driver>,
    stack: Arc<Stack>,
    tap: Arc<Tap>,
    key: NodePublicKey,
    address: IpAddr,
    /// The address for packets over direct paths.
    udp: SocketAddr,
    _direct: Direct,
    tasks: JoinSet<()>,
}

impl Side {
    fn new(n: u8) -> Self {
        let keys = NodeKeyPair::random();
        let device = Arc::new(Device::default());
        let tap = Arc::new(Tap::new(Arc::clone(&device), USER_TIMEOUT));
        tap.set_filter(Arc::new(Anything));
        let (port, direct, paths) = direct::open(0, Policy { loopback: true }, keys.public).unwrap();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let udp = (loopback.ip(), port.sockets.port_for(loopback).unwrap()).into();
        let driver = Arc::new(Driver::new(
            &keys,
            Arc::clone(&device),
            Arc::clone(&tap),
            Some(port),
        ));
        let (stack, runners) = Stack::new(&device, Arc::clone(&driver), Arc::clone(&tap));
        let mut tasks = JoinSet::new();
        for runner in runners {
            tasks.spawn(runner.run());
        }
        let host = Arc::<Driver>::clone(&driver);
        let addresses = watch::Sender::default().subscribe();
        tasks.spawn(paths.run(DiscoKeyPair::random(), host, addresses, driver.sleeps()));
        let (timers, packets) = (Arc::clone(&driver), Arc::clone(&driver));
        tasks.spawn(async move { timers.run_timers().await });
        tasks.spawn(async move { packets.run_stack().await });
        Self {
            driver,
            stack,
            tap,
            key: keys.public,
            address: IpAddr::from([100, 64, 0, n]),
            udp,
            _direct: direct,
            tasks,
        }
    }

    fn route(&self) -> PeerRoute {
        PeerRoute {
            key: self.key,
            addresses: vec![self.address],
            region: Some(REGION),
        }
    }

    async fn know(&mut self, other: &Self) {
        self.driver.set_routes(&[self.address], &[other.route()], None);
        self.stack.set_addresses(&[self.address]).await;
        let (queue, mut waiting) = mpsc::channel(64);
        self.driver.add_link(REGION, queue);
        let (key, there) = (self.key, Arc::clone(&other.driver));
        self.tasks.spawn(async move {
            while let Some(batch) = waiting.recv().await {
                let packets = batch.packets.into_iter();
                there.relayed(packets.map(|packet| (key, packet)).collect());
            }
        });
    }

    fn set_direct(&self, other: &Self, is_direct: bool) {
        self.driver.set_path(other.key, is_direct.then_some(other.udp));
    }
}

async fn pair() -> (Side, Side) {
    let (mut a, mut b) = (Side::new(1), Side::new(2));
    a.know(&b).await;
    b.know(&a).await;
    (a, b)
}

/// Sends bytes from one node to the other, changes the path after half of them, and returns the sender's largest window
/// before the change and at the end.
async fn transfer(from: &Side, to: &Side, begins_direct: bool, ends_direct: bool) -> (usize, usize) {
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let set_direct = |is_direct| {
        from.set_direct(to, is_direct);
        to.set_direct(from, is_direct);
    };
    set_direct(begins_direct);
    let local = SocketAddr::new(to.address, PORT);
    let mut listener = Listener::open(Arc::clone(&to.stack), local).await.unwrap();
    let dial = from.stack.dial(local, to.key);
    let (sender, accepted) = tokio::join!(dial, listener.accept());
    let (mut sender, (mut receiver, _)) = (sender.unwrap(), accepted.unwrap());
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut read = vec![0; first.len()];
    let send = sender.write_all(first);
    let (sent, received) = tokio::join!(send, receiver.read_exact(&mut read));
    sent.unwrap();
    received.unwrap();
    assert!(read == first, "the first half was changed on the way");
    let window = from.tap.largest_window();
    set_direct(ends_direct);
    let send = sender.write_all(second);
    let (sent, received) = tokio::join!(send, receiver.read_exact(&mut read));
    sent.unwrap();
    received.unwrap();
    assert!(read == second, "the second half was changed on the way");
    (window, from.tap.largest_window())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_grows_on_either_path() {
    for is_direct in [true, false] {
        let (a, b) = pair().await;
        let (window, _) = timeout(LONG, transfer(&a, &b, is_direct, is_direct))
            .await
            .unwrap();
        assert!(window > FIRST_WINDOW, "{window}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_a_change_of_path_in_both_directions() {
    let (a, b) = pair().await;
    timeout(LONG, transfer(&a, &b, true, false)).await.unwrap();
    let (c, d) = pair().await;
    timeout(LONG, transfer(&c, &d, false, true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_with_a_far_peer_has_long_buffers_at_both_ends() {
    let (mut a, mut b) = (Side::new(1), Side::new(2));
    let local = SocketAddr::new(b.address, PORT);
    b.stack.set_addresses(&[b.address]).await;
    let mut listener = Listener::open(Arc::clone(&b.stack), local).await.unwrap();
    a.know(&b).await;
    let (stack, tap, key) = (Arc::clone(&a.stack), Arc::clone(&a.tap), b.key);
    let dial = async {
        let (called, accepted) = tokio::join!(stack.dial(local, key), listener.accept());
        (called.unwrap(), accepted.unwrap())
    };
    let handshake = async {
        // The SYN waits for the handshake, which shows the distance.
        while tap.distances().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(tap.distances(), [Distance::Near]);
        tap.set_far(HashSet::from([b.address]));
        b.know(&a).await;
        b.tap.set_far(HashSet::from([a.address]));
    };
    let (connected, ()) = timeout(LONG, async { tokio::join!(dial, handshake) })
        .await
        .unwrap();
    for tap in [&a.tap, &b.tap] {
        // The stack drops the connections of earlier attempts a moment later.
        let dropped = async {
            while tap.distances() != [Distance::Far] {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, dropped).await.unwrap();
    }
    drop(connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_sleep_a_peer_without_our_session_is_reached_and_old_connections_end() {
    let (a, b) = pair().await;
    let local = SocketAddr::new(b.address, PORT);
    let mut listener = Listener::open(Arc::clone(&b.stack), local).await.unwrap();
    let (old, accepted) = tokio::join!(a.stack.dial(local, b.key), listener.accept());
    let (mut old, _accepted) = (old.unwrap(), accepted.unwrap());

    // While A slept, B dropped its session, and the path broke.
    b.driver.set_routes(&[b.address], &[], None);
    b.driver.set_routes(&[b.address], &[a.route()], None);
    a.driver.set_path(b.key, Some((Ipv4Addr::LOCALHOST, 9).into()));
    let mut sleeps = a.driver.sleeps();
    a.driver.beat(sleep::now() + Duration::from_secs(600));
    assert!(
        sleeps.has_changed().unwrap(),
        "relays and control are not notified"
    );
    sleeps.mark_unchanged();

    let call = async {
        let (called, accepted) = tokio::join!(a.stack.dial(local, b.key), listener.accept());
        accepted.unwrap();
        called.unwrap();
        old.read_u8().await.unwrap_err();
    };
    timeout(LONG, call).await.unwrap();
    assert!(!sleeps.has_changed().unwrap(), "one sleep was counted twice");
}
