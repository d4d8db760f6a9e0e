use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], n))
}

struct Node {
    engine: Engine,
    key: NodePublicKey,
    disco: DiscoKeyPair,
    address: SocketAddr,
}

impl Node {
    fn new(n: u8, now: Instant) -> Self {
        let disco = DiscoKeyPair::random();
        let key = NodePublicKey::from_bytes([n; 32]);
        let mut engine = Engine::new(disco.clone(), key, Policy::default(), now);
        engine.set_own(vec![at(n.into())], now);
        Self {
            engine,
            key,
            disco,
            address: at(n.into()),
        }
    }

    fn listed(&self, endpoints: &[SocketAddr]) -> DirectPeer {
        DirectPeer {
            key: self.key,
            disco: self.disco.public,
            endpoints: endpoints.to_vec(),
        }
    }
}

/// Returns two listed nodes that do not know each other's addresses.
fn pair(now: Instant) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1, now), Node::new(2, now));
    let (listed_a, listed_b) = (a.listed(&[]), b.listed(&[]));
    a.engine.set_peers(&[listed_b], now);
    b.engine.set_peers(&[listed_a], now);
    (a, b)
}

fn active(nodes: &[&Node]) -> HashSet<NodePublicKey> {
    nodes.iter().map(|node| node.key).collect()
}

/// Exchanges packets between two nodes until none remain. Returns the final paths of `a` and `b`.
fn carry(a: &mut Node, b: &mut Node, udp: bool, now: Instant) -> Vec<(NodePublicKey, Option<SocketAddr>)> {
    let mut routes = Vec::new();
    loop {
        let of_a = a.engine.actions();
        let of_b = b.engine.actions();
        if of_a.is_empty() && of_b.is_empty() {
            return routes;
        }
        deliver(of_a, (a.key, a.address), b, udp, now, &mut routes);
        deliver(of_b, (b.key, b.address), a, udp, now, &mut routes);
    }
}

fn deliver(
    actions: Vec<Action>,
    (key, address): (NodePublicKey, SocketAddr),
    to: &mut Node,
    udp: bool,
    now: Instant,
    routes: &mut Vec<(NodePublicKey, Option<SocketAddr>)>,
) {
    for action in actions {
        match action {
            Action::Send(at, mut packet) if udp && at == to.address => {
                to.engine.received(&mut packet, Via::Udp(address), now);
            }
            Action::Relay(_, mut packet) => to.engine.received(&mut packet, Via::Relay(key), now),
            Action::Route(peer, path) => routes.push((peer, path)),
            Action::Send(..) => {}
        }
    }
}

fn pings(engine: &mut Engine) -> Vec<(SocketAddr, Vec<u8>)> {
    let ping = |action| match action {
        Action::Send(to, packet) => Some((to, packet)),
        _ => None,
    };
    engine.actions().into_iter().filter_map(ping).collect()
}

#[test]
fn two_nodes_that_know_no_address_find_each_other_through_the_relay() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.engine.set_active(&active(&[&b]), now);
    b.engine.set_active(&active(&[&a]), now);
    let routes = carry(&mut a, &mut b, true, now);
    assert!(routes.contains(&(b.key, Some(b.address))));
    assert!(routes.contains(&(a.key, Some(a.address))));
}

#[test]
fn a_path_that_dies_is_left_within_five_seconds_and_comes_back() {
    let begin = Instant::now();
    let (mut a, mut b) = pair(begin);
    let (to_b, to_a) = (active(&[&b]), active(&[&a]));
    let mut now = begin;
    let mut step = |a: &mut Node, b: &mut Node, udp: bool| {
        now += Duration::from_millis(100);
        a.engine.set_active(&to_b, now);
        b.engine.set_active(&to_a, now);
        a.engine.timeout(now);
        b.engine.timeout(now);
        (now, carry(a, b, udp, now))
    };
    let (_, routes) = step(&mut a, &mut b, true);
    assert!(routes.contains(&(b.key, Some(b.address))));
    for _ in 0..100 {
        assert_eq!(step(&mut a, &mut b, true).1, []);
    }
    let mut left = Vec::new();
    for n in 1..=50 {
        let routes = step(&mut a, &mut b, false).1;
        left.extend(routes.into_iter().map(|(peer, path)| (peer, path, n)));
    }
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|(_, path, _)| path.is_none()));
    let mut back = Vec::new();
    for _ in 0..200 {
        back.extend(step(&mut a, &mut b, true).1);
    }
    assert!(back.contains(&(b.key, Some(b.address))) && back.contains(&(a.key, Some(a.address))));
}

#[test]
fn a_node_that_moves_tells_its_peers() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.engine.set_active(&active(&[&b]), now);
    a.engine.actions();
    a.engine.set_own(vec![at(9)], now);
    let calls = |engine: &mut Engine| {
        let actions = engine.actions();
        actions
            .iter()
            .filter(|action| matches!(action, Action::Relay(..)))
            .count()
    };
    assert_eq!(calls(&mut a.engine), 1);
    a.engine.set_own(vec![a.address], now);
    carry(&mut a, &mut b, true, now);
    a.engine.set_own(vec![at(9)], now);
    assert_eq!(calls(&mut a.engine), 1, "even while its path works");
}

