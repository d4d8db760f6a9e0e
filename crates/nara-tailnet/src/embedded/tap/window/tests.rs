use proptest::prelude::*;

use super::super::segment::Segment;
use super::*;
use crate::embedded::settings::TCP_BUFFER;

const SHIFT: u8 = 2;

fn tcp(control: TcpControl, sequence: i32, acknowledged: Option<i32>, payload: &[u8]) -> TcpRepr<'_> {
    let address = "100.64.0.1:1".parse().unwrap();
    let acknowledged = acknowledged.map(TcpSeqNumber);
    let mut tcp = Segment::new(
        address,
        address,
        control,
        TcpSeqNumber(sequence),
        acknowledged,
        payload,
    )
    .tcp;
    tcp.window_scale = (control == TcpControl::Syn).then_some(SHIFT);
    tcp
}

fn unmeasured(is_direct: bool) -> Path {
    let mut path = Path::default();
    path.follow(is_direct);
    path
}

/// Returns the window of a connection that we opened.
fn open(is_direct: bool) -> Window {
    let mut window = Window::new(is_direct, First::Alone, None, TCP_BUFFER);
    window.outgoing(&tcp(TcpControl::Syn, -1, None, b""), is_direct);
    let answer = tcp(TcpControl::Syn, 0, Some(0), b"");
    window.incoming(&answer, TcpSeqNumber(0), &unmeasured(is_direct));
    window
}

/// Acknowledges `number` of `sent` bytes.
fn ack(window: &mut Window, number: usize, sent: usize, is_direct: bool) -> Option<u16> {
    let ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
    let path = unmeasured(is_direct);
    window.incoming(&ack, TcpSeqNumber(sent as i32), &path);
    window.limit(&ack, &path, 0, Instant::now())
}

/// Returns a path with a round trip of 20 ms without a queue.
fn path(is_direct: bool) -> Path {
    let mut path = unmeasured(is_direct);
    path.measured(Duration::from_millis(20), Instant::now());
    path
}

/// Runs round trips of `ms` milliseconds with the whole window in flight.
fn round_trips_of(ms: u64, window: &mut Window, from: usize, count: usize) -> usize {
    (0..count).fold(from, |acknowledged, _| {
        let sent = acknowledged + window.size();
        let is_direct = window.is_direct;
        ack(window, sent, sent, is_direct);
        let now = Instant::now();
        window.measured(
            Duration::from_millis(ms),
            &mut path(is_direct),
            TcpSeqNumber(sent as i32),
            now,
        );
        sent
    })
}

/// Sends duplicate acknowledgements; returns whether one of them was the third.
fn duplicates(window: &mut Window, number: usize, sent: usize, count: usize) -> bool {
    let ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
    let path = unmeasured(true);
    (0..count).any(|_| {
        window
            .incoming(&ack, TcpSeqNumber(sent as i32), &path)
            .third_duplicate
    })
}

/// Runs round trips with the whole window in flight. Returns the sequence number after all sent data.
fn round_trips(window: &mut Window, from: usize, count: usize) -> usize {
    (0..count).fold(from, |acknowledged, _| {
        let sent = acknowledged + window.size();
        ack(window, sent, sent, true);
        sent
    })
}

#[test]
fn a_queue_ends_the_doubling_and_a_long_one_shrinks_the_window_to_what_fits() {
    let mut window = open(true);
    let sent = round_trips_of(20, &mut window, 0, 1);
    assert_eq!(window.size(), 2 * FIRST_WINDOW);
    let sent = round_trips_of(35, &mut window, sent, 1);
    let before = window.size();
    let sent = round_trips_of(35, &mut window, sent, 1);
    assert_eq!(window.size(), before + STEP, "only by one packet");
    let before = window.size();
    let sent = round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), before + STEP, "one long round may be random");
    let sent = round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), (before + STEP) * 2 / 3);
    let before = window.size();
    round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), before, "this data was sent before the change");
}

