//! Tests of two nodes over UDP sockets on loopback, with a relay in memory. Time is paused: it advances only when the
//! runtime is idle.

use std::collections::HashSet;
use std::net::{Ipv4Addr, UdpSocket as StdSocket};
use std::sync::Mutex;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::interfaces;
use super::*;

/// A guard against tests that hang.
const LONG: Duration = Duration::from_secs(300);

/// A fake of the rest of a node.
struct FakeHost {
    key: NodePublicKey,
    active: Mutex<HashSet<NodePublicKey>>,
    path: watch::Sender<Option<SocketAddr>>,
    inbound: mpsc::UnboundedSender<(SocketAddr, Vec<u8>)>,
    /// The other node, reached through the relay.
    other: Mutex<Option<Arc<Port>>>,
}

impl DirectHost for FakeHost {
    fn active(&self) -> HashSet<NodePublicKey> {
        self.active.lock().unwrap().clone()
    }

    fn relay(&self, _: NodePublicKey, packet: Vec<u8>) {
        if let Some(other) = &*self.other.lock().unwrap() {
            other.relayed(self.key, BytesMut::from(&packet[..]));
        }
    }

    fn set_path(&self, _: NodePublicKey, path: Option<SocketAddr>) {
        self.path.send_replace(path);
    }

    fn inbound(&self, packets: Vec<(SocketAddr, BytesMut)>) {
        for (from, packet) in packets {
            self.inbound.send((from, packet.to_vec())).unwrap();
        }
    }
}

struct Side {
    fake: Arc<FakeHost>,
    port: Arc<Port>,
    direct: Direct,
    disco: DiscoKeyPair,
    arrived: mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>,
    mapping: watch::Sender<PortMapping>,
    task: JoinHandle<()>,
}

impl Side {
    fn new(n: u8) -> Self {
        let key = NodePublicKey::from_bytes([n; 32]);
        let disco = DiscoKeyPair::random();
        let (port, direct, runner) = open(0, Policy { loopback: true }, key).unwrap();
        let mapping = runner.mapping.clone();
        let (inbound, arrived) = mpsc::unbounded_channel();
        let fake = Arc::new(FakeHost {
            key,
            active: Mutex::default(),
            path: watch::Sender::default(),
            inbound,
            other: Mutex::default(),
        });
        let host: Arc<dyn DirectHost> = Arc::<FakeHost>::clone(&fake);
        let addresses = watch::Sender::default();
        let known = addresses.subscribe();
        tokio::spawn(interfaces::run(addresses));
        Self {
            task: tokio::spawn(runner.run(disco.clone(), host, known, watch::Sender::default().subscribe())),
            fake,
            port: Arc::new(port),
            direct,
            disco,
            arrived,
            mapping,
        }
    }

    fn address(&self) -> SocketAddr {
        let port = self.port.sockets.port_for((Ipv4Addr::LOCALHOST, 0).into());
        (Ipv4Addr::LOCALHOST, port.unwrap()).into()
    }

    fn talk_to(&self, other: &Self) {
        *self.fake.other.lock().unwrap() = Some(Arc::clone(&other.port));
        self.direct.set_peers(vec![DirectPeer {
            key: other.fake.key,
            disco: other.disco.public,
            endpoints: vec![],
        }]);
        self.fake.active.lock().unwrap().insert(other.fake.key);
        self.port.more_active();
    }

    async fn until_path(&self, is_wanted: impl FnMut(&Option<SocketAddr>) -> bool) -> Option<SocketAddr> {
        let mut path = self.fake.path.subscribe();
        let found = timeout(LONG, path.wait_for(is_wanted)).await;
        *found.expect("the path does not change").unwrap()
    }
}

async fn pair() -> (Side, Side) {
    let (a, b) = (Side::new(1), Side::new(2));
    // Nodes advertise their endpoints once they know them.
    for side in [&a, &b] {
        let mut own = side.direct.own();
        timeout(LONG, own.wait_for(|own| !own.is_empty()))
            .await
            .unwrap()
            .unwrap();
    }
    a.talk_to(&b);
    b.talk_to(&a);
    a.until_path(Option::is_some).await;
    b.until_path(Option::is_some).await;
    (a, b)
}

fn wireguard(n: u8) -> BytesMut {
    let mut packet = [n; 200];
    packet[..4].copy_from_slice(&[4, 0, 0, 0]);
    BytesMut::from(&packet[..])
}

#[tokio::test(start_paused = true)]
async fn two_nodes_switch_to_a_direct_path_and_their_packets_arrive() {
    let (a, mut b) = pair().await;
    let path = a.until_path(Option::is_some).await.unwrap();
    for n in 0..100 {
        a.port.send(path, &[wireguard(n)]);
    }
    for n in 0..100 {
        let (from, packet) = b.arrived.recv().await.unwrap();
        assert_eq!(packet, wireguard(n).to_vec());
        assert_eq!(from, a.address());
    }
}