#[test]
fn when_a_node_moves_both_ends_have_a_path_again_within_two_seconds() {
    let begin = Instant::now();
    let (mut a, mut b) = pair(begin);
    let (to_b, to_a) = (active(&[&b]), active(&[&a]));
    let mut now = begin;
    let mut moved = None;
    for n in 0..100 {
        now += Duration::from_millis(100);
        if n == 50 {
            // The old address no longer answers.
            a.address = at(9);
            a.engine.set_own(vec![at(9)], now);
            moved = Some(now);
        }
        a.engine.set_active(&to_b, now);
        b.engine.set_active(&to_a, now);
        a.engine.timeout(now);
        b.engine.timeout(now);
        for (peer, path) in carry(&mut a, &mut b, true, now) {
            let Some(moved) = moved.filter(|_| peer == a.key) else {
                continue;
            };
            assert_eq!(path, Some(at(9)), "without using the relay in between");
            assert!(now - moved <= 2 * SECOND, "{:?}", now - moved);
            return;
        }
    }
    panic!("the peer does not switch paths");
}

#[test]
fn a_pong_counts_only_from_the_address_that_was_pinged_once_and_in_time() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let stranger = DiscoKeyPair::random();
    a.engine.set_peers(&[b.listed(&[b.address])], now);
    let pong = |engine: &mut Engine, keys: &DiscoKeyPair, from: SocketAddr, after: Duration| {
        engine.set_active(&HashSet::new(), now);
        engine.actions();
        engine.set_active(&active(&[&b]), now);
        let (to, mut ping) = pings(engine).remove(0);
        assert_eq!(to, b.address);
        let Some(Message::Ping { tx, .. }) = disco::open(&mut ping, &b.disco.private) else {
            panic!("the action is not a ping")
        };
        let pong = Message::Pong { tx, seen: at(1) };
        let sealed = disco::seal(&pong, &keys.private, &a.disco.public).unwrap();
        engine.received(&mut sealed.clone(), Via::Udp(from), now + after);
        let first = engine.actions();
        engine.received(&mut sealed.clone(), Via::Udp(from), now + after);
        (
            first.contains(&Action::Route(b.key, Some(b.address))),
            engine.actions().len(),
        )
    };
    assert_eq!(
        pong(&mut a.engine, &b.disco, at(77), SECOND),
        (false, 0),
        "another address"
    );
    assert_eq!(
        pong(&mut a.engine, &stranger, b.address, SECOND),
        (false, 0),
        "another key"
    );
    assert_eq!(
        pong(&mut a.engine, &b.disco, b.address, ANSWER + SECOND),
        (false, 0),
        "too late"
    );
    assert_eq!(
        pong(&mut a.engine, &b.disco, b.address, SECOND),
        (true, 0),
        "a valid pong, and its replay"
    );
}

#[test]
fn strangers_get_no_answer() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let stranger = DiscoKeyPair::random();
    let ping = |keys: &DiscoKeyPair, node: NodePublicKey| {
        let ping = Message::Ping { tx: [1; 12], node };
        disco::seal(&ping, &keys.private, &a.disco.public).unwrap()
    };
    for mut packet in [
        ping(&stranger, b.key),
        // A disco key of a stranger with the node key of another.
        ping(&b.disco, NodePublicKey::from_bytes([9; 32])),
        b"TS\xf0\x9f\x92\xac".to_vec(),
        vec![0; 3000],
    ] {
        a.engine.received(&mut packet, Via::Udp(b.address), now);
    }
    // A ping through a relay reveals no path, and addresses over UDP are not accepted.
    a.engine
        .received(&mut ping(&b.disco, b.key), Via::Relay(b.key), now);
    let call = Message::CallMeMaybe(vec![b.address]);
    let call = disco::seal(&call, &b.disco.private, &a.disco.public).unwrap();
    a.engine.received(&mut call.clone(), Via::Udp(b.address), now);
    a.engine.received(
        &mut call.clone(),
        Via::Relay(NodePublicKey::from_bytes([9; 32])),
        now,
    );
    assert_eq!(a.engine.actions(), []);
    a.engine
        .received(&mut ping(&b.disco, b.key), Via::Udp(b.address), now);
    assert!(!a.engine.actions().is_empty());
}

#[test]
fn a_flood_of_packets_is_answered_at_a_limited_rate() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let mut answers = 0;
    for n in 0..5_000_u16 {
        let ping = Message::Ping {
            tx: [n as u8; 12],
            node: b.key,
        };
        let mut packet = disco::seal(&ping, &b.disco.private, &a.disco.public).unwrap();
        a.engine.received(&mut packet, Via::Udp(at(1 + n % 7)), now);
        answers += a.engine.actions().len();
    }
    // A pong, an action that records the address, and a ping to each new address.
    assert!(answers <= 3 * (OF_A_PEER + OF_ANYBODY) as usize, "{answers}");
    assert!(a.engine.pings.len() <= MAX_CANDIDATES);
}

