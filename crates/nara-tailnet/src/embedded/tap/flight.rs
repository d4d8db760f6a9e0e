//! The scoreboard of a connection: which packets are in flight, arrived, or lost (RFC 2018, RFC 6675, RFC 8985).
//!
//! The stack ignores selective acknowledgements and would retransmit everything after a gap. The scoreboard keeps the
//! packets, so that the tap retransmits exactly the lost ones.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::segment::TcpSeqNumber;
use crate::embedded::device::MTU;

/// A packet is lost once this many bytes sent after it have arrived, three packets, unless it was retransmitted.
const BEHIND: usize = 3 * (MTU - 40);
/// The maximum number of packets kept, more than a window holds. A peer that requests smaller segments gets no more at
/// once.
const MOST: usize = 4096;
/// The minimum distance between two packets whose round trip is measured, in bytes.
const BETWEEN: usize = 4 * (MTU - 40);

/// The scoreboard of a connection; see the module.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// The last acknowledgement number of the peer.
    begin: Option<TcpSeqNumber>,
    /// The unacknowledged packets by sequence number, without gaps.
    packets: VecDeque<Sent>,
    /// Bytes selectively acknowledged.
    arrived: usize,
    /// Bytes lost and not retransmitted yet.
    lost: usize,
    /// The latest send time of all packets that arrived.
    newest: Option<Instant>,
    /// The sequence number after the last packet whose round trip is measured.
    sample: Option<TcpSeqNumber>,
}

#[derive(Debug)]
struct Sent {
    packet: Vec<u8>,
    end: TcpSeqNumber,
    status: Status,
    last: Last,
}

/// The last transmission of a packet.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    again: bool,
    is_sample: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Unknown,
    Arrived,
    Lost,
}

/// The round-trip times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) usual: Duration,
    pub(super) shortest: Duration,
    /// The path is a TCP connection that repairs its losses: packets arrive in order, and late rather than never.
    pub(super) repairs: bool,
}

/// The information from an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AckOutcome {
    /// Bytes newly known to have arrived.
    pub(super) arrived: usize,
    /// The measured round-trip time, if any.
    pub(super) round_trip: Option<Duration>,
    /// Bytes newly known to be lost.
    pub(super) lost: usize,
    /// A retransmitted packet was only delayed: its first transmission has arrived.
    pub(super) is_spurious: bool,
}

impl Flight {
    /// Records a packet that the stack sends. Returns `false` to drop it: it is in flight, has arrived, will be
    /// retransmitted by the tap, or exceeds [`MOST`]. `is_probe`: the packet probes the peer or its window.
    pub(super) fn sent(
        &mut self,
        packet: &[u8],
        (begin, end): (TcpSeqNumber, TcpSeqNumber),
        is_probe: bool,
        now: Instant,
    ) -> bool {
        let first = *self.begin.get_or_insert(begin);
        if end == begin || begin < first {
            return true;
        }
        let last = self.last();
        if end <= last || begin > last || self.packets.len() >= MOST {
            if is_probe {
                // An answer could belong to either transmission (Karn's algorithm).
                self.packets
                    .iter_mut()
                    .for_each(|packet| packet.last.again = true);
            }
            return false;
        }
        let is_sample = self.sample.is_none_or(|sample| {
            // The answer to a window probe may be delayed until the window opens.
            !is_probe && (sample <= first || end - sample >= BETWEEN)
        });
        if is_sample {
            self.sample = Some(end);
        }
        self.packets.push_back(Sent {
            packet: packet.to_vec(),
            end,
            status: Status::Unknown,
            last: Last {
                at: now,
                again: begin < last,
                is_sample,
            },
        });
        true
    }

    /// Returns the first lost packet for retransmission, unless more than `most` bytes are in flight.
    pub(super) fn retransmit(&mut self, most: usize, now: Instant) -> Option<&[u8]> {
        if self.lost == 0 || self.in_flight() > most {
            return None;
        }
        let n = self
            .packets
            .iter()
            .position(|packet| packet.status == Status::Lost)?;
        self.lost = self.lost.saturating_sub(self.len_of(n));
        let packet = self.packets.get_mut(n)?;
        packet.status = Status::Unknown;
        packet.last.again = true;
        packet.last.at = now;
        Some(&packet.packet)
    }

