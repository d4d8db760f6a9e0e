//! Tests of planes that exchange packets in virtual time.

mod handshakes;

use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use proptest::prelude::*;

use super::*;
use crate::embedded::tap::test_segment::{Segment, TcpControl, TcpSeqNumber};

const REGION: RegionId = 900;
const SECOND: Duration = Duration::from_secs(1);

/// A plane with its key and address.
struct Node {
    plane: Plane,
    key: NodePublicKey,
    address: IpAddr,
}

impl Node {
    fn new(n: u8) -> Self {
        let keys = NodeKeyPair::random();
        Self {
            plane: Plane::new(&keys),
            key: keys.public,
            address: IpAddr::from([100, 64, 0, n]),
        }
    }

    fn route(&self) -> PeerRoute {
        PeerRoute {
            key: self.key,
            addresses: vec![self.address],
            region: Some(REGION),
        }
    }

    fn packet_to(&self, other: &Self, payload: usize) -> BytesMut {
        let from = (self.address, 50_000).into();
        let to = (other.address, 9632).into();
        let (one, payload) = (TcpSeqNumber(1), vec![0; payload]);
        let segment = Segment::new(from, to, TcpControl::None, one, Some(one), &payload);
        segment.packet().unwrap()
    }

    /// Returns these outputs as a relay would deliver them.
    fn relayed(&self, outputs: Outputs) -> Input {
        let batches = outputs.relay.into_iter().flat_map(|(_, batch)| batch.packets);
        Input::Relay(batches.map(|packet| (self.key, packet)).collect())
    }
}

fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.plane.set_routes(&[a.address], &[b.route()], None);
    b.plane.set_routes(&[b.address], &[a.route()], None);
    (a, b)
}

/// Returns two planes with a session.
fn in_session(now: Instant) -> (Node, Node) {
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    assert_eq!(talk(&mut a, &mut b, packet, now).len(), 1);
    (a, b)
}

/// Sends a packet from `a` to `b` through the relay, and returns the packets for the stack of `b`.
fn talk(a: &mut Node, b: &mut Node, packet: BytesMut, now: Instant) -> Vec<BytesMut> {
    let mut sent = a.plane.handle(Input::Stack(vec![packet]), now);
    let mut arrived = Vec::new();
    // Initiation, response, data.
    for _ in 0..2 {
        let mut answer = b.plane.handle(a.relayed(sent), now);
        arrived.append(&mut answer.stack);
        sent = a.plane.handle(b.relayed(answer), now);
    }
    arrived
}

fn packets(outputs: &Outputs) -> usize {
    outputs.stack.len()
        + outputs.disco.len()
        + outputs
            .relay
            .iter()
            .map(|(_, batch)| batch.packets.len())
            .sum::<usize>()
        + outputs
            .udp
            .iter()
            .map(|(_, packets)| packets.len())
            .sum::<usize>()
}

#[test]
fn a_packet_arrives_as_it_was_sent() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    for payload in [0, 1, 15, 16, 1000] {
        let packet = a.packet_to(&b, payload);
        assert_eq!(talk(&mut a, &mut b, packet.clone(), now), [packet], "{payload}");
    }
    assert_eq!(a.plane.dropped(), Dropped::default());
    assert_eq!(b.plane.dropped(), Dropped::default());
}

#[test]
fn packets_take_the_direct_path_while_there_is_one() {
    let now = Instant::now();
    let (mut a, b) = in_session(now);
    let path: SocketAddr = "192.0.2.1:41641".parse().unwrap();
    let send = |a: &mut Node| a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    a.plane.set_path(&b.key, Some(path));
    assert_eq!(a.plane.path(&b.key), Some(path));
    assert_eq!(a.plane.direct_addresses(), HashSet::from([b.address]));
    let direct = send(&mut a);
    assert!(direct.relay.is_empty());
    assert!(matches!(&*direct.udp, [(to, packets)] if *to == path && packets.len() == 1));
    a.plane.set_path(&b.key, None);
    assert!(a.plane.direct_addresses().is_empty());
    let relayed = send(&mut a);
    assert!(relayed.udp.is_empty());
    assert!(matches!(&*relayed.relay, [(REGION, batch)] if batch.to == b.key && batch.packets.len() == 1));
}

