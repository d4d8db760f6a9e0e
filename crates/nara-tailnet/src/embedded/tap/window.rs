//! How much of a connection may be on the way at once: the window follows the path.
//!
//! The network stack sends whatever the peer's window allows: it has no congestion control that limits what is in
//! flight. So the tap limits the window that the stack reads. On a relay it is small and fixed. On a direct path it
//! starts there, grows while the peer acknowledges, and halves at a loss, as in RFC 5681, but never below the window of
//! a relay.

use super::segment::{TcpControl, TcpRepr, TcpSeqNumber};
use crate::embedded::device::MTU;
use crate::embedded::settings::{RELAY_WINDOW, TCP_BUFFER};

/// By how much the window grows in a round trip after a loss, in bytes: the payload of a packet.
const STEP: usize = MTU - 40;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    is_direct: bool,
    /// What may be in flight on a direct path, in bytes.
    size: usize,
    /// Up to this size the window doubles in a round trip.
    threshold: usize,
    /// A loss is repaired when the peer has acknowledged this.
    recovery: Option<TcpSeqNumber>,
    /// What the peer has acknowledged.
    acknowledged: Option<TcpSeqNumber>,
    /// By how many bits the SYN of each end says that its windows are shifted (RFC 7323, section 2).
    our_shift: Option<u8>,
    their_shift: Option<u8>,
}

impl Window {
    /// `their_shift` is that of their SYN, if it came first.
    pub(super) const fn new(is_direct: bool, their_shift: Option<u8>) -> Self {
        Self {
            is_direct,
            size: RELAY_WINDOW,
            threshold: usize::MAX,
            recovery: None,
            acknowledged: None,
            our_shift: None,
            their_shift,
        }
    }

    /// What may be in flight now, in bytes.
    pub(super) const fn size(&self) -> usize {
        if self.is_direct { self.size } else { RELAY_WINDOW }
    }

    /// Takes note of a segment that the stack sends; `sent` is the number behind all that it sent before. Returns the
    /// window to tell the peer, if it must be smaller than what the segment says.
    pub(super) fn outgoing(&mut self, tcp: &TcpRepr<'_>, sent: TcpSeqNumber, is_direct: bool) -> Option<u16> {
        self.follow(is_direct);
        if tcp.control == TcpControl::Syn {
            self.our_shift = tcp.window_scale;
        }
        let is_again = !tcp.payload.is_empty() && tcp.seq_number < sent;
        if is_again && self.recovery.is_none() {
            self.threshold = (self.size / 2).max(RELAY_WINDOW);
            self.size = self.threshold;
            self.recovery = Some(sent);
        }
        if is_direct {
            return None;
        }
        limited(tcp, RELAY_WINDOW, self.their_shift.and(self.our_shift))
    }

    /// Takes note of a segment of the peer; `sent` is the number behind all that the stack sent. Returns the window to
    /// tell the stack, if it must be smaller than what the segment says.
    pub(super) fn incoming(&mut self, tcp: &TcpRepr<'_>, sent: TcpSeqNumber, is_direct: bool) -> Option<u16> {
        self.follow(is_direct);
        if tcp.control == TcpControl::Syn {
            self.their_shift = tcp.window_scale;
        }
        if let Some(number) = tcp.ack_number {
            self.acknowledge(number, sent);
        }
        limited(tcp, self.size(), self.our_shift.and(self.their_shift))
    }

    fn acknowledge(&mut self, number: TcpSeqNumber, sent: TcpSeqNumber) {
        let Some(before) = self.acknowledged else {
            self.acknowledged = Some(number);
            return;
        };
        // A peer may acknowledge what was never sent. The order of the numbers is a circle: all three pairs count.
        if number <= before || number > sent || sent < before {
            return;
        }
        self.acknowledged = Some(number);
        if self.recovery.is_some_and(|recovery| number < recovery) {
            return;
        }
        self.recovery = None;
        let (bytes, in_flight) = (number - before, sent - before);
        if in_flight * 2 < self.size {
            // The sender has not tried the window that it has.
            return;
        }
        let growth = if self.size < self.threshold {
            bytes
        } else {
            (STEP * bytes / self.size).max(1)
        };
        self.size = (self.size + growth).min(TCP_BUFFER);
    }

    /// On another path nothing is known.
    fn follow(&mut self, is_direct: bool) {
        if self.is_direct != is_direct {
            self.is_direct = is_direct;
            self.size = RELAY_WINDOW;
            self.threshold = usize::MAX;
            self.recovery = None;
        }
    }
}

