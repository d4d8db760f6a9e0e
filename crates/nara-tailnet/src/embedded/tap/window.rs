//! Congestion control: how many bytes of a connection may be in flight.
//!
//! The network stack has no congestion control and sends whatever the peer's window allows. The tap therefore limits
//! the window that the stack sees. The window grows with acknowledgements until packets queue on the path. It shrinks
//! when the queue grows too long or packets are lost, so it converges to slightly more than the bandwidth-delay
//! product. Growth is the same for each connection and shrinking is proportional to the window, so connections share a
//! path. On a relay, only a queue that lasts shrinks it (`path`). During loss recovery, the bytes in flight are limited
//! to those still in flight plus those that arrive (RFC 6937). If the packets arrive nevertheless, the window is
//! restored.

use std::time::{Duration, Instant};

use super::path::{First, Path, QUEUE, scaled};
use super::segment::{TcpControl, TcpRepr, TcpSeqNumber};
use crate::embedded::device::MTU;
use crate::embedded::settings::{FIRST_WINDOW, TCP_BUFFER};

/// The growth per round trip while packets queue, in bytes: the payload of a packet.
const STEP: usize = MTU - 40;
/// Without a queue, the window grows by its own size in this time.
const DOUBLES: Duration = Duration::from_secs(1);
/// The factor by which a loss shrinks the window.
const LOSS: (usize, usize) = (7, 10);
/// The fraction of a window that may be lost at random, at least one packet.
const BY_CHANCE: usize = 50;
/// The fraction of a window that a burst may lose at the relay.
const BY_BURST: usize = 8;
/// The minimum window in bytes, over a relay, whose queue is short, and over a direct path (RFC 6928).
const LEAST: usize = 4 * STEP;
const LEAST_DIRECT: usize = 10 * STEP;
/// The number of measurements that distinguish a queue from a random delay.
const CERTAIN: u8 = 4;
/// The number of consecutive measurements of a long queue before the window shrinks below [`FIRST_WINDOW`]: a small
/// window is measured once per round trip, and these measurements vary for other reasons too.
const CERTAIN_IN_A_ROW: u8 = 12;
/// The number of duplicate acknowledgements that indicate a lost packet.
const DUPLICATES: u8 = 3;

/// The congestion window of a connection; see the module.
#[derive(Debug)]
pub(super) struct Window {
    is_direct: bool,
    /// The maximum number of bytes in flight.
    size: usize,
    /// The size of the buffers of the connection.
    buffer: usize,
    /// Below this size, the window doubles in a round trip.
    threshold: usize,
    round: Round,
    /// The shortest round-trip time of the last round, and the queueing delay in it.
    last: (Duration, Duration),
    /// The number of measurements in consecutive rounds with a long queue, since the window last shrank for it.
    long: u8,
    repair: Option<Repair>,
    /// The last acknowledgement number, the count of its duplicates, and the window that the peer advertised.
    acknowledged: Option<TcpSeqNumber>,
    duplicates: u8,
    advertised: u16,
    /// The window scale of each end, from its SYN (RFC 7323, section 2).
    our_shift: Option<u8>,
    their_shift: Option<u8>,
}

/// A round: the time until all data in flight is acknowledged.
#[derive(Debug, Default)]
struct Round {
    /// The round ends when this number is acknowledged.
    until: Option<TcpSeqNumber>,
    shortest: Option<Duration>,
    measured: u8,
    /// The acknowledged data was sent with a larger window.
    predates_change: bool,
    /// The queue was too long in the previous round.
    was_long: bool,
    /// At least half of the window was in flight.
    is_used: bool,
}

#[derive(Debug)]
struct Repair {
    /// Recovery ends when this number is acknowledged.
    until: TcpSeqNumber,
    /// The limit on bytes in flight during recovery: those still in flight, plus twice those that arrive (RFC 6937).
    window: usize,
    /// The number of bytes lost so far.
    lost: usize,
    /// The window has shrunk for this loss.
    is_answered: bool,
    /// The window and the threshold before that.
    before: Option<(usize, usize)>,
}

/// The result of an incoming segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The segment is the third duplicate acknowledgement.
    pub(super) third_duplicate: bool,
    /// The segment acknowledges new data.
    pub(super) progress: bool,
}

impl Window {
    /// Creates a window of a connection with buffers of this size. `their_shift` is the window scale of the peer, if its
    /// SYN came first.
    pub(super) fn new(is_direct: bool, first: First, their_shift: Option<u8>, buffer: usize) -> Self {
        Self {
            is_direct,
            buffer,
            size: match first {
                First::Alone => FIRST_WINDOW,
                First::Together | First::Beside => least(is_direct),
            },
            threshold: usize::MAX,
            round: Round::default(),
            last: (Duration::ZERO, Duration::ZERO),
            long: 0,
            repair: None,
            acknowledged: None,
            duplicates: 0,
            advertised: 0,
            our_shift: None,
            their_shift,
        }
    }

