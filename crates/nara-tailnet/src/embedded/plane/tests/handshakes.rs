//! Handshakes that cross, get lost, are replayed, or show how far the peer is.

use super::super::tunnels::RESPONSE;
use super::*;

/// Delivers all packets between the planes, each after this delay. Returns the time at the end.
fn exchange(a: &mut Node, b: &mut Node, mut sent: Outputs, delay: Duration, start: Instant) -> Instant {
    let mut now = start;
    while !sent.relay.is_empty() {
        now += delay;
        let answer = b.plane.handle(a.relayed(sent), now);
        now += delay;
        sent = a.plane.handle(b.relayed(answer), now);
    }
    now
}

#[test]
fn a_handshake_shows_both_ends_how_far_the_peer_is() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair();
    for (round_trip, is_far) in [(FAR * 3, true), (FAR, true), (FAR / 2, false), (FAR, true)] {
        let sent = a.plane.handle(Input::Unanswered(b.key), now);
        now = exchange(&mut a, &mut b, sent, round_trip / 2, now);
        for (node, peer) in [(&a, &b), (&b, &a)] {
            let far = node.plane.far_addresses();
            assert_eq!(far.contains(&peer.address), is_far, "{round_trip:?}");
        }
        now += SECOND;
    }
}

#[test]
fn the_packet_that_shows_the_distance_arrives_with_the_news() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let sent = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    let answer = b.plane.handle(a.relayed(sent), now + FAR / 2);
    let data = a.plane.handle(b.relayed(answer), now + FAR);
    assert!(data.far_changed);
    let came = b.plane.handle(a.relayed(data), now + FAR * 3 / 2);
    assert!(came.far_changed && came.stack.len() == 1);
}

#[test]
fn a_handshake_that_is_lost_is_repeated_and_packets_wait_for_it() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    let lost = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(packets(&lost), 1);
    let waiting = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(packets(&waiting), 0, "one handshake at a time");
    let again = a.plane.handle(Input::Unanswered(b.key), now + SECOND);
    assert_eq!(packets(&again), 1);
    let response = b.plane.handle(a.relayed(again), now);
    let data = a.plane.handle(b.relayed(response), now);
    assert_eq!(
        b.plane.handle(a.relayed(data), now).stack,
        [packet.clone(), packet]
    );
}

#[test]
fn calls_that_get_no_answer_at_the_same_moment_repeat_the_handshake_once() {
    let now = Instant::now();
    let (mut a, b) = pair();
    a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    for at in [now, now + SECOND, now + 3 * SECOND] {
        let repeated: usize = (0..3)
            .map(|_| packets(&a.plane.handle(Input::Unanswered(b.key), at)))
            .sum();
        assert_eq!(repeated, usize::from(at > now));
    }
}

/// A peer of another implementation has dropped the session of the first handshake when it answers the second.
#[test]
fn only_the_response_to_the_last_handshake_counts() {
    let now = Instant::now();
    let later = now + SECOND;
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    let first = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    let second = a.plane.handle(Input::Unanswered(b.key), later);
    let late = b.plane.handle(a.relayed(first), later);
    assert_eq!(packets(&a.plane.handle(b.relayed(late), later)), 0);
    assert!(!a.plane.heard_since(&b.key, now));
    let soon = a.plane.handle(Input::Unanswered(b.key), later + SECOND);
    assert_eq!(packets(&soon), 0, "the second response may still arrive");
    let response = b.plane.handle(a.relayed(second), later);
    let data = a.plane.handle(b.relayed(response), later);
    assert!(a.plane.heard_since(&b.key, now));
    assert_eq!(b.plane.handle(a.relayed(data), later).stack, [packet]);
}

#[test]
fn a_peer_that_lost_its_session_gets_another_one() {
    let now = Instant::now();
    let (mut a, mut b) = in_session(now);
    b.plane.tunnels.reset();
    let packet = a.packet_to(&b, 10);
    assert!(talk(&mut a, &mut b, packet.clone(), now).is_empty());
    assert_eq!(b.plane.dropped().unreadable, 1);
    let handshake = a.plane.handle(Input::Unanswered(b.key), now);
    let waiting = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(packets(&waiting), 0, "the old session would lose it");
    let response = b.plane.handle(a.relayed(handshake), now);
    let data = a.plane.handle(b.relayed(response), now);
    assert_eq!(b.plane.handle(a.relayed(data), now).stack, [packet]);
}

#[test]
fn a_replayed_handshake_is_refused() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    let greeting = a.plane.handle(Input::Stack(vec![packet]), now);
    let greeting = greeting.relay.into_iter().next().unwrap().1.packets.remove(0);
    let replay = |b: &mut Node| {
        let from: SocketAddr = "192.0.2.66:6".parse().unwrap();
        b.plane.handle(Input::Udp(vec![(from, greeting.clone())]), now)
    };
    assert_eq!(packets(&replay(&mut b)), 1, "the first one is answered");
    b.plane.handle(Input::Slept, now);
    b.plane.set_routes(&[b.address], &[a.route()], None);
    assert_eq!(replay(&mut b), Outputs::default());
    assert_eq!(b.plane.dropped().unreadable, 1);
}

