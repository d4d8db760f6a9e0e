use proptest::prelude::*;

use super::super::segment::Segment;
use super::*;

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

/// A connection that we opened.
fn open(is_direct: bool) -> Window {
    let mut window = Window::new(is_direct, false, None);
    window.outgoing(&tcp(TcpControl::Syn, -1, None, b""), TcpSeqNumber(-1), is_direct);
    let answer = tcp(TcpControl::Syn, 0, Some(0), b"");
    window.incoming(&answer, TcpSeqNumber(0), &unmeasured(is_direct));
    window
}

/// What the peer acknowledges of what was sent.
fn ack(window: &mut Window, number: usize, sent: usize, is_direct: bool) -> Option<u16> {
    let ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
    let path = unmeasured(is_direct);
    window.incoming(&ack, TcpSeqNumber(sent as i32), &path);
    window.limit(&ack, &path, Instant::now())
}

/// A path whose round trip takes 20 ms without a queue.
fn path() -> Path {
    let mut path = Path::default();
    path.measured(Duration::from_millis(20), Instant::now());
    path
}

/// Round trips with the whole window in flight that take so many milliseconds.
fn round_trips_of(ms: u64, window: &mut Window, from: usize, count: usize) -> usize {
    (0..count).fold(from, |acknowledged, _| {
        let sent = acknowledged + window.size();
        ack(window, sent, sent, false);
        let now = Instant::now();
        window.measured(
            Duration::from_millis(ms),
            &mut path(),
            TcpSeqNumber(sent as i32),
            now,
        );
        sent
    })
}

/// The peer acknowledges nothing new so many times; returns whether the stack has to send again.
fn duplicates(window: &mut Window, number: usize, sent: usize, count: usize) -> bool {
    let ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
    let path = unmeasured(true);
    (0..count).any(|_| window.incoming(&ack, TcpSeqNumber(sent as i32), &path).resend)
}

fn resend(window: &mut Window, number: usize, sent: usize) {
    let again = tcp(TcpControl::None, number as i32, Some(1), b"again");
    window.outgoing(&again, TcpSeqNumber(sent as i32), true);
}

/// Round trips with the whole window in flight. Returns the number behind what was sent.
fn round_trips(window: &mut Window, from: usize, count: usize) -> usize {
    (0..count).fold(from, |acknowledged, _| {
        let sent = acknowledged + window.size();
        ack(window, sent, sent, true);
        sent
    })
}

#[test]
fn a_queue_ends_the_doubling_and_a_long_one_shrinks_the_window_to_what_fits() {
    let mut window = open(false);
    let sent = round_trips_of(20, &mut window, 0, 1);
    assert_eq!(window.size(), 2 * FIRST_WINDOW);
    let sent = round_trips_of(35, &mut window, sent, 1);
    let before = window.size();
    let sent = round_trips_of(35, &mut window, sent, 1);
    assert_eq!(window.size(), before + STEP, "by a packet only");
    let before = window.size();
    let sent = round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), before + STEP, "once may be chance");
    let sent = round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), (before + STEP) * 2 / 3);
    let before = window.size();
    round_trips_of(45, &mut window, sent, 1);
    assert_eq!(window.size(), before, "that was sent before");
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
    let mut window = open(false);
    window.threshold = window.size;
    // The first shrinks what has grown, the second was sent before that.
    let count = 2 + usize::from(CERTAIN_IN_A_ROW);
    let sent = round_trips_of(60, &mut window, 0, count - 1);
    assert_eq!(window.size(), FIRST_WINDOW);
    round_trips_of(60, &mut window, sent, 1);
    assert_eq!(window.size(), FIRST_WINDOW / 2);

    let mut window = open(false);
    window.threshold = window.size;
    let mut sent = 0;
    for _ in 0..10 {
        sent = round_trips_of(60, &mut window, sent, 12);
        sent = round_trips_of(20, &mut window, sent, 1);
    }
    assert_eq!(window.size(), FIRST_WINDOW, "it is not a queue that stays");
}

#[test]
fn beside_others_that_use_the_path_up_a_window_begins_small() {
    assert_eq!(Window::new(false, true, None).size(), LEAST);
    assert_eq!(Window::new(true, true, None).size(), FIRST_WINDOW);
}

#[test]
fn the_window_doubles_up_to_the_buffer() {
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
        resend(&mut window, acknowledged, sent);
    }
    ack(&mut window, sent, sent, true);
    assert_eq!(window.size(), FIRST_WINDOW, "all of it at once would be a burst");
    let sent = round_trips(&mut window, sent, 3);
    let left = TCP_BUFFER * 7 / 10;
    assert_eq!(window.size(), left);
    round_trips(&mut window, sent, 1);
    let grown = window.size() - left;
    assert!((STEP / 2..=2 * STEP).contains(&grown), "{grown}");
}

