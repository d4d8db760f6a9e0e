//! How much of a connection may be on the way at once: the window follows the path.
//!
//! The network stack sends whatever the peer's window allows: it has no congestion control that limits what is in flight.
//! So the tap limits the window that the stack reads. It grows while the peer acknowledges, until packets wait in a queue
//! on the way, and shrinks when they wait too long or are lost: so it becomes what the path carries in a round trip, and a
//! little more. Each connection grows by as much and shrinks in proportion to its window, so several share a path. Until a
//! loss is repaired, no more goes out than still was on the way and than arrives (RFC 6937).

use std::time::{Duration, Instant};

use super::path::{First, Path, QUEUE, scaled};
use super::segment::{TcpControl, TcpRepr, TcpSeqNumber};
use crate::embedded::device::MTU;
use crate::embedded::settings::{FIRST_WINDOW, TCP_BUFFER};

/// By how much the window grows in a round trip while there is a queue, in bytes: the payload of a packet.
const STEP: usize = MTU - 40;
/// Without a queue it grows by its own size in this time.
const DOUBLES: Duration = Duration::from_secs(1);
/// What a loss leaves of it.
const LOSS: (usize, usize) = (7, 10);
/// The share of a window that is lost by chance at most, and a packet of a small one.
const BY_CHANCE: usize = 50;
/// Nothing makes the window smaller, in bytes: of a relay, whose queue is short, and of a direct path (RFC 6928).
const LEAST: usize = 4 * STEP;
const LEAST_DIRECT: usize = 10 * STEP;
/// Where a round trip is shorter than this, and on a relay, a window that is larger than [`MOST_NEAR`] only makes a queue.
const FAR: Duration = Duration::from_millis(50);
const MOST_NEAR: usize = 256 * 1024;
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
    /// What may be in flight, in bytes.
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
    /// What may be in flight meanwhile, in bytes: what still was, and twice of what arrives (RFC 6937).
    window: usize,
    /// The bytes that were lost until now.
    lost: usize,
    /// The window was shrunk for it.
    is_answered: bool,
}

/// What to do with a segment of the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The third acknowledgement came that acknowledges nothing new.
    pub(super) third: bool,
    /// The peer has acknowledged something new.
    pub(super) progress: bool,
}

impl Window {
    /// `their_shift` is that of their SYN, if it came first.
    pub(super) fn new(is_direct: bool, first: First, their_shift: Option<u8>) -> Self {
        Self {
            is_direct,
            size: match first {
                First::Together if is_direct => LEAST_DIRECT,
                First::Alone | First::Together => FIRST_WINDOW,
                First::Beside => least(is_direct),
            },
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
        let repair = self.repair.as_ref().map_or(usize::MAX, |repair| repair.window);
        self.size.min(repair)
    }

    /// Whether the peer has no room.
    pub(super) const fn is_closed(&self) -> bool {
        self.acknowledged.is_some() && self.told == 0
    }

    /// What the peer has acknowledged.
    pub(super) const fn acknowledged(&self) -> Option<TcpSeqNumber> {
        self.acknowledged
    }

    /// Whether the peer has not acknowledged all that was sent.
    pub(super) fn is_outstanding(&self, sent: TcpSeqNumber) -> bool {
        self.acknowledged.is_some_and(|number| number < sent)
    }

    /// Takes note of a segment that the stack sends.
    pub(super) fn outgoing(&mut self, tcp: &TcpRepr<'_>, is_direct: bool) {
        self.follow(is_direct);
        if tcp.control == TcpControl::Syn {
            self.our_shift = tcp.window_scale;
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
                advice.third = self.duplicates == DUPLICATES;
            } else {
                advice.progress = self.acknowledge(number, sent, path);
            }
        }
        self.told = tcp.window_len;
        advice
    }

    /// The window to tell the stack instead of that of this segment of the peer, if it must be smaller. `beyond`: bytes that
    /// have arrived beyond a gap.
    pub(super) fn limit(&self, tcp: &TcpRepr<'_>, path: &Path, beyond: usize, now: Instant) -> Option<u16> {
        let usable = path.usable(self.size(), now).max(STEP) + beyond;
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
            is_of_before: shrinks,
            was_long: is_long,
            ..Round::default()
        };
    }

    /// So many bytes were lost; `sent` is the number behind all that the stack sent, and so much of it is still on the way. A loss on a way that has no queue is none of ours, unless more is lost than chance takes.
    pub(super) fn lose(&mut self, bytes: usize, on_the_way: usize, sent: TcpSeqNumber, path: &Path) {
        let by_chance = if self.is_direct && path.is_free(self.last.1) {
            (self.size / BY_CHANCE).max(STEP)
        } else {
            0
        };
        let window = on_the_way.max(least(self.is_direct));
        let repair = self.repair.get_or_insert(Repair {
            until: sent,
            window,
            lost: 0,
            is_answered: false,
        });
        repair.lost = repair.lost.saturating_add(bytes);
        if repair.lost > by_chance && !repair.is_answered {
            repair.is_answered = true;
            let floor = self.floor(self.last.1, path);
            self.size = (self.size * LOSS.0 / LOSS.1).max(floor).min(self.size);
            self.threshold = self.size;
        }
    }

    /// What such a queue leaves of the window at least.
    fn floor(&self, queue: Duration, path: &Path) -> usize {
        if self.is_direct && path.is_free(queue) {
            FIRST_WINDOW
        } else {
            least(self.is_direct)
        }
    }

    /// So many bytes have arrived.
    pub(super) fn arrived(&mut self, bytes: usize) {
        if let Some(repair) = &mut self.repair {
            repair.window = repair.window.saturating_add(bytes).min(TCP_BUFFER);
        }
    }

    /// What was sent again was lost too, or nothing at all comes back.
    pub(super) fn expire(&mut self, sent: TcpSeqNumber) {
        self.repair = Some(Repair {
            until: sent,
            window: STEP,
            lost: 0,
            is_answered: true,
        });
        self.duplicates = 0;
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
        if let Some(repair) = &self.repair {
            if number >= repair.until {
                if repair.is_answered {
                    // All at once would be a burst.
                    self.threshold = self.threshold.min(self.size);
                    self.size = self.size.min(repair.window.max(least(self.is_direct)));
                }
                self.repair = None;
            } else if repair.is_answered {
                return true;
            }
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
            let most = if self.is_direct { most.max(bytes / 8) } else { most };
            step + scaled(bytes, round_trip, DOUBLES).min(most)
        };
        let is_far = self.is_direct && path.shortest() >= FAR;
        let most = if is_far { TCP_BUFFER } else { MOST_NEAR };
        self.size = (self.size + growth).min(most).max(self.size);
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
    if is_direct { LEAST_DIRECT } else { LEAST }
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
