use proptest::prelude::*;

use super::*;

const LEN: usize = MTU - 40;
const USUAL: Duration = Duration::from_millis(200);
const TIMES: Times = Times {
    usual: USUAL,
    shortest: USUAL,
    repairs: false,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn number(packets: usize) -> TcpSeqNumber {
    TcpSeqNumber((packets * LEN) as i32)
}

/// Sends packets `from..to` of the stack; returns those that are forwarded.
fn send(flight: &mut Flight, from: usize, to: usize, now: Instant) -> Vec<usize> {
    (from..to)
        .filter(|n| flight.sent(&[*n as u8], (number(*n), number(n + 1)), false, now))
        .collect()
}

/// Returns the retransmitted packets.
fn again(flight: &mut Flight, now: Instant) -> Vec<u8> {
    std::iter::from_fn(|| flight.retransmit(usize::MAX, now).map(|packet| packet[0])).collect()
}

/// Acknowledges all packets before `all`, and selectively those in `beyond`.
fn ack(flight: &mut Flight, all: usize, beyond: (usize, usize), now: Instant) -> AckOutcome {
    let (left, right) = beyond;
    let range = (left < right).then(|| (number(left).0 as u32, number(right).0 as u32));
    flight.acknowledged(number(all), &[range, None, None], TIMES, now)
}

fn flight(packets: usize, now: Instant) -> Flight {
    let mut flight = Flight::default();
    assert_eq!(send(&mut flight, 0, packets, now).len(), packets);
    flight
}

#[test]
fn packets_in_flight_are_dropped_and_new_ones_forwarded() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    assert!(send(&mut flight, 0, 10, now).is_empty());
    assert_eq!(send(&mut flight, 0, 12, now), [10, 11]);
    assert!(again(&mut flight, now).is_empty());
    assert_eq!(flight.in_flight(), 12 * LEN);
}

#[test]
fn packets_behind_a_repaired_loss_are_late_and_not_lost() {
    let repaired = Times {
        repairs: true,
        ..TIMES
    };
    let now = Instant::now();
    let mut flight = flight(10, now);
    flight.mark_all_lost();
    let twice = now + USUAL * 2;
    assert_eq!(flight.retransmit(0, twice), Some(&[0][..]), "the others wait");
    // The answer comes too late to tell to which transmission it belongs.
    let first = flight.acknowledged(number(1), &[], repaired, twice + USUAL);
    assert_eq!((first.is_spurious, first.lost), (false, 0));
    let next = flight.acknowledged(number(2), &[], repaired, twice + USUAL);
    assert!(next.is_spurious, "it was not retransmitted");
    assert_eq!((next.lost, flight.in_flight()), (0, 8 * LEN));
    assert!(again(&mut flight, twice + USUAL).is_empty());
}

#[test]
fn an_early_answer_to_a_retransmission_shows_that_the_packet_was_delayed() {
    for (after, is_spurious) in [(ms(190), true), (USUAL, false)] {
        let now = Instant::now();
        let mut flight = flight(10, now);
        let probed = now + USUAL * 2;
        flight.mark_first_lost();
        assert_eq!(again(&mut flight, probed), [0]);
        let outcome = ack(&mut flight, 1, (0, 0), probed + after);
        assert_eq!(outcome.is_spurious, is_spurious);
        let lost = if is_spurious { 0 } else { 9 * LEN };
        assert_eq!(outcome.lost, lost, "packets sent before the retransmission");
    }
}

#[test]
fn three_later_packets_mark_a_packet_lost_which_is_retransmitted_once() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    let later = now + USUAL;
    assert_eq!(ack(&mut flight, 2, (0, 0), later).lost, 0);
    assert_eq!(
        ack(&mut flight, 2, (3, 5), later).lost,
        0,
        "the packets may be reordered"
    );
    assert_eq!(ack(&mut flight, 2, (3, 6), later).lost, LEN);
    assert_eq!((flight.sacked(), flight.in_flight()), (3 * LEN, 4 * LEN));
    assert_eq!(again(&mut flight, later), [2]);
    assert_eq!(flight.in_flight(), 5 * LEN);
    assert_eq!(ack(&mut flight, 2, (3, 10), later).lost, 0);
    assert!(again(&mut flight, later).is_empty() && send(&mut flight, 2, 10, later).is_empty());
    let outcome = ack(&mut flight, 10, (0, 0), later + USUAL);
    assert_eq!(
        (outcome.arrived, outcome.lost),
        (LEN, 0),
        "the others have arrived already"
    );
    assert_eq!((flight.sacked(), flight.in_flight()), (0, 0));
}