#[test]
fn on_a_relay_a_queue_that_lasts_shrinks_the_window_and_a_repaired_loss_does_not() {
    let start = Instant::now();
    let (mut window, mut path) = (open(false), path(false));
    window.size = 4 * FIRST_WINDOW;
    let mut sent = 0;
    let mut rounds_of = |ms: u64, window: &mut Window, path: &mut Path, rounds: u64, at: u64| {
        for round in 0..rounds {
            let acknowledged = sent;
            sent += window.size();
            ack(window, acknowledged, sent, false);
            let now = start + Duration::from_millis(at + round * 60);
            path.measured(Duration::from_millis(ms), now);
            window.measured(Duration::from_millis(ms), path, TcpSeqNumber(sent as i32), now);
        }
    };
    for at in [0, 1000, 2000] {
        rounds_of(20, &mut window, &mut path, 3, at);
        let before = window.size();
        rounds_of(60, &mut window, &mut path, 2, at + 180);
        assert!(window.size() >= before);
    }
    let before = window.size();
    rounds_of(60, &mut window, &mut path, 5, 3000);
    assert!(window.size() < before);
}

#[test]
fn a_spurious_loss_restores_the_window() {
    let mut window = open(false);
    let before = window.size();
    window.on_loss(STEP, before, TcpSeqNumber(before as i32), &unmeasured(false));
    assert!(window.size() < before);
    window.on_spurious_loss();
    assert_eq!(window.size(), before);
    window.on_timeout(TcpSeqNumber(before as i32));
    window.on_spurious_loss();
    assert_eq!(window.size(), before);
}

#[test]
fn a_timeout_shrinks_only_a_window_that_is_used() {
    for (in_flight, after) in [(300, FIRST_WINDOW), (FIRST_WINDOW, LEAST)] {
        let mut window = open(false);
        window.on_timeout(TcpSeqNumber(in_flight as i32));
        assert_eq!(window.size(), STEP);
        ack(&mut window, in_flight - 300, in_flight, false);
        ack(&mut window, in_flight, in_flight, false);
        assert_eq!(window.size(), after, "{in_flight}");
    }
}

/// Acknowledges rounds of `bytes` bytes (or a whole window) on a relay whose round trips vary by a quarter of 200 ms.
fn varying_rounds(window: &mut Window, path: &mut Path, from: usize, bytes: Option<usize>) -> usize {
    (0..10).fold(from, |acknowledged, n| {
        let now = Instant::now();
        let sent = acknowledged + bytes.unwrap_or_else(|| window.size());
        let all = tcp(TcpControl::None, 1, Some(sent as i32), b"");
        window.incoming(&all, TcpSeqNumber(sent as i32), path);
        let took = Duration::from_millis(200 + n % 2 * 50);
        path.measured(took, now);
        window.measured(took, path, TcpSeqNumber(sent as i32), now);
        sent
    })
}

#[test]
fn requests_on_a_lossy_relay_do_not_slow_a_transfer_after_them() {
    let mut path = unmeasured(false);
    for ms in [200, 400, 200] {
        path.measured(Duration::from_millis(ms), Instant::now());
    }
    assert!(path.repairs());
    let mut window = open(false);
    window.size = LEAST;
    let sent = varying_rounds(&mut window, &mut path, 0, Some(300));
    assert_eq!((window.size(), window.threshold), (LEAST, usize::MAX));
    varying_rounds(&mut window, &mut path, sent, None);
    assert!(window.size() >= FIRST_WINDOW, "{}", window.size());
}

#[test]
fn without_a_queue_the_window_grows_by_a_part_of_itself() {
    let mut window = open(false);
    window.size = 4 * FIRST_WINDOW;
    window.threshold = window.size;
    let sent = round_trips_of(20, &mut window, 0, 1);
    let before = window.size();
    round_trips_of(20, &mut window, sent, 1);
    assert_eq!(window.size(), before + STEP + before / 50);
}

