//! What of a connection is on the way: what the peer has already, and what was lost (RFC 2018, RFC 6675, RFC 8985).
//!
//! The stack forgets what a peer has beyond a gap, and sends all of it again. This remembers, and keeps the packets, so that the
//! tap sends those again that were lost, and the stack none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::segment::TcpSeqNumber;
use crate::embedded::device::MTU;

/// So many bytes that arrived behind a packet mean that it was lost, unless it was sent again: three packets.
const BEHIND: usize = 3 * (MTU - 40);
/// Packets that are kept: more than a window has. A peer that asks for smaller ones gets no more than that at once.
const MOST: usize = 1024;
/// The bytes between two packets whose round trip is measured.
const BETWEEN: usize = 4 * (MTU - 40);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// The number behind all that was acknowledged.
    begin: Option<TcpSeqNumber>,
    /// In the order of their numbers, without gaps.
    packets: VecDeque<Sent>,
    /// Bytes that arrived beyond a gap.
    arrived: usize,
    /// Bytes that were lost and have not been sent again.
    lost: usize,
    /// When the last one was sent of all packets that arrived.
    newest: Option<Instant>,
    /// The number behind the last packet whose round trip is measured.
    sample: Option<TcpSeqNumber>,
}

#[derive(Debug)]
struct Sent {
    packet: Vec<u8>,
    end: TcpSeqNumber,
    fate: Fate,
    last: Last,
}

/// When a packet was sent last.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    again: bool,
    is_sample: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Arrived,
    Lost,
}

/// What round trips take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) usual: Duration,
    pub(super) shortest: Duration,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Bytes that have arrived, as is known now.
    pub(super) arrived: usize,
    /// How long a round trip took, if one was measured.
    pub(super) round_trip: Option<Duration>,
    /// Bytes that are lost, as is known now.
    pub(super) lost: usize,
}

impl Flight {
    /// The stack sends this packet now. `false`: it does not go out. It is on its way or has arrived, or will be sent
    /// again by the tap, or there are too many. `asks`: whether the peer is there, or whether it has room.
    pub(super) fn sent(
        &mut self,
        packet: &[u8],
        (begin, end): (TcpSeqNumber, TcpSeqNumber),
        asks: bool,
        now: Instant,
    ) -> bool {
        let first = *self.begin.get_or_insert(begin);
        if end == begin || begin < first {
            return true;
        }
        let last = self.last();
        if end <= last || begin > last || self.packets.len() >= MOST {
            if asks {
                // Nobody can tell which of both is answered.
                self.packets
                    .iter_mut()
                    .for_each(|packet| packet.last.again = true);
            }
            return false;
        }
        let is_sample = self.sample.is_none_or(|sample| {
            // The answer to a question waits for room.
            !asks && (sample <= first || end - sample >= BETWEEN)
        });
        if is_sample {
            self.sample = Some(end);
        }
        self.packets.push_back(Sent {
            packet: packet.to_vec(),
            end,
            fate: Fate::Unknown,
            last: Last {
                at: now,
                again: begin < last,
                is_sample,
            },
        });
        true
    }

    /// The first packet that was lost, if no more than so many bytes are on the way; it is sent again now.
    pub(super) fn send_again(&mut self, most: usize, now: Instant) -> Option<&[u8]> {
        if self.lost == 0 || self.on_the_way() > most {
            return None;
        }
        let n = self.packets.iter().position(|packet| packet.fate == Fate::Lost)?;
        self.lost = self.lost.saturating_sub(self.len_of(n));
        let packet = self.packets.get_mut(n)?;
        packet.fate = Fate::Unknown;
        packet.last.again = true;
        packet.last.at = now;
        Some(&packet.packet)
    }