#[test]
fn unroutable_packets_are_dropped_and_counted() {
    let now = Instant::now();
    let (mut a, b) = pair();
    let stranger = Node::new(9);
    let outputs = a
        .plane
        .handle(Input::Stack(vec![a.packet_to(&stranger, 10)]), now);
    assert_eq!(outputs, Outputs::default());
    assert_eq!(a.plane.dropped().no_peer, 1);

    let without_relay = PeerRoute {
        region: None,
        ..b.route()
    };
    a.plane
        .set_routes(&[a.address], std::slice::from_ref(&without_relay), None);
    let outputs = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    assert_eq!(packets(&outputs), 0);
    assert_eq!(a.plane.dropped().no_way, 1);
    a.plane.handle(Input::Disco(b.key, BytesMut::zeroed(40)), now);
    assert_eq!(a.plane.dropped().no_way, 2);

    a.plane.set_routes(&[a.address], &[without_relay], Some(REGION));
    let outputs = a.plane.handle(Input::Disco(b.key, BytesMut::zeroed(40)), now);
    assert_eq!(packets(&outputs), 1, "our home relay is used");
}

#[test]
fn packets_must_use_the_addresses_of_sender_and_receiver() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    let other = Node::new(3);
    b.plane
        .set_routes(&[b.address], &[a.route(), other.route()], None);
    let forged = other.packet_to(&b, 10);
    assert!(talk(&mut a, &mut b, forged, now).is_empty());
    assert_eq!(b.plane.dropped().misaddressed, 1);

    a.plane.set_routes(
        &[a.address],
        &[PeerRoute {
            addresses: vec![b.address, other.address],
            ..b.route()
        }],
        None,
    );
    let for_another = a.packet_to(&other, 10);
    assert!(talk(&mut a, &mut b, for_another, now).is_empty());
    assert_eq!(b.plane.dropped().misaddressed, 2);
}

#[test]
fn packets_of_unlisted_peers_are_dropped() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    b.plane.set_routes(&[b.address], &[], None);
    let packet = a.packet_to(&b, 10);
    assert!(talk(&mut a, &mut b, packet, now).is_empty());
    assert!(!b.plane.heard_since(&a.key, now));
    assert!(b.plane.active().is_empty());
}

#[test]
fn a_peer_that_control_lists_twice_is_one_peer() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let again = PeerRoute {
        addresses: vec![IpAddr::from([100, 64, 0, 77])],
        ..a.route()
    };
    b.plane.set_routes(&[b.address], &[a.route(), again], None);
    let packet = a.packet_to(&b, 10);
    assert_eq!(talk(&mut a, &mut b, packet, now).len(), 1);
}

#[test]
fn a_session_goes_on_when_control_lists_the_peers_anew() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    a.plane
        .set_routes(&[a.address], &[b.route(), Node::new(3).route()], None);
    b.plane
        .set_routes(&[b.address], &[Node::new(4).route(), a.route()], None);
    let sent = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    assert_eq!(
        b.plane.handle(a.relayed(sent), now).stack.len(),
        1,
        "no handshake is needed"
    );
}

#[test]
fn another_key_ends_the_sessions_and_keeps_the_peers() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    let keys = NodeKeyPair::random();
    a.plane.set_keys(&keys);
    a.key = keys.public;
    let packet = a.packet_to(&b, 10);
    assert!(
        talk(&mut a, &mut b, packet.clone(), now).is_empty(),
        "b does not know the key"
    );
    b.plane.set_routes(&[b.address], &[a.route()], None);
    let handshake = a.plane.handle(Input::Unanswered(b.key), now + SECOND);
    let response = b.plane.handle(a.relayed(handshake), now);
    let data = a.plane.handle(b.relayed(response), now);
    assert_eq!(
        b.plane.handle(a.relayed(data), now).stack,
        [packet],
        "it has waited"
    );
}

#[test]
fn a_peer_is_active_until_nothing_was_sent_to_it_for_a_while() {
    let begin = Instant::now();
    let (mut a, b) = pair();
    let first = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), begin);
    assert!(first.newly_active);
    let second = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), begin);
    assert!(!second.newly_active);
    assert_eq!(a.plane.active(), HashSet::from([b.key]));
    let (mut now, mut inactive) = (begin, None);
    while let Some(due) = a.plane.next_timeout() {
        assert!(due > now, "the timeout is in the past");
        assert!(due < begin + 300 * SECOND, "the timers never stop");
        now = due;
        a.plane.handle(Input::Timeout, now);
        if a.plane.active().is_empty() {
            inactive.get_or_insert(now);
        }
    }
    let after = inactive.unwrap() - begin;
    assert!((ACTIVE..=ACTIVE + TIDY).contains(&after), "{after:?}");
}