#[test]
fn a_window_becomes_smaller_than_the_first_one_only_when_many_measurements_in_a_row_are_long() {
    let mut window = open(true);
    window.threshold = window.size;
    // The first round shrinks the grown window; the data of the second was sent before that.
    let count = 2 + usize::from(CERTAIN_IN_A_ROW);
    let sent = round_trips_of(60, &mut window, 0, count - 1);
    assert_eq!(window.size(), FIRST_WINDOW);
    round_trips_of(60, &mut window, sent, 1);
    assert_eq!(window.size(), FIRST_WINDOW / 2);

    let mut window = open(true);
    window.threshold = window.size;
    let mut sent = 0;
    for _ in 0..10 {
        sent = round_trips_of(60, &mut window, sent, 12);
        sent = round_trips_of(20, &mut window, sent, 1);
    }
    assert_eq!(window.size(), FIRST_WINDOW, "the queue does not persist");
}

#[test]
fn a_window_begins_small_on_a_saturated_path() {
    assert_eq!(Window::new(false, First::Beside, None, TCP_BUFFER).size(), LEAST);
    assert_eq!(
        Window::new(true, First::Beside, None, TCP_BUFFER).size(),
        LEAST_DIRECT
    );
    assert_eq!(
        Window::new(true, First::Together, None, TCP_BUFFER).size(),
        LEAST_DIRECT
    );
    assert_eq!(
        Window::new(false, First::Together, None, TCP_BUFFER).size(),
        LEAST
    );
}

#[test]
fn the_window_doubles_up_to_its_maximum() {
    let mut window = open(true);
    assert_eq!(window.size(), FIRST_WINDOW);
    let sent = round_trips(&mut window, 0, 1);
    assert_eq!(window.size(), 2 * FIRST_WINDOW);
    round_trips(&mut window, sent, 10);
    assert_eq!(window.size(), TCP_BUFFER);
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let mut window = open(true);
    for number in 1..1000 {
        ack(&mut window, number * 100, number * 100, true);
    }
    assert_eq!(window.size(), FIRST_WINDOW);
}

#[test]
fn a_loss_shrinks_the_window_once_and_then_it_grows_slowly() {
    let mut window = open(true);
    let acknowledged = round_trips(&mut window, 0, 10);
    let sent = acknowledged + TCP_BUFFER;
    for _ in 0..5 {
        window.on_loss(STEP, TCP_BUFFER, TcpSeqNumber(sent as i32), &unmeasured(true));
    }
    let left = TCP_BUFFER * 7 / 10;
    assert_eq!(window.size(), left);
    ack(&mut window, acknowledged + STEP, sent, true);
    assert_eq!(window.size(), left, "recovery has not ended");
    ack(&mut window, sent, sent, true);
    let before = window.size();
    round_trips(&mut window, sent, 1);
    let grown = window.size() - before;
    assert!((STEP / 2..=2 * STEP).contains(&grown), "{grown}");
}

#[test]
fn random_loss_on_a_direct_path_without_a_queue_does_not_shrink_the_window() {
    for (is_direct, lost, shrinks) in [(true, 2, false), (true, 9, true), (false, 1, true)] {
        let mut window = open(is_direct);
        let now = Instant::now();
        let sent = round_trips(&mut window, 0, 10);
        window.is_direct = is_direct;
        let mut path = unmeasured(is_direct);
        path.measured(Duration::from_millis(200), now);
        for _ in 0..lost {
            window.on_loss(STEP, TCP_BUFFER, TcpSeqNumber((sent + TCP_BUFFER) as i32), &path);
        }
        assert_eq!(
            window.size() < TCP_BUFFER,
            shrinks,
            "{lost} on a direct path: {is_direct}"
        );
    }
}