#[test]
fn a_source_of_many_handshakes_must_prove_its_address() {
    let mut now = Instant::now();
    let (mut a, mut b) = pair();
    let mut is_asked = |from: &str| {
        let from: SocketAddr = from.parse().unwrap();
        now += SECOND;
        let handshake = a.plane.handle(Input::Unanswered(b.key), now);
        let packet = handshake.relay.into_iter().next().unwrap().1.packets.remove(0);
        let answered = b.plane.handle(Input::Udp(vec![(from, packet)]), now);
        let (to, answer) = &answered.udp[0];
        assert_eq!(*to, from);
        match answer[0][0] {
            RESPONSE => false,
            3 => true,
            other => panic!("unexpected message type {other}"),
        }
    };
    // The limit is per second, and a busy machine may be slow.
    let was_asked = (0..2000).any(|n| is_asked(&format!("[2001:db8::{n:x}]:1")));
    assert!(was_asked, "2,000 handshakes were answered");
    assert!(
        !is_asked("[2001:db8:0:1::1]:1"),
        "another network is not affected"
    );
}

#[test]
fn a_handshake_alone_does_not_count_as_heard() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let greeting = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    assert_eq!(packets(&b.plane.handle(a.relayed(greeting), now)), 1);
    assert!(!b.plane.heard_since(&a.key, now), "our answer may get lost");
}

#[test]
fn two_peers_that_begin_at_the_same_moment_reach_each_other() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let (to_b, to_a) = (a.packet_to(&b, 10), b.packet_to(&a, 20));
    let mut from_a = a.plane.handle(Input::Stack(vec![to_b.clone()]), now);
    let mut from_b = b.plane.handle(Input::Stack(vec![to_a.clone()]), now);
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    // The packets of both ends cross.
    for _ in 0..4 {
        let for_b = a.relayed(from_a);
        from_a = a.plane.handle(b.relayed(from_b), now);
        from_b = b.plane.handle(for_b, now);
        at_a.append(&mut from_a.stack);
        at_b.append(&mut from_b.stack);
    }
    assert_eq!((at_a, at_b), (vec![to_a], vec![to_b]));
}

#[test]
fn a_handshake_that_got_lost_does_not_keep_the_other_end_from_its_own() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    let packet = b.packet_to(&a, 20);
    assert_eq!(talk(&mut b, &mut a, packet.clone(), now), [packet]);
}

#[test]
fn a_handshake_is_answered_where_it_came_from() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let (at_a, at_b) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
    a.plane.set_path(&b.key, Some(at_b));
    let mut greeting = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now).udp;
    let greeting = greeting.remove(0).1.remove(0);
    b.plane.set_path(&a.key, Some(at_b));
    let answer = b.plane.handle(Input::Udp(vec![(at_a, greeting)]), now);
    assert!(matches!(&*answer.udp, [(to, packets)] if *to == at_a && packets.len() == 1));
}

/// Returns a response that names this handshake of the node: whoever sees the handshake can forge it.
fn forged_response(to: &Node, handshake: &Outputs) -> Input {
    let mut content = [7; 56];
    content[4..8].copy_from_slice(&handshake.relay[0].1.packets[0][4..8]);
    let from: SocketAddr = "192.0.2.66:6".parse().unwrap();
    Input::Udp(vec![(from, handshake_to(&to.key, RESPONSE, &content))])
}

#[test]
fn a_forged_response_shows_no_round_trip() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let first = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
    let second = a.plane.handle(Input::Unanswered(b.key), now + SECOND);
    let later = now + 3 * SECOND;
    let forged = forged_response(&a, &first);
    assert_eq!(a.plane.handle(forged, later), Outputs::default());
    assert_eq!(a.plane.round_trip(&b.key), None);
    let response = b.plane.handle(a.relayed(second), later);
    a.plane.handle(b.relayed(response), later);
    assert_eq!(
        a.plane.round_trip(&b.key),
        Some(2 * SECOND),
        "of the genuine response"
    );
}

#[test]
fn a_forged_response_does_not_keep_the_genuine_one_from_being_accepted() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    let handshake = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    let forged = forged_response(&a, &handshake);
    assert_eq!(a.plane.handle(forged, now), Outputs::default());
    assert_eq!(a.plane.dropped().unreadable, 1);
    let response = b.plane.handle(a.relayed(handshake), now);
    let data = a.plane.handle(b.relayed(response), now);
    assert_eq!(b.plane.handle(a.relayed(data), now).stack, [packet]);
}