    /// Returns the maximum size. On a relay, a queue shows late: a window that grows further meanwhile makes others wait.
    fn most(&self) -> usize {
        if self.is_direct {
            self.buffer
        } else {
            self.buffer.min(TCP_BUFFER)
        }
    }

    /// Returns the maximum number of bytes in flight.
    pub(super) fn size(&self) -> usize {
        let repair = self.repair.as_ref().map_or(usize::MAX, |repair| repair.window);
        self.size.min(repair)
    }

    /// Returns whether the peer's window is closed.
    pub(super) const fn is_closed(&self) -> bool {
        self.acknowledged.is_some() && self.advertised == 0
    }

    /// Returns the last acknowledgement number of the peer.
    pub(super) const fn acknowledged(&self) -> Option<TcpSeqNumber> {
        self.acknowledged
    }

    /// Returns whether sent data is unacknowledged.
    pub(super) fn is_outstanding(&self, sent: TcpSeqNumber) -> bool {
        self.acknowledged.is_some_and(|number| number < sent)
    }

    /// Processes a segment from the stack.
    pub(super) fn outgoing(&mut self, tcp: &TcpRepr<'_>, is_direct: bool) {
        self.follow(is_direct);
        if tcp.control == TcpControl::Syn {
            self.our_shift = tcp.window_scale;
        }
    }

    /// Processes a segment from the peer; `sent` is the sequence number after all sent data.
    pub(super) fn incoming(&mut self, tcp: &TcpRepr<'_>, sent: TcpSeqNumber, path: &Path) -> Advice {
        self.follow(path.is_direct());
        if tcp.control == TcpControl::Syn {
            self.their_shift = tcp.window_scale;
        }
        let mut advice = Advice::default();
        if let Some(number) = tcp.ack_number {
            if self.is_duplicate(tcp, number, sent) {
                self.duplicates = self.duplicates.saturating_add(1);
                advice.third_duplicate = self.duplicates == DUPLICATES;
            } else {
                advice.progress = self.acknowledge(number, sent, path);
            }
        }
        self.advertised = tcp.window_len;
        advice
    }

    /// Returns the window to substitute in this segment of the peer, if a smaller one is needed. `sacked` is the number
    /// of selectively acknowledged bytes.
    pub(super) fn limit(&self, tcp: &TcpRepr<'_>, path: &Path, sacked: usize, now: Instant) -> Option<u16> {
        let usable = path.usable(self.size(), now).max(STEP) + sacked;
        limited(tcp, usable, self.our_shift.and(self.their_shift))
    }

