//! How much of a connection may be on the way at once: the window follows the path, and what was lost is sent again.
//!
//! The network stack sends whatever the peer's window allows, and after a loss it sends all of that again: it has no
//! congestion control that limits what is in flight. So the tap limits the window that the stack reads. It grows while
//! the peer acknowledges, until packets wait in a queue on the way, and shrinks when they wait too long or are lost: so
//! it becomes what the path carries in a round trip, and a little more. Each connection grows by as much and shrinks in
//! proportion to its window, so several share a path. Until a loss is repaired, the stack sees a window of a packet, and
//! of one more for each gap that was closed: so it sends what is missing and little else (RFC 6582).

use std::time::{Duration, Instant};

use super::path::{Path, QUEUE, scaled};
use super::segment::{TcpControl, TcpRepr, TcpSeqNumber};
use crate::embedded::device::MTU;
use crate::embedded::settings::{FIRST_WINDOW, TCP_BUFFER};

/// By how much the window grows in a round trip while there is a queue, in bytes: the payload of a packet.
const STEP: usize = MTU - 40;
/// Without a queue it grows by its own size in this time.
const DOUBLES: Duration = Duration::from_secs(1);
/// What a loss leaves of it.
const LOSS: (usize, usize) = (7, 10);
/// Nothing makes the window of a relay smaller, in bytes.
const LEAST: usize = 4 * STEP;
/// So many round trips are enough to tell a queue from chance.
const CERTAIN: u8 = 4;
/// So many acknowledgements that acknowledge nothing new mean that a packet was lost.
const DUPLICATES: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    is_direct: bool,
    /// What may be in flight, in bytes, unless a loss is being repaired.
    size: usize,
    /// Up to this size the window doubles in a round trip.
    threshold: usize,
    round: Round,
    /// The shortest round trip of the last round, and how much of it was a queue.
    last: (Duration, Duration),
    repair: Option<Repair>,
    /// What the peer has acknowledged, how often without anything new, and the window that it told.
    acknowledged: Option<TcpSeqNumber>,
    duplicates: u8,
    told: u16,
    /// By how many bits the SYN of each end says that its windows are shifted (RFC 7323, section 2).
    our_shift: Option<u8>,
    their_shift: Option<u8>,
}

/// The time in which all that was in flight is acknowledged.
#[derive(Debug, Default)]
struct Round {
    /// It is over when the peer has acknowledged this.
    until: Option<TcpSeqNumber>,
    shortest: Option<Duration>,
    measured: u8,
    /// What is acknowledged was sent with a larger window.
    is_of_before: bool,
    /// In the round before, the queue was too long.
    was_long: bool,
}

#[derive(Debug)]
struct Repair {
    /// The loss is repaired when the peer has acknowledged this.
    until: TcpSeqNumber,
    /// What may be in flight meanwhile, in bytes.
    window: usize,
}

/// What to do with a segment of the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The stack has to send again: see [`Window::request`].
    pub(super) resend: bool,
    /// The peer has acknowledged something new.
    pub(super) progress: bool,
}

impl Window {
    /// `their_shift` is that of their SYN, if it came first. `is_full`: other connections use the path up.
    pub(super) fn new(is_direct: bool, is_full: bool, their_shift: Option<u8>) -> Self {
        Self {
            is_direct,
            size: if is_full { least(is_direct) } else { FIRST_WINDOW },
            threshold: usize::MAX,
            round: Round::default(),
            last: (Duration::ZERO, Duration::ZERO),
            repair: None,
            acknowledged: None,
            duplicates: 0,
            told: 0,
            our_shift: None,
            their_shift,
        }
    }

    /// What may be in flight now, in bytes.
    pub(super) fn size(&self) -> usize {
        self.repair.as_ref().map_or(self.size, |repair| repair.window)
    }

    /// What the peer has acknowledged.
    pub(super) const fn acknowledged(&self) -> Option<TcpSeqNumber> {
        self.acknowledged
    }

    /// Takes note of a segment that the stack sends; `sent` is the number behind all that it sent before.
    pub(super) fn outgoing(&mut self, tcp: &TcpRepr<'_>, sent: TcpSeqNumber, is_direct: bool) {
        self.follow(is_direct);
        if tcp.control == TcpControl::Syn {
            self.our_shift = tcp.window_scale;
        }
        if !tcp.payload.is_empty() && tcp.seq_number < sent && self.repair.is_none() {
            // A timer of the stack.
            self.begin_repair(sent);
        }
    }

    /// Takes note of a segment of the peer; `sent` is the number behind all that the stack sent.
    pub(super) fn incoming(&mut self, tcp: &TcpRepr<'_>, sent: TcpSeqNumber, path: &Path) -> Advice {
        self.follow(path.is_direct());
        if tcp.control == TcpControl::Syn {
            self.their_shift = tcp.window_scale;
        }
        let mut advice = Advice::default();
        if let Some(number) = tcp.ack_number {
            if self.is_duplicate(tcp, number, sent) {
                self.duplicates = self.duplicates.saturating_add(1);
                if self.duplicates == DUPLICATES && self.repair.is_none() {
                    self.begin_repair(sent);
                    advice.resend = true;
                }
            } else {
                advice.progress = self.acknowledge(number, sent, path);
            }
        }
        self.told = tcp.window_len;
        advice
    }

    /// The window to tell the stack instead of that of this segment of the peer, if it must be smaller.
    pub(super) fn limit(&self, tcp: &TcpRepr<'_>, path: &Path, now: Instant) -> Option<u16> {
        let usable = path.usable(self.size(), now).max(STEP);
        limited(tcp, usable, self.our_shift.and(self.their_shift))
    }