#[test]
fn a_peer_is_heard_through_the_relay_and_from_any_address() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    assert!(b.plane.heard_since(&a.key, now));
    let later = now + SECOND;
    assert!(!b.plane.heard_since(&a.key, later));
    a.plane.set_path(&b.key, Some("192.0.2.1:1".parse().unwrap()));
    let sent = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), later);
    let packets = sent.udp.into_iter().flat_map(|(_, packets)| packets);
    let address: SocketAddr = "192.0.2.7:1".parse().unwrap();
    let input = Input::Udp(packets.map(|packet| (address, packet)).collect());
    assert_eq!(b.plane.handle(input, later).stack.len(), 1);
    assert!(b.plane.heard_since(&a.key, later));
}

#[test]
fn a_relay_delivers_disco_too_and_nothing_else() {
    let now = Instant::now();
    let (mut a, b) = pair();
    let disco = BytesMut::from(&ts_disco_protocol::Header::MAGIC[..]);
    let input = Input::Relay(vec![(b.key, disco.clone()), (b.key, BytesMut::zeroed(64))]);
    let outputs = a.plane.handle(input, now);
    assert_eq!(outputs.disco, [(b.key, disco)]);
    assert_eq!(packets(&outputs), 1);
    assert_eq!(a.plane.dropped().unknown, 1);
}

#[test]
fn a_batch_that_is_too_long_is_cut_and_counted() {
    let now = Instant::now();
    let (mut a, b) = in_session(now);
    let many = vec![a.packet_to(&b, 10); MAX_BATCH + 3];
    assert_eq!(packets(&a.plane.handle(Input::Stack(many), now)), MAX_BATCH);
    assert_eq!(a.plane.dropped().too_many, 3);
}

/// Returns a handshake message of this type and content with a valid first MAC (section 5.4.4 of the WireGuard paper),
/// for which a sender needs only the public key of the node.
fn handshake_to(node: &NodePublicKey, kind: u8, content: &[u8]) -> BytesMut {
    let mut packet = BytesMut::from(&[kind, 0, 0, 0][..]);
    packet.extend_from_slice(content);
    let key = Blake2s256::new()
        .chain_update(b"mac1----")
        .chain_update(node.to_x25519_dalek().to_bytes())
        .finalize();
    let mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    packet.extend_from_slice(&mac.chain_update(&packet).finalize().into_bytes());
    packet.resize(packet.len() + 16, 0);
    packet
}