#[tokio::test(start_paused = true)]
async fn packets_return_to_the_relay_within_five_seconds_after_a_path_failed() {
    let (a, b) = pair().await;
    sleep(Duration::from_secs(30)).await;
    assert!(a.fake.path.borrow().is_some() && b.fake.path.borrow().is_some());
    let begin = Instant::now();
    b.task.abort();
    a.until_path(Option::is_none).await;
    let took = begin.elapsed();
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_found_again() {
    let (a, b) = pair().await;
    b.task.abort();
    a.until_path(Option::is_none).await;
    let again = Side::new(2);
    let mut own = again.direct.own();
    timeout(LONG, own.wait_for(|own| !own.is_empty()))
        .await
        .unwrap()
        .unwrap();
    a.talk_to(&again);
    again.talk_to(&a);
    assert!(a.until_path(Option::is_some).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_traffic_is_left_alone() {
    let (a, b) = pair().await;
    a.fake.active.lock().unwrap().clear();
    a.until_path(Option::is_none).await;
    // The other node still has traffic, so its pings are answered.
    sleep(Duration::from_secs(60)).await;
    assert!(b.fake.path.borrow().is_some());
}

#[tokio::test(start_paused = true)]
async fn arbitrary_packets_to_the_port_do_no_harm() {
    let (a, mut b) = pair().await;
    let stranger = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = b.address();
    let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
    packet.extend(hex::decode(&a.disco.public.to_string()["discokey:".len()..]).unwrap());
    packet.resize(200, 7);
    let stun: &[u8] = &[
        1, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for n in 0..3_000_usize {
        let bytes = match n % 4 {
            0 => &packet[..n % packet.len()],
            1 => &packet,
            2 => stun,
            _ => &[0; 3000][..n % 3000],
        };
        stranger.send_to(bytes, to).unwrap();
        if n % 50 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    sleep(Duration::from_secs(10)).await;
    assert!(!b.task.is_finished());
    assert!(a.fake.path.borrow().is_some() && b.fake.path.borrow().is_some());
    while b.arrived.try_recv().is_ok() {}
    let path = a.until_path(Option::is_some).await.unwrap();
    a.port.send(path, &[wireguard(1)]);
    assert_eq!(b.arrived.recv().await.unwrap().1, wireguard(1).to_vec());
}

#[tokio::test(start_paused = true)]
async fn stun_requests_use_the_same_socket() {
    let side = Side::new(1);
    let server = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let at = server.local_addr().unwrap();
    side.direct.set_servers(vec![StunServer {
        host_name: "stun.example".to_owned(),
        port: at.port(),
        addresses: vec![at.ip()],
    }]);
    let seen: SocketAddr = "203.0.113.5:41641".parse().unwrap();
    let mut own = side.direct.own();
    for _ in 0..3 {
        let mut buffer = [0; 1500];
        let (len, from) = timeout(LONG, server.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(from.port(), side.address().port());
        let reply = stun::tests::reply(&buffer[..len], seen);
        server.send_to(&reply, from).await.unwrap();
    }
    let told = own.wait_for(|own| own.iter().any(|own| own.endpoint == seen));
    timeout(LONG, told).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mapped_port_is_advertised_for_as_long_as_it_is_mapped() {
    let side = Side::new(1);
    let router = Ipv4Addr::new(192, 168, 1, 1).into();
    let external: SocketAddr = "203.0.113.5:41641".parse().unwrap();
    let is_told = |own: &Vec<Endpoint>| {
        own.iter()
            .any(|own| own.endpoint == external && own.ty == ts_control::EndpointType::PortMapped)
    };
    let mut own = side.direct.own();
    side.mapping.send_replace(PortMapping::Mapped {
        router,
        protocol: "PCP",
        external,
    });
    timeout(LONG, own.wait_for(is_told)).await.unwrap().unwrap();
    assert_eq!(*side.direct.mapping().borrow(), *side.mapping.borrow());
    side.mapping.send_replace(PortMapping::Asking { router });
    let withdrawn = own.wait_for(|own| !is_told(own));
    timeout(LONG, withdrawn).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_send_to_an_unreachable_address_is_refused() {
    let (a, _b) = pair().await;
    // Sending to a broadcast address needs SO_BROADCAST, which is not set.
    let nowhere: SocketAddr = "255.255.255.255:9".parse().unwrap();
    assert_eq!(a.port.sockets.send(nowhere, &[[0]]), SendOutcome::Refused);
}

#[tokio::test]
async fn a_requested_port_in_use_is_an_error() {
    let taken = Sockets::bind(0).unwrap();
    let port = taken.port_for((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    assert!(Sockets::bind(port).is_err());
}