#[test]
fn a_lost_retransmission_is_detected_by_later_packets() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    let mut at = now + USUAL;
    ack(&mut flight, 0, (1, 10), at);
    assert_eq!(again(&mut flight, at), [0]);
    at += ms(20);
    send(&mut flight, 10, 11, at);
    assert_eq!(
        ack(&mut flight, 0, (1, 11), at + USUAL).lost,
        0,
        "the packets may be reordered"
    );
    at += ms(60);
    send(&mut flight, 11, 12, at);
    assert_eq!(ack(&mut flight, 0, (1, 12), at + USUAL).lost, LEN);
    assert_eq!(again(&mut flight, at + USUAL), [0]);
}

#[test]
fn the_answer_to_a_probe_marks_all_earlier_packets_lost() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    assert_eq!(flight.mark_first_lost(), LEN);
    let later = now + USUAL * 2;
    assert_eq!(again(&mut flight, later), [0]);
    assert_eq!(ack(&mut flight, 1, (0, 0), later + USUAL).lost, 9 * LEN);
}

#[test]
fn an_early_answer_belongs_to_the_first_transmission() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    flight.mark_first_lost();
    let later = now + USUAL * 2;
    again(&mut flight, later);
    assert_eq!(ack(&mut flight, 1, (0, 0), later + ms(1)).lost, 0);
}

#[test]
fn round_trips_are_measured_after_a_gap_but_not_on_retransmissions() {
    let now = Instant::now();
    let mut flight = flight(20, now);
    let later = now + USUAL;
    assert_eq!(ack(&mut flight, 1, (0, 0), later).round_trip, Some(USUAL));
    assert_eq!(ack(&mut flight, 1, (2, 9), later).round_trip, Some(USUAL));
    assert_eq!(again(&mut flight, later), [1]);
    assert_eq!(ack(&mut flight, 2, (2, 9), later + USUAL).round_trip, None);
}

#[test]
fn single_small_packets_are_each_measured() {
    let mut flight = Flight::default();
    let mut now = Instant::now();
    for n in 0..10 {
        assert!(flight.sent(&[0], (TcpSeqNumber(n), TcpSeqNumber(n + 1)), false, now));
        now += USUAL;
        let outcome = flight.acknowledged(TcpSeqNumber(n + 1), &[], TIMES, now);
        assert_eq!(outcome.round_trip, Some(USUAL));
    }
}

#[test]
fn repeated_packets_and_window_probes_are_not_measured() {
    let now = Instant::now();
    let (syn, byte) = (
        (TcpSeqNumber(0), TcpSeqNumber(1)),
        (TcpSeqNumber(1), TcpSeqNumber(2)),
    );
    for (times, measured) in [(1, Some(USUAL)), (2, None)] {
        let mut flight = Flight::default();
        for _ in 0..times {
            flight.sent(&[0], syn, true, now);
        }
        assert_eq!(
            flight.acknowledged(syn.1, &[], TIMES, now + USUAL).round_trip,
            measured
        );
        flight.sent(&[0], byte, true, now + USUAL);
        assert_eq!(
            flight
                .acknowledged(byte.1, &[], TIMES, now + 9 * USUAL)
                .round_trip,
            None
        );
    }
}

#[test]
fn retransmission_respects_the_window() {
    let now = Instant::now();
    let mut flight = flight(10, now);
    flight.mark_all_lost();
    let room = 3 * LEN;
    let count = std::iter::from_fn(|| flight.retransmit(room, now).map(drop)).count();
    assert_eq!(count, 4, "the last one exceeds the limit");
}

#[test]
fn the_number_of_kept_packets_is_bounded() {
    let mut flight = Flight::default();
    let now = Instant::now();
    let byte = |n: usize| (TcpSeqNumber(n as i32), TcpSeqNumber(n as i32 + 1));
    let send = |flight: &mut Flight, n| flight.sent(&[0], byte(n), false, now);
    for n in 0..2 * MOST {
        assert_eq!(send(&mut flight, n), n < MOST);
    }
    flight.acknowledged(byte(100).0, &[], TIMES, now);
    assert!(!send(&mut flight, 2 * MOST), "the packets before it are missing");
    assert!(send(&mut flight, MOST));
}

proptest! {
    #[test]
    fn acknowledgements_never_exceed_sent_bytes(
        steps in prop::collection::vec((any::<bool>(), any::<u16>(), any::<u32>(), any::<u32>(), 0_u64..500), 0..80),
        first in any::<i32>(),
    ) {
        let mut flight = Flight::default();
        let (mut sent, mut now) = (TcpSeqNumber(first), Instant::now());
        for (sends, number, left, right, ms) in steps {
            now += Duration::from_millis(ms);
            let number = usize::from(number);
            if sends {
                if flight.sent(&[0], (sent, sent + number), number % 3 == 0, now) {
                    sent += number;
                }
            } else {
                let range = [Some((left, right)), Some((left, sent.0 as u32))];
                flight.acknowledged(sent - number, &range, TIMES, now);
            }
            let begin = flight.begin.unwrap_or(sent);
            prop_assert!(flight.sacked() + flight.in_flight() <= sent - begin);
            flight.retransmit(number * 10, now);
        }
    }
}