#[test]
fn the_third_duplicate_makes_the_stack_send_again_what_is_missing_and_no_more() {
    let mut window = open(true);
    let acknowledged = round_trips(&mut window, 0, 10);
    let sent = acknowledged + TCP_BUFFER;
    assert!(!duplicates(&mut window, acknowledged, sent, 2));
    assert!(duplicates(&mut window, acknowledged, sent, 1));
    assert_eq!(window.size(), STEP);
    assert!(!duplicates(&mut window, acknowledged, sent, 50), "once is enough");
    ack(&mut window, acknowledged + 2 * STEP, sent, true);
    assert_eq!(
        window.size(),
        2 * STEP,
        "a gap was closed, and there is another one"
    );
    ack(&mut window, sent, sent, true);
    assert_eq!(window.size(), FIRST_WINDOW, "it is repaired");
}

#[test]
fn what_is_asked_for_fits_into_the_window_of_the_peer() {
    let mut window = open(true);
    let sent = round_trips(&mut window, 0, 1);
    window.expire(TcpSeqNumber(sent as i32 + 1));
    let asked = window.request().unwrap();
    let bytes = usize::from(asked[1]) << SHIFT;
    assert!((STEP..STEP + (1 << SHIFT)).contains(&bytes), "{bytes}");
    assert_ne!(asked[0], asked[1]);
    let mut full = tcp(TcpControl::None, 1, Some(sent as i32), b"");
    full.window_len = 0;
    window.incoming(&full, TcpSeqNumber(sent as i32 + 1), &unmeasured(true));
    assert_eq!(window.request(), None, "the peer has no room");
}

#[test]
fn while_the_peer_has_no_room_nothing_is_a_loss() {
    let mut window = open(true);
    let number = round_trips(&mut window, 0, 10);
    let acknowledged = TcpSeqNumber(number as i32);
    let path = unmeasured(true);
    let mut ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
    ack.window_len = 0;
    window.incoming(&ack, acknowledged, &path);
    let mut sent = acknowledged;
    for _ in 0..10 {
        let question = tcp(TcpControl::None, number as i32, Some(1), b"?");
        window.outgoing(&question, sent, true);
        sent = acknowledged + 1;
        assert!(!window.incoming(&ack, sent, &path).resend);
        window.expire(sent);
    }
    ack.window_len = u16::MAX;
    window.incoming(&ack, sent, &path);
    let more = tcp(TcpControl::None, number as i32, Some(1), b"more");
    window.outgoing(&more, sent, true);
    assert_eq!(window.size(), TCP_BUFFER);
}

#[test]
fn nothing_is_sent_again_for_acknowledgements_while_nothing_is_outstanding() {
    let mut window = open(true);
    let sent = round_trips(&mut window, 0, 1);
    assert!(!duplicates(&mut window, sent, sent, 20));
}

#[test]
fn no_loss_makes_the_window_too_small() {
    for is_direct in [true, false] {
        let mut window = open(is_direct);
        for n in 0..20_usize {
            let again = tcp(TcpControl::None, (n * 1000) as i32, Some(1), b"again");
            window.outgoing(&again, TcpSeqNumber((n as i32 + 1) * 1000), is_direct);
            ack(&mut window, (n + 1) * 1000, (n + 1) * 1000, is_direct);
        }
        assert_eq!(window.size(), least(is_direct));
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
fn another_path_begins_anew() {
    let mut window = open(true);
    let sent = round_trips(&mut window, 0, 10);
    ack(&mut window, sent, sent, false);
    assert_eq!(window.size(), FIRST_WINDOW);
    ack(&mut window, sent, sent, true);
    assert_eq!(window.size(), FIRST_WINDOW);
}

#[test]
fn without_window_scaling_at_both_ends_nothing_is_shifted() {
    let mut window = Window::new(false, false, None);
    let mut syn = tcp(TcpControl::Syn, -1, None, b"");
    window.outgoing(&syn, TcpSeqNumber(-1), false);
    syn.window_scale = None;
    window.incoming(&syn, TcpSeqNumber(0), &unmeasured(false));
    let told = ack(&mut window, 1, 1, false);
    assert_eq!(told.map(usize::from), Some(FIRST_WINDOW));
}

proptest! {
    #[test]
    fn whatever_a_peer_sends_the_window_stays_within_its_limits(
        segments in prop::collection::vec((any::<i32>(), any::<i32>(), any::<bool>(), any::<bool>(), 0_usize..9), 0..60),
    ) {
        let mut window = open(true);
        let mut path = path();
        for (sent, number, goes_out, is_direct, len) in segments {
            let segment = tcp(TcpControl::None, number, Some(number), &[0; 9][..len]);
            let sent = TcpSeqNumber(sent);
            path.follow(is_direct);
            if goes_out {
                window.outgoing(&segment, sent, is_direct);
            } else {
                window.incoming(&segment, sent, &path);
                let took = Duration::from_millis(number.unsigned_abs().into());
                window.measured(took, &mut path, sent, Instant::now());
            }
            let told = window.limit(&segment, &path, Instant::now());
            prop_assert!((STEP..=TCP_BUFFER).contains(&window.size()));
            prop_assert!(told.is_none_or(|told| told > 0 && told < segment.window_len));
        }
    }
}