/// An event for a plane that communicates with another one.
#[derive(Clone, Debug)]
enum Event {
    Stack(Vec<u8>),
    Relay(Vec<u8>),
    Udp(Vec<u8>),
    Disco(Vec<u8>),
    /// A packet of the other plane with bytes changed, removed or added.
    Spoiled {
        at: usize,
        byte: u8,
        len: usize,
    },
    /// A packet of the other plane that arrives twice.
    Twice,
    Unanswered,
    /// A handshake made with the public key of the node.
    Initiation(Vec<u8>),
    Sleep,
    Timeout(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = || {
        // The first byte selects the parser.
        let first = prop_oneof![Just(0x45_u8), Just(0x60), 1_u8..5, any::<u8>()];
        (first, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(first, mut bytes)| {
            bytes.insert(0, first);
            if first < 5 {
                for zero in bytes.iter_mut().take(4).skip(1) {
                    *zero = 0;
                }
            }
            bytes
        })
    };
    prop_oneof![
        bytes().prop_map(Event::Stack),
        bytes().prop_map(Event::Relay),
        bytes().prop_map(Event::Udp),
        bytes().prop_map(Event::Disco),
        (any::<usize>(), any::<u8>(), 0_usize..200).prop_map(|(at, byte, len)| Event::Spoiled {
            at,
            byte,
            len
        }),
        Just(Event::Twice),
        Just(Event::Unanswered),
        prop::collection::vec(any::<u8>(), 112).prop_map(Event::Initiation),
        Just(Event::Sleep),
        (0_u64..200).prop_map(Event::Timeout),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_packet_makes_a_plane_panic_or_exceed_its_output_bound(
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut now = Instant::now();
        let (mut a, mut b) = in_session(now);
        let address: SocketAddr = "192.0.2.7:1".parse().unwrap();
        for event in events {
            let mut sent = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
            let sent = sent.relay.pop().and_then(|(_, mut batch)| batch.packets.pop());
            let input = match event {
                Event::Stack(bytes) => Input::Stack(vec![BytesMut::from(&*bytes)]),
                Event::Relay(bytes) => Input::Relay(vec![(a.key, BytesMut::from(&*bytes))]),
                Event::Udp(bytes) => Input::Udp(vec![(address, BytesMut::from(&*bytes))]),
                Event::Disco(bytes) => Input::Disco(a.key, BytesMut::from(&*bytes)),
                Event::Spoiled { at, byte, len } => {
                    let mut bytes = sent.map(|packet| packet.to_vec()).unwrap_or_default();
                    let end = bytes.len().max(1);
                    if let Some(old) = bytes.get_mut(at % end) {
                        *old ^= byte;
                    }
                    bytes.resize(len, byte);
                    Input::Udp(vec![(address, BytesMut::from(&*bytes))])
                }
                Event::Twice => Input::Relay(sent.into_iter().flat_map(|packet| {
                    [(a.key, packet.clone()), (a.key, packet)]
                }).collect()),
                Event::Unanswered => Input::Unanswered(a.key),
                Event::Initiation(content) => Input::Udp(vec![(address, handshake_to(&b.key, 1, &content))]),
                Event::Sleep => Input::Slept,
                Event::Timeout(seconds) => {
                    now += Duration::from_secs(seconds);
                    Input::Timeout
                }
            };
            let given = match &input {
                Input::Stack(packets) => packets.len(),
                Input::Relay(packets) => packets.len(),
                Input::Udp(packets) => packets.len(),
                Input::Disco(..) => 1,
                Input::Unanswered(_) | Input::Timeout | Input::Slept => 0,
            };
            let outputs = b.plane.handle(input, now);
            // The queued packets, and a handshake.
            prop_assert!(packets(&outputs) <= given + 256 + 2, "{given} {}", packets(&outputs));
            for packet in &outputs.stack {
                let ip = Ip::parse(packet).unwrap();
                prop_assert_eq!((ip.source, ip.destination), (a.address, b.address));
            }
            if b.plane.next_timeout().is_some_and(|due| due <= now) {
                b.plane.handle(Input::Timeout, now);
            }
        }
        prop_assert_eq!(b.plane.dropped().panics, 0);
        prop_assert_eq!(a.plane.dropped().panics, 0);
    }
}

/// `a` wakes from a sleep and greets `b`.
fn wakes(a: &mut Node, b: &mut Node, now: Instant) {
    let greeting = a.plane.handle(Input::Slept, now);
    let answer = b.plane.handle(a.relayed(greeting), now);
    let confirmed = a.plane.handle(b.relayed(answer), now);
    b.plane.handle(a.relayed(confirmed), now);
}

#[test]
fn after_a_sleep_a_peer_is_reached_with_a_new_session_and_path() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    a.plane.set_path(&b.key, Some("192.0.2.1:41641".parse().unwrap()));
    // B has dropped the session.
    b.plane.tunnels.reset();
    let packet = a.packet_to(&b, 10);
    let lost = a.plane.handle(Input::Stack(vec![packet]), now);
    assert_eq!(lost.udp.len(), 1);
    let heard = b.plane.handle(
        Input::Udp(vec![(
            "192.0.2.2:41641".parse().unwrap(),
            lost.udp.into_iter().next().unwrap().1.remove(0),
        )]),
        now,
    );
    assert_eq!(heard, Outputs::default());

    wakes(&mut a, &mut b, now);
    assert_eq!(a.plane.path(&b.key), None);
    // No further round trip is needed.
    let packet = a.packet_to(&b, 10);
    let sent = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(b.plane.handle(a.relayed(sent), now).stack, [packet]);
}

#[test]
fn a_peer_that_did_not_sleep_reaches_one_that_did() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    wakes(&mut a, &mut b, now);
    let packet = b.packet_to(&a, 10);
    let sent = b.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(a.plane.handle(b.relayed(sent), now).stack, [packet]);
}

#[test]
fn after_a_sleep_peers_are_contacted_that_may_have_a_session() {
    let now = Instant::now();
    let (mut a, _) = in_session(now);
    let inactive = now + ACTIVE + TIDY;
    a.plane.handle(Input::Timeout, inactive);
    assert!(a.plane.active().is_empty());
    assert_eq!(packets(&a.plane.handle(Input::Slept, inactive)), 1);

    let (mut a, b) = in_session(now);
    let unused = now + 210 * SECOND;
    a.plane.handle(Input::Timeout, unused);
    assert_eq!(packets(&a.plane.handle(Input::Slept, unused)), 0);
    let packet = a.packet_to(&b, 10);
    assert_eq!(packets(&a.plane.handle(Input::Stack(vec![packet]), unused)), 1);
}