    /// Processes a measured round trip; `sent` is the sequence number after all sent data.
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
            path.record_queue(queue, now);
            // A window that is not used causes no queue.
            if round.is_used && path.is_crowded_at(self.size) {
                self.threshold = self.threshold.min(self.size);
            }
        }
        if !is_over {
            return;
        }
        self.last = (shortest, queue);
        let (shortest, queue, is_certain) = if self.is_direct {
            // A busy processor occasionally delays a round, so one long round is not conclusive. On a long path, waiting
            // for a second round costs more.
            let is_certain = round.was_long || queue > QUEUE * 3 / 2 || shortest > QUEUE * 5;
            (shortest, queue, is_certain)
        } else {
            let queue = path.standing();
            (path.shortest() + queue, queue, true)
        };
        let is_long = queue > path.target() && !round.predates_change;
        self.long = if is_long {
            self.long.saturating_add(round.measured)
        } else {
            0
        };
        let floor = if self.long >= CERTAIN_IN_A_ROW {
            self.floor(queue, path)
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
            predates_change: shrinks,
            was_long: is_long,
            ..Round::default()
        };
    }

    /// Processes a loss of `bytes`, with `in_flight` bytes still in flight; `sent` is the sequence number after all
    /// sent data. A small loss is ignored on a direct path without a queue, and on a relay after a repaired loss.
    pub(super) fn on_loss(&mut self, bytes: usize, in_flight: usize, sent: TcpSeqNumber, path: &Path) {
        let by_chance = if self.is_direct && path.is_free(self.last.1) {
            (self.size / BY_CHANCE).max(STEP)
        } else if path.repairs() {
            // After a repair, all packets behind it arrive at the relay at once.
            (self.size / BY_BURST).max(STEP)
        } else {
            0
        };
        let window = in_flight.max(least(self.is_direct));
        let repair = self.repair.get_or_insert(Repair {
            until: sent,
            window,
            lost: 0,
            is_answered: false,
            before: None,
        });
        repair.lost = repair.lost.saturating_add(bytes);
        if repair.lost > by_chance && !repair.is_answered {
            repair.is_answered = true;
            repair.before = Some((self.size, self.threshold));
            let floor = self.floor(self.last.1, path);
            self.size = (self.size * LOSS.0 / LOSS.1).max(floor).min(self.size);
            self.threshold = self.size;
        }
    }

    /// Returns the minimum window for this queueing delay.
    fn floor(&self, queue: Duration, path: &Path) -> usize {
        if self.is_direct && path.is_free(queue) {
            FIRST_WINDOW
        } else {
            least(self.is_direct)
        }
    }

    /// Restores the window: the packets were delayed, not lost (RFC 4015).
    pub(super) fn on_spurious_loss(&mut self) {
        if let Some((size, threshold)) = self
            .repair
            .take_if(|repair| repair.before.is_some())
            .and_then(|repair| repair.before)
        {
            (self.size, self.threshold) = (size, threshold);
        }
    }

    /// Processes the arrival of data.
    pub(super) fn arrived(&mut self, bytes: usize) {
        let most = self.most();
        if let Some(repair) = &mut self.repair {
            repair.window = repair.window.saturating_add(bytes).min(most);
        }
    }

    /// Starts over with one packet: the retransmission was lost too, or no answer arrives at all. The window does not
    /// shrink if it is not used, since such a connection fills no queue.
    pub(super) fn on_timeout(&mut self, sent: TcpSeqNumber) {
        let before = self.repair.take().and_then(|repair| repair.before);
        let is_used = self.is_used(sent);
        self.repair = Some(Repair {
            until: sent,
            window: STEP,
            lost: 0,
            is_answered: is_used,
            before: before.or_else(|| is_used.then_some((self.size, self.threshold))),
        });
        self.duplicates = 0;
    }

    /// Returns whether at least half of the window is in flight.
    fn is_used(&self, sent: TcpSeqNumber) -> bool {
        let acknowledged = self.acknowledged.filter(|number| *number <= sent);
        acknowledged.is_some_and(|number| (sent - number) * 2 >= self.size)
    }

    fn is_duplicate(&self, tcp: &TcpRepr<'_>, number: TcpSeqNumber, sent: TcpSeqNumber) -> bool {
        self.acknowledged == Some(number)
            && number < sent
            && tcp.payload.is_empty()
            && tcp.control == TcpControl::None
            // Otherwise it answers a window probe.
            && tcp.window_len != 0
            && (tcp.window_len == self.advertised || tcp.sack_ranges[0].is_some())
    }

    /// Processes an acknowledgement number. Returns whether it is new.
    fn acknowledge(&mut self, number: TcpSeqNumber, sent: TcpSeqNumber, path: &Path) -> bool {
        let is_used = self.is_used(sent);
        let Some(before) = self.acknowledged else {
            self.acknowledged = Some(number);
            return true;
        };
        // A peer may acknowledge data never sent. Sequence numbers wrap, so all three pairs must be compared.
        if number <= before || number > sent || sent < before {
            return false;
        }
        self.acknowledged = Some(number);
        self.duplicates = 0;
        if let Some(repair) = &self.repair {
            if number >= repair.until {
                if repair.is_answered {
                    // Restoring the whole window at once would cause a burst.
                    self.threshold = self.threshold.min(self.size);
                    self.size = self.size.min(repair.window.max(least(self.is_direct)));
                }
                self.repair = None;
            } else if repair.is_answered {
                return true;
            }
        }
        let bytes = number - before;
        self.round.is_used |= is_used;
        if !is_used || path.is_draining() {
            return true;
        }
        let (round_trip, queue) = self.last;
        let queue = if path.repairs() { path.standing() } else { queue };
        let target = path.target();
        let step = (STEP * bytes / self.size).max(1);
        let growth = if self.size < self.threshold && !path.is_crowded_at(self.size) {
            bytes.min(self.threshold - self.size)
        } else if queue > target {
            0
        } else if queue > target / 4 {
            step
        } else {
            // On a long path, a round trip must not add more than this to the queue.
            let most = scaled(bytes, target / 4, round_trip);
            let most = if self.is_direct { most.max(bytes / 8) } else { most };
            step + scaled(bytes, round_trip, DOUBLES).min(most)
        };
        self.size = (self.size + growth).min(self.most()).max(self.size);
        true
    }

    /// Starts over if the path has changed, since earlier measurements do not apply.
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
    if is_direct { LEAST_DIRECT } else { LEAST }
}

/// Returns a window as a segment encodes it; rounded up, so that a window of one packet admits one.
fn shifted(window: usize, shift: u8) -> u16 {
    u16::try_from(window.div_ceil(1 << shift)).unwrap_or(u16::MAX)
}

/// Returns the limit as the window of this segment, if the segment's window is larger. The window of a SYN is never
/// scaled.
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
