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
/// So many measurements in a row must say that a queue is too long before a window becomes smaller than
/// [`FIRST_WINDOW`]: a small window has one of them in a round trip, and they vary for other reasons too.
const CERTAIN_IN_A_ROW: u8 = 12;
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
    /// The measurements of the rounds in a row in which the queue was too long, since the window was changed for it.
    long: u8,
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
            long: 0,
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

    /// Whether the peer has no room.
    pub(super) const fn is_closed(&self) -> bool {
        self.acknowledged.is_some() && self.told == 0
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
        // Nothing in it is new: a timer of the stack. After a question whether there is room, the first byte is not new.
        let is_again = !tcp.payload.is_empty() && tcp.seq_number + tcp.payload.len() <= sent;
        if is_again && !self.is_closed() && self.repair.is_none() {
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
        self.long = if is_long {
            self.long.saturating_add(round.measured)
        } else {
            0
        };
        let floor = if self.long >= CERTAIN_IN_A_ROW {
            least(self.is_direct)
        } else {
            FIRST_WINDOW
        };
        let fitting = path.fitting(self.size, shortest).max(floor);
        let shrinks = is_long && is_certain && fitting < self.size && self.repair.is_none();
        if shrinks {
            self.size = fitting;
            self.threshold = fitting;
            self.long = 0;
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
        if self.is_closed() {
            return;
        }
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
            // Else it answers the question whether there is room.
            && tcp.window_len != 0
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
            self.long = 0;
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
mod tests;