/// The limit as the window of this segment, if its window is larger. The window of a SYN is not shifted.
fn limited(tcp: &TcpRepr<'_>, limit: usize, shift: Option<u8>) -> Option<u16> {
    let shift = match tcp.control {
        TcpControl::Syn => 0,
        _ => shift.unwrap_or(0),
    };
    let limit = u16::try_from(limit >> shift).unwrap_or(u16::MAX);
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

    /// A connection that we opened.
    fn open(is_direct: bool) -> Window {
        let mut window = Window::new(is_direct, None);
        window.outgoing(&tcp(TcpControl::Syn, -1, None, b""), TcpSeqNumber(-1), is_direct);
        window.incoming(&tcp(TcpControl::Syn, 0, Some(0), b""), TcpSeqNumber(0), is_direct);
        window
    }

    /// What the peer acknowledges of what was sent.
    fn ack(window: &mut Window, number: usize, sent: usize, is_direct: bool) -> Option<u16> {
        let ack = tcp(TcpControl::None, 1, Some(number as i32), b"");
        window.incoming(&ack, TcpSeqNumber(sent as i32), is_direct)
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
    fn on_a_relay_the_window_stays_small_in_both_directions() {
        let mut window = open(false);
        let mut sent = 0;
        for _ in 0..20 {
            sent += RELAY_WINDOW;
            let told = ack(&mut window, sent, sent, false);
            assert_eq!(told.map(|told| usize::from(told) << SHIFT), Some(RELAY_WINDOW));
        }
        let data = tcp(TcpControl::None, sent as i32, Some(1), b"");
        let told = window.outgoing(&data, TcpSeqNumber(sent as i32), false);
        assert_eq!(told.map(|told| usize::from(told) << SHIFT), Some(RELAY_WINDOW));
    }

    #[test]
    fn on_a_direct_path_the_window_doubles_up_to_the_buffer() {
        let mut window = open(true);
        assert_eq!(window.size(), RELAY_WINDOW);
        let sent = round_trips(&mut window, 0, 1);
        assert_eq!(window.size(), 2 * RELAY_WINDOW);
        round_trips(&mut window, sent, 10);
        assert_eq!(window.size(), TCP_BUFFER);
        let ours = tcp(TcpControl::None, 0, Some(1), b"");
        assert_eq!(
            window.outgoing(&ours, TcpSeqNumber(0), true),
            None,
            "they see all of ours"
        );
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = open(true);
        for number in 1..1000 {
            ack(&mut window, number * 100, number * 100, true);
        }
        assert_eq!(window.size(), RELAY_WINDOW);
    }

    #[test]
    fn a_loss_halves_the_window_once_and_then_it_grows_slowly() {
        let mut window = open(true);
        let acknowledged = round_trips(&mut window, 0, 10);
        let sent = acknowledged + TCP_BUFFER;
        for _ in 0..5 {
            resend(&mut window, acknowledged, sent);
        }
        assert_eq!(window.size(), TCP_BUFFER / 2);
        ack(&mut window, sent - 1, sent, true);
        assert_eq!(window.size(), TCP_BUFFER / 2, "it is still being repaired");
        ack(&mut window, sent, sent, true);
        round_trips(&mut window, sent, 1);
        let grown = window.size() - TCP_BUFFER / 2;
        assert!((STEP / 2..=2 * STEP).contains(&grown), "{grown}");
    }

    #[test]
    fn no_loss_makes_the_window_smaller_than_on_a_relay() {
        let mut window = open(true);
        for n in 0..20_usize {
            resend(&mut window, n * 1000, (n + 1) * 1000);
            ack(&mut window, (n + 1) * 1000, (n + 1) * 1000, true);
        }
        assert_eq!(window.size(), RELAY_WINDOW);
    }

    #[test]
    fn an_acknowledgement_from_half_a_circle_away_is_ignored() {
        let mut window = open(true);
        let far = tcp(TcpControl::None, 1, Some(1_617_082_373), b"");
        window.incoming(&far, TcpSeqNumber(-530_401_275), true);
        assert_eq!(window.acknowledged, Some(TcpSeqNumber(0)));
    }

    #[test]
    fn another_path_begins_anew() {
        let mut window = open(true);
        let sent = round_trips(&mut window, 0, 10);
        ack(&mut window, sent, sent, false);
        assert_eq!(window.size(), RELAY_WINDOW);
        ack(&mut window, sent, sent, true);
        assert_eq!(window.size(), RELAY_WINDOW);
    }

    #[test]
    fn without_window_scaling_at_both_ends_nothing_is_shifted() {
        let mut window = Window::new(false, None);
        let mut syn = tcp(TcpControl::Syn, -1, None, b"");
        window.outgoing(&syn, TcpSeqNumber(-1), false);
        syn.window_scale = None;
        window.incoming(&syn, TcpSeqNumber(0), false);
        let told = ack(&mut window, 1, 1, false);
        assert_eq!(told.map(usize::from), Some(RELAY_WINDOW));
    }

    proptest! {
        #[test]
        fn whatever_a_peer_sends_the_window_stays_within_its_limits(
            segments in prop::collection::vec((any::<i32>(), any::<i32>(), any::<bool>(), any::<bool>(), 0_usize..9), 0..60),
        ) {
            let mut window = open(true);
            for (sent, number, goes_out, is_direct, len) in segments {
                let segment = tcp(TcpControl::None, number, Some(number), &[0; 9][..len]);
                let sent = TcpSeqNumber(sent);
                let told = match goes_out {
                    true => window.outgoing(&segment, sent, is_direct),
                    false => window.incoming(&segment, sent, is_direct),
                };
                prop_assert!((RELAY_WINDOW..=TCP_BUFFER).contains(&window.size()));
                prop_assert!(told.is_none_or(|told| told > 0 && told < segment.window_len));
            }
        }
    }
}