    /// A round trip took this long; `sent` is the number behind all that the stack sent.
    pub(super) fn measured(
        &mut self,
        round_trip: Duration,
        path: &mut Path,
        sent: TcpSeqNumber,
        now: Instant,
    ) {
        let round = &mut self.round;
        let shortest = round
            .shortest
            .map_or(round_trip, |shortest| shortest.min(round_trip));
        round.shortest = Some(shortest);
        round.measured = round.measured.saturating_add(1);
        let queue = path.queue_of(shortest);
        let is_over = round.until.is_none_or(|until| self.acknowledged >= Some(until));
        if is_over || round.measured >= CERTAIN {
            path.waits(queue, now);
            if path.is_crowded() {
                self.threshold = self.threshold.min(self.size);
            }
        }
        if !is_over {
            return;
        }
        self.last = (shortest, queue);
        // A processor with too much to do makes a round long now and then. On a long way that is little, and waiting much.
        let is_long = queue > QUEUE && !round.is_of_before;
        let is_certain = round.was_long || queue > QUEUE * 3 / 2 || shortest > QUEUE * 5;
        let shrinks = is_long && is_certain;
        if shrinks && self.repair.is_none() {
            self.size = path.fitting(self.size, shortest).max(least(self.is_direct));
            self.threshold = self.size;
        }
        self.round = Round {
            until: Some(sent),
            is_of_before: shrinks,
            was_long: is_long,
            ..Round::default()
        };
    }

    /// Nothing was acknowledged for too long: the stack has to send again, from what the peer acknowledged last.
    pub(super) fn expire(&mut self, sent: TcpSeqNumber) {
        match &mut self.repair {
            // What was sent again was lost too.
            Some(repair) => repair.window = STEP,
            None => self.begin_repair(sent),
        }
        self.duplicates = 0;
    }

    /// What makes the stack send again: the windows of acknowledgements that acknowledge nothing new. `None`: the peer
    /// has no room, and the stack asks it by itself.
    pub(super) fn request(&self) -> Option<[u16; 5]> {
        let shift = self.our_shift.and(self.their_shift).unwrap_or(0);
        let window = self.told.min(shifted(self.size(), shift));
        // The stack counts acknowledgements of the same window, and counts to three. The first makes it begin anew.
        let other = window.checked_sub(1)?;
        Some([other, window, window, window, window])
    }

    fn is_duplicate(&self, tcp: &TcpRepr<'_>, number: TcpSeqNumber, sent: TcpSeqNumber) -> bool {
        self.acknowledged == Some(number)
            && number < sent
            && tcp.payload.is_empty()
            && tcp.control == TcpControl::None
            && (tcp.window_len == self.told || tcp.sack_ranges[0].is_some())
    }

    fn begin_repair(&mut self, sent: TcpSeqNumber) {
        self.threshold = (self.size * LOSS.0 / LOSS.1).max(least(self.is_direct));
        self.size = self.threshold;
        self.repair = Some(Repair {
            until: sent,
            window: STEP,
        });
    }

    /// Whether that is new.
    fn acknowledge(&mut self, number: TcpSeqNumber, sent: TcpSeqNumber, path: &Path) -> bool {
        let Some(before) = self.acknowledged else {
            self.acknowledged = Some(number);
            return true;
        };
        // A peer may acknowledge what was never sent. The order of the numbers is a circle: all three pairs count.
        if number <= before || number > sent || sent < before {
            return false;
        }
        self.acknowledged = Some(number);
        self.duplicates = 0;
        if let Some(repair) = &mut self.repair {
            if number < repair.until {
                repair.window = (repair.window + STEP).min(self.size);
                return true;
            }
            self.repair = None;
            // All at once would be a burst.
            self.size = self.threshold.min(FIRST_WINDOW);
            return true;
        }
        let (bytes, in_flight) = (number - before, sent - before);
        if in_flight * 2 < self.size || path.is_draining() {
            // The sender has not tried the window that it has.
            return true;
        }
        let (round_trip, queue) = self.last;
        let step = (STEP * bytes / self.size).max(1);
        let growth = if self.size < self.threshold && !path.is_crowded() {
            bytes.min(self.threshold - self.size)
        } else if queue > QUEUE {
            0
        } else if queue > QUEUE / 4 {
            step
        } else {
            // On a long way, a round trip must not add more than this to the queue.
            let most = scaled(bytes, QUEUE / 4, round_trip);
            step + scaled(bytes, round_trip, DOUBLES).min(most)
        };
        self.size = (self.size + growth).min(TCP_BUFFER);
        true
    }

    /// On another path nothing is known.
    fn follow(&mut self, is_direct: bool) {
        if self.is_direct != is_direct {
            self.is_direct = is_direct;
            self.size = FIRST_WINDOW;
            self.threshold = usize::MAX;
            self.round = Round::default();
            self.last = (Duration::ZERO, Duration::ZERO);
            self.repair = None;
        }
    }
}

const fn least(is_direct: bool) -> usize {
    if is_direct { FIRST_WINDOW } else { LEAST }
}

/// A window as it stands in a segment; rounded up, so that a packet fits into a window for one.
fn shifted(window: usize, shift: u8) -> u16 {
    u16::try_from(window.div_ceil(1 << shift)).unwrap_or(u16::MAX)
}

/// The limit as the window of this segment, if its window is larger. The window of a SYN is not shifted.
fn limited(tcp: &TcpRepr<'_>, limit: usize, shift: Option<u8>) -> Option<u16> {
    let shift = match tcp.control {
        TcpControl::Syn => 0,
        _ => shift.unwrap_or(0),
    };
    let limit = shifted(limit, shift);
    (tcp.window_len > limit).then_some(limit)
}

#[cfg(test)]
mod tests {
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
}