#[test]
fn selectively_acknowledged_bytes_open_the_window() {
    let mut window = open(true);
    let acknowledged = round_trips(&mut window, 0, 1);
    let ack = tcp(TcpControl::None, 1, Some(acknowledged as i32), b"");
    let path = unmeasured(true);
    let told = |window: &Window, beyond| window.limit(&ack, &path, beyond, Instant::now()).map(usize::from);
    let without = told(&window, 0).unwrap();
    assert_eq!(told(&window, STEP), Some(without + (STEP >> SHIFT)));
    window.on_loss(STEP, TCP_BUFFER, TcpSeqNumber(acknowledged as i32 + 1), &path);
    assert!(told(&window, 0).unwrap() < without);
}

#[test]
fn duplicate_acknowledgements_without_outstanding_data_are_ignored() {
    let mut window = open(true);
    let sent = round_trips(&mut window, 0, 1);
    assert!(!duplicates(&mut window, sent, sent, 20));
}

#[test]
fn no_loss_makes_the_window_too_small() {
    for is_direct in [true, false] {
        let mut window = open(is_direct);
        let mut path = unmeasured(is_direct);
        path.measured(Duration::from_millis(200), Instant::now());
        for n in 1..20_usize {
            window.on_loss(9 * STEP, 9 * FIRST_WINDOW, TcpSeqNumber((n * 1000) as i32), &path);
            ack(&mut window, n * 1000, n * 1000, is_direct);
        }
        let least = if is_direct { FIRST_WINDOW } else { LEAST };
        assert_eq!(window.size(), least, "without a queue");
        window.on_timeout(TcpSeqNumber(20_000));
        assert_eq!(window.size(), STEP, "no answer arrived");
    }
}

#[test]
fn an_acknowledgement_from_half_a_circle_away_is_ignored() {
    let mut window = open(true);
    let far = tcp(TcpControl::None, 1, Some(1_617_082_373), b"");
    window.incoming(&far, TcpSeqNumber(-530_401_275), &unmeasured(true));
    assert_eq!(window.acknowledged, Some(TcpSeqNumber(0)));
}

#[test]
fn a_new_path_resets_the_window() {
    let mut window = open(true);
    let sent = round_trips(&mut window, 0, 10);
    ack(&mut window, sent, sent, false);
    assert_eq!(window.size(), FIRST_WINDOW);
    ack(&mut window, sent, sent, true);
    assert_eq!(window.size(), FIRST_WINDOW);
}

#[test]
fn without_window_scaling_at_both_ends_nothing_is_shifted() {
    let mut window = Window::new(false, First::Alone, None, TCP_BUFFER);
    let mut syn = tcp(TcpControl::Syn, -1, None, b"");
    window.outgoing(&syn, false);
    syn.window_scale = None;
    window.incoming(&syn, TcpSeqNumber(0), &unmeasured(false));
    let told = ack(&mut window, 1, 1, false);
    assert_eq!(told.map(usize::from), Some(FIRST_WINDOW));
}

proptest! {
    #[test]
    fn the_window_stays_within_its_limits(
        segments in prop::collection::vec((any::<i32>(), any::<i32>(), any::<bool>(), any::<bool>(), 0_usize..9), 0..60),
    ) {
        let mut window = open(true);
        let mut path = path(false);
        for (sent, number, goes_out, is_direct, len) in segments {
            let segment = tcp(TcpControl::None, number, Some(number), &[0; 9][..len]);
            let sent = TcpSeqNumber(sent);
            path.follow(is_direct);
            if goes_out {
                window.outgoing(&segment, is_direct);
                window.on_loss(len, 0, sent, &path);
            } else {
                window.incoming(&segment, sent, &path);
                let took = Duration::from_millis(number.unsigned_abs().into());
                window.measured(took, &mut path, sent, Instant::now());
            }
            let told = window.limit(&segment, &path, len, Instant::now());
            prop_assert!((STEP..=TCP_BUFFER).contains(&window.size()));
            prop_assert!(told.is_none_or(|told| told > 0 && told < segment.window_len));
        }
    }
}
