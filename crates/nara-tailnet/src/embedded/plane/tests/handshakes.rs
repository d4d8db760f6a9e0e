//! Handshakes that cross, get lost, or show how far the peer is.

use super::*;

/// Passes everything that the planes send each other, each time after this delay. Returns the time at the end.
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
        let sent = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
        now = exchange(&mut a, &mut b, sent, round_trip / 2, now);
        for (node, peer) in [(&a, &b), (&b, &a)] {
            let far = node.plane.far_addresses();
            assert_eq!(far.contains(&peer.address), is_far, "{round_trip:?}");
        }
        a.plane.greet_again(&b.key);
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
fn two_peers_that_begin_at_the_same_moment_reach_each_other() {
    let now = Instant::now();
    // Either key may be the larger one.
    for _ in 0..8 {
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
}

#[test]
fn a_handshake_that_got_lost_does_not_keep_the_other_end_from_its_own() {
    let begin = Instant::now();
    for _ in 0..8 {
        let (mut a, mut b) = pair();
        a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), begin);
        let packet = b.packet_to(&a, 20);
        assert_eq!(talk(&mut b, &mut a, packet.clone(), begin + CROSSING), [packet]);
    }
}

#[test]
fn a_handshake_that_crosses_a_lost_one_is_taken_up() {
    let now = Instant::now();
    let later = now + CROSSING;
    for _ in 0..8 {
        let (mut a, mut b) = pair();
        // This handshake never arrives.
        a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now);
        let packet = b.packet_to(&a, 20);
        let sent = b.plane.handle(Input::Stack(vec![packet.clone()]), now);
        let mut answer = a.plane.handle(b.relayed(sent), now);
        if answer.relay.is_empty() {
            assert!(a.plane.next_timeout().is_some_and(|at| at <= later));
            answer = a.plane.handle(Input::Timeout, later);
        }
        let data = b.plane.handle(a.relayed(answer), later);
        assert_eq!(a.plane.handle(b.relayed(data), later).stack, [packet]);
    }
}

#[test]
fn a_handshake_over_udp_is_answered_there_before_a_path_is_known() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let (at_a, at_b) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
    a.plane.set_path(&b.key, Some(at_b));
    b.plane.set_known(at_a, a.key);
    let mut greeting = a.plane.handle(Input::Stack(vec![a.packet_to(&b, 10)]), now).udp;
    let greeting = greeting.remove(0).1.remove(0);
    let answer = b.plane.handle(Input::Udp(vec![(at_a, greeting)]), now);
    assert!(matches!(&*answer.udp, [(to, packets)] if *to == at_a && packets.len() == 1));
}

#[test]
fn an_answer_to_an_earlier_handshake_does_not_count_as_heard() {
    let now = Instant::now();
    let (mut a, mut b) = pair();
    let packet = a.packet_to(&b, 10);
    let first = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    a.plane.greet_again(&b.key);
    let lost = a.plane.handle(Input::Stack(vec![packet.clone()]), now);
    assert_eq!(lost.relay.len(), 1);
    let answer = b.plane.handle(a.relayed(first), now);
    a.plane.handle(b.relayed(answer), now);
    assert!(
        a.plane.heard_since(&b.key, now, now),
        "the answer to the last handshake may still arrive"
    );
    assert!(!a.plane.heard_since(&b.key, now, now + CROSSING));
    a.plane.greet_again(&b.key);
    assert_eq!(talk(&mut a, &mut b, packet.clone(), now), [packet]);
    assert!(a.plane.heard_since(&b.key, now, now + CROSSING));
}