    /// The peer has acknowledged all before this number, and these ranges.
    pub(super) fn acknowledged(
        &mut self,
        number: TcpSeqNumber,
        ranges: &[Option<(u32, u32)>],
        times: Times,
        now: Instant,
    ) -> News {
        let mut news = News::default();
        let Some(begin) = self.begin else {
            return news;
        };
        if number < begin || number > self.last() {
            return news;
        }
        self.begin = Some(number);
        let mut left = begin;
        while let Some(packet) = self.packets.pop_front_if(|packet| packet.end <= number) {
            if packet.fate != Fate::Arrived {
                news.arrived += packet.end - left;
                self.note(packet.last, times, now, &mut news);
            }
            left = packet.end;
        }
        // A part of a packet.
        news.arrived += number - left;
        let mut beyond = false;
        for (left, right) in ranges.iter().flatten() {
            let (left, right) = (TcpSeqNumber(*left as i32), TcpSeqNumber(*right as i32));
            if left > number && right > left && right <= self.last() {
                self.arrive(left, right, times, now, &mut news);
                beyond = true;
            }
        }
        let overtaken = times.usual / 4;
        let is_late = |first: &Sent| {
            self.newest
                .is_some_and(|newest| newest > first.last.at + overtaken)
        };
        if self.arrived + self.lost > 0 || beyond || self.packets.front().is_some_and(is_late) {
            self.find_lost(overtaken, &mut news);
            self.count();
        }
        news
    }

    /// The first packet is taken for lost. Returns its bytes.
    pub(super) fn lose_first(&mut self) -> usize {
        let Some(first) = self.packets.front_mut() else {
            return 0;
        };
        first.fate = Fate::Lost;
        self.count();
        self.len_of(0)
    }

    /// All are taken for lost that are not known to have arrived.
    pub(super) fn lose_all(&mut self) {
        for packet in &mut self.packets {
            if packet.fate != Fate::Arrived {
                packet.fate = Fate::Lost;
            }
        }
        self.count();
    }

    /// What has arrived beyond a gap, in bytes.
    pub(super) const fn beyond(&self) -> usize {
        self.arrived
    }

    /// What was sent and has neither arrived nor been lost, in bytes.
    pub(super) fn on_the_way(&self) -> usize {
        let begin = self.begin.unwrap_or_default();
        (self.last() - begin).saturating_sub(self.arrived + self.lost)
    }

    /// The number behind all that was sent.
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
        news: &mut News,
    ) {
        // The first packet begins behind the last one that ends at the left edge or before.
        let from = self.packets.partition_point(|packet| packet.end <= left);
        let mut n = from;
        while let Some(packet) = self.packets.get_mut(n).filter(|packet| packet.end <= right) {
            if packet.fate != Fate::Arrived {
                packet.fate = Fate::Arrived;
                let last = packet.last;
                news.arrived += self.len_of(n);
                self.note(last, times, now, news);
            }
            n += 1;
        }
    }

    /// A packet has arrived.
    fn note(&mut self, last: Last, times: Times, now: Instant, news: &mut News) {
        let took = now.saturating_duration_since(last.at);
        if !last.again && last.is_sample {
            news.round_trip = Some(took);
        }
        // So soon after it was sent again, that was the one before.
        if !last.again || took >= times.shortest / 2 {
            self.newest = self.newest.max(Some(last.at));
        }
    }

    /// Packets before others that arrived are lost.
    fn find_lost(&mut self, overtaken: Duration, news: &mut News) {
        let Some(newest) = self.newest else { return };
        let mut behind = 0;
        let mut n = self.packets.len();
        while let Some(before) = n.checked_sub(1) {
            n = before;
            let len = self.len_of(n);
            let Some(packet) = self.packets.get_mut(n) else {
                break;
            };
            match packet.fate {
                Fate::Arrived => behind += len,
                Fate::Lost => {}
                Fate::Unknown => {
                    let is_late = newest.saturating_duration_since(packet.last.at) > overtaken;
                    if is_late || (behind >= BEHIND && !packet.last.again) {
                        packet.fate = Fate::Lost;
                        news.lost += len;
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
        let of = |fate| {
            let all = self.packets.iter().enumerate();
            all.filter(|(_, packet)| packet.fate == fate)
                .map(|(n, _)| self.len_of(n))
                .sum()
        };
        (self.arrived, self.lost) = (of(Fate::Arrived), of(Fate::Lost));
    }
}

#[cfg(test)]
mod tests;