#[test]
fn an_invitation_to_bad_addresses_is_not_followed() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let called = ["127.0.0.1:22", "100.64.0.1:9632", "224.0.0.1:5", "192.0.2.7:0"];
    let call = Message::CallMeMaybe(called.iter().map(|text| text.parse().unwrap()).collect());
    let mut call = disco::seal(&call, &b.disco.private, &a.disco.public).unwrap();
    a.engine.received(&mut call, Via::Relay(b.key), now);
    assert_eq!(a.engine.actions(), []);
}

#[test]
fn a_peer_that_names_other_addresses_each_time_causes_few_pings_and_ends_no_path() {
    let begin = Instant::now();
    let (mut a, mut b) = pair(begin);
    let hostile = Node::new(3, begin);
    let listed = [b.listed(&[]), hostile.listed(&[])];
    a.engine.set_peers(&listed, begin);
    a.engine.set_active(&active(&[&b]), begin);
    let mut routes = carry(&mut a, &mut b, true, begin);
    assert_eq!(routes, [(b.key, Some(b.address))]);
    let (mut caused, mut beats) = (0, 0);
    for n in 0..300_u16 {
        let now = begin + Duration::from_millis(7) * n.into();
        let named = (0..32).map(|port| at(1000 + n % 2 * 32 + port)).collect();
        let call = Message::CallMeMaybe(named);
        let mut call = disco::seal(&call, &hostile.disco.private, &a.disco.public).unwrap();
        a.engine.received(&mut call, Via::Relay(hostile.key), now);
        a.engine.timeout(now);
        let actions = a.engine.actions();
        for action in &actions {
            match action {
                Action::Send(to, _) if *to == b.address => beats += 1,
                Action::Send(..) => caused += 1,
                _ => {}
            }
        }
        deliver(actions, (a.key, a.address), &mut b, true, now, &mut routes);
        let answers = b.engine.actions();
        deliver(answers, (b.key, b.address), &mut a, true, now, &mut routes);
    }
    assert!((32..=64 + 2 * 32).contains(&caused), "{caused}");
    assert_eq!(beats, 2, "in 2.1 s");
    assert_eq!(routes.len(), 1, "{routes:?}");
}

#[test]
fn the_pings_of_other_peers_do_not_keep_a_path_from_its_own() {
    let begin = Instant::now();
    let (mut a, mut b) = pair(begin);
    a.engine.set_peers(&[b.listed(&[at(7)])], begin);
    a.engine.set_active(&active(&[&b]), begin);
    carry(&mut a, &mut b, true, begin);
    let now = begin + SECOND;
    let others = std::iter::repeat_n((now, TxId::default()), MAX_PINGS);
    a.engine.sent.extend(others);
    a.engine.timeout(now);
    let sent = pings(&mut a.engine);
    assert!(matches!(&*sent, [(to, _)] if *to == b.address), "{sent:?}");
}

#[test]
fn the_session_of_a_restarted_peer_starts_over() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.engine.set_active(&active(&[&b]), now);
    b.engine.set_active(&active(&[&a]), now);
    carry(&mut a, &mut b, true, now);
    let again = DirectPeer {
        disco: DiscoKeyPair::random().public,
        ..b.listed(&[])
    };
    a.engine.set_peers(&[again], now);
    assert_eq!(a.engine.actions(), [Action::Route(b.key, None)]);
    // A peer that is no longer listed loses its session.
    b.engine.set_peers(&[], now);
    assert_eq!(b.engine.actions(), [Action::Route(a.key, None)]);
    assert!(b.engine.sessions.is_empty() && b.engine.next_timeout().is_none());
}

#[test]
fn a_peer_without_a_disco_key_is_reached_through_relays() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let zero = DirectPeer {
        disco: DiscoPublicKey::from_bytes([0; 32]),
        ..b.listed(&[b.address])
    };
    a.engine.set_peers(&[zero], now);
    a.engine.set_active(&active(&[&b]), now);
    assert_eq!(a.engine.actions(), []);
}

#[test]
fn unanswered_pings_are_removed() {
    let mut now = Instant::now();
    let (mut a, b) = pair(now);
    let endpoints: Vec<_> = (1..=40).map(at).collect();
    a.engine.set_peers(&[b.listed(&endpoints)], now);
    for _ in 0..600 {
        now += Duration::from_millis(100);
        a.engine.set_active(&active(&[&b]), now);
        a.engine.timeout(now);
        assert!(
            a.engine.pings.len() <= 4 * MAX_CANDIDATES,
            "{}",
            a.engine.pings.len()
        );
        assert_eq!(a.engine.pings.len(), a.engine.sent.len());
        a.engine.actions();
    }
    // Without traffic, pings stop and sessions are removed.
    a.engine.set_active(&HashSet::new(), now);
    now += Duration::from_secs(200);
    a.engine.timeout(now);
    assert!(a.engine.pings.is_empty() && a.engine.sessions.is_empty());
}