    /// Processes an acknowledgement number with its selective acknowledgements.
    pub(super) fn acknowledged(
        &mut self,
        number: TcpSeqNumber,
        ranges: &[Option<(u32, u32)>],
        times: Times,
        now: Instant,
    ) -> AckOutcome {
        let mut outcome = AckOutcome::default();
        let Some(begin) = self.begin else {
            return outcome;
        };
        if number < begin || number > self.last() {
            return outcome;
        }
        self.begin = Some(number);
        let mut left = begin;
        while let Some(packet) = self.packets.pop_front_if(|packet| packet.end <= number) {
            if packet.status != Status::Arrived {
                outcome.arrived += packet.end - left;
                self.note(packet.status, packet.last, times, now, &mut outcome);
            }
            left = packet.end;
        }
        // Part of a packet.
        outcome.arrived += number - left;
        let mut beyond = false;
        for (left, right) in ranges.iter().flatten() {
            let (left, right) = (TcpSeqNumber(*left as i32), TcpSeqNumber(*right as i32));
            if left > number && right > left && right <= self.last() {
                self.arrive(left, right, times, now, &mut outcome);
                beyond = true;
            }
        }
        if outcome.is_spurious && times.repairs {
            // The packets behind it are delayed too (RFC 5682).
            self.lost = 0;
            for packet in self
                .packets
                .iter_mut()
                .filter(|packet| packet.status == Status::Lost)
            {
                packet.status = Status::Unknown;
            }
        }
        let overtaken = times.usual / 4;
        let is_late = |first: &Sent| {
            self.newest
                .is_some_and(|newest| newest > first.last.at + overtaken)
        };
        if self.arrived + self.lost > 0 || beyond || self.packets.front().is_some_and(is_late) {
            self.find_lost(overtaken, &mut outcome);
            self.count();
        }
        outcome
    }

    /// Marks the first packet as lost. Returns its length in bytes.
    pub(super) fn mark_first_lost(&mut self) -> usize {
        let Some(first) = self.packets.front_mut() else {
            return 0;
        };
        first.status = Status::Lost;
        self.count();
        self.len_of(0)
    }

    /// Marks all packets as lost that are not known to have arrived.
    pub(super) fn mark_all_lost(&mut self) {
        for packet in &mut self.packets {
            if packet.status != Status::Arrived {
                packet.status = Status::Lost;
            }
        }
        self.count();
    }

    /// Returns the number of selectively acknowledged bytes.
    pub(super) const fn sacked(&self) -> usize {
        self.arrived
    }

    /// Returns the number of bytes in flight: sent, and neither arrived nor lost.
    pub(super) fn in_flight(&self) -> usize {
        let begin = self.begin.unwrap_or_default();
        (self.last() - begin).saturating_sub(self.arrived + self.lost)
    }

    /// Returns the sequence number after all sent packets.
    fn last(&self) -> TcpSeqNumber {
        let last = self.packets.back().map(|packet| packet.end);
        last.or(self.begin).unwrap_or_default()
    }

    fn arrive(
        &mut self,
        left: TcpSeqNumber,
        right: TcpSeqNumber,
        times: Times,
        now: Instant,
        outcome: &mut AckOutcome,
    ) {
        // Skip the packets that end at or before the left edge.
        let from = self.packets.partition_point(|packet| packet.end <= left);
        let mut n = from;
        while let Some(packet) = self.packets.get_mut(n).filter(|packet| packet.end <= right) {
            if packet.status != Status::Arrived {
                let (status, last) = (packet.status, packet.last);
                packet.status = Status::Arrived;
                outcome.arrived += self.len_of(n);
                self.note(status, last, times, now, outcome);
            }
            n += 1;
        }
    }

    /// Updates the measurements for a packet that has arrived.
    fn note(&mut self, status: Status, last: Last, times: Times, now: Instant, outcome: &mut AckOutcome) {
        let took = now.saturating_duration_since(last.at);
        if !last.again && last.is_sample {
            outcome.round_trip = Some(took);
        }
        let is_early = last.again && took < times.shortest;
        if is_early || status == Status::Lost && times.repairs {
            // An answer this soon after a retransmission belongs to the earlier transmission (RFC 8985, section 6.2),
            // and a packet that was not retransmitted was not lost.
            outcome.is_spurious = true;
        } else if !(last.again && times.repairs) {
            // A later answer after a repair may belong to the earlier transmission too.
            self.newest = self.newest.max(Some(last.at));
        }
    }

    /// Marks packets as lost when packets sent later have arrived.
    fn find_lost(&mut self, overtaken: Duration, outcome: &mut AckOutcome) {
        let Some(newest) = self.newest else { return };
        let mut behind = 0;
        let mut n = self.packets.len();
        while let Some(before) = n.checked_sub(1) {
            n = before;
            let len = self.len_of(n);
            let Some(packet) = self.packets.get_mut(n) else {
                break;
            };
            match packet.status {
                Status::Arrived => behind += len,
                Status::Lost => {}
                Status::Unknown => {
                    let is_late = newest.saturating_duration_since(packet.last.at) > overtaken;
                    if is_late || (behind >= BEHIND && !packet.last.again) {
                        packet.status = Status::Lost;
                        outcome.lost += len;
                    }
                }
            }
        }
    }

    fn len_of(&self, n: usize) -> usize {
        let before = n.checked_sub(1).and_then(|n| self.packets.get(n));
        let begin = before.map(|packet| packet.end).or(self.begin);
        match (begin, self.packets.get(n)) {
            (Some(begin), Some(packet)) if packet.end > begin => packet.end - begin,
            _ => 0,
        }
    }

    fn count(&mut self) {
        let of = |status| {
            let all = self.packets.iter().enumerate();
            all.filter(|(_, packet)| packet.status == status)
                .map(|(n, _)| self.len_of(n))
                .sum()
        };
        (self.arrived, self.lost) = (of(Status::Arrived), of(Status::Lost));
    }
}

#[cfg(test)]
mod tests;
