//! Ends connections: those that the peer resets, and dead, silent and abandoned ones.
//!
//! A connection is tracked until the stack shows that it has dropped it. So the limits count what exists, and the peer
//! cannot make the tap forget a connection of the stack. The stack does not report that a reset was effective, and
//! drops one with another checksum or sequence number than it expects, or that finds its queue full. So the tap makes
//! the reset itself and appends a probe. A stack without the connection answers the probe with a reset, and one with
//! the connection answers with an acknowledgement that has the sequence number for the next reset.
//!
//! The library loses a connection that is reset after its handshake and before a listener accepts it: its buffers would
//! stay for ever. Such a reset waits for the listener.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::segment::{Segment, TcpControl, TcpRepr, TcpSeqNumber};
use super::timer::Timer;
use super::{EVERY, Flight, Flow, Outgoing, Tap, Track};

/// A connection ends this long after our FIN, whatever the peer sends: nobody reads it.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(60);
/// A connection that we have closed ends after this time, even if the peer still takes what we have sent. A whole far
/// buffer arrives in this time at 9 kB/s.
pub(super) const CLOSING: Duration = Duration::from_secs(300);
/// A connection without outstanding data is ended after this time without a segment.
pub(super) const SILENT: Duration = Duration::from_secs(3600);
/// A connection whose end the stack has not shown within this time is forgotten: the stack no longer has our address.
pub(super) const UNCONFIRMED: Duration = Duration::from_secs(60);
/// A stack that repeats its SYN this long after its input ended is still waiting for the acknowledgement.
const UNANSWERED: Duration = Duration::from_secs(1);

impl Track {
    /// Returns whether this reset of the peer is for the present connection (RFC 9293, section 3.10.7.3 and 3.10.7.4).
    pub(super) fn expects_reset(&self, tcp: &TcpRepr<'_>) -> bool {
        if self.opened.is_none() && self.window.acknowledged().is_none() {
            return tcp.ack_number == Some(self.sent);
        }
        let last = self.acknowledged + self.distance.buffer();
        (self.acknowledged..=last).contains(&tcp.seq_number)
    }

    /// Processes a segment of the stack while the connection ends.
    pub(super) fn follow_ending(&mut self, tcp: &TcpRepr<'_>, now: Instant) {
        if let Some(number) = tcp.ack_number {
            self.acknowledged = number;
        }
        let waited = !self.may_be_reset();
        let passed = self.ending.map(|since| now.saturating_duration_since(since));
        self.is_half_open |= tcp.control == TcpControl::Syn && passed >= Some(UNANSWERED);
        self.we_closed |= tcp.control == TcpControl::Fin;
        if waited && self.may_be_reset() {
            self.ending = Some(now);
        }
    }

    /// Returns whether the peer has closed the connection, and the stack knows it.
    fn they_closed(&self) -> bool {
        self.fin.is_some_and(|end| self.acknowledged >= end)
    }

    /// Returns whether the library frees the connection after a reset. Before a listener has accepted it, it does if the
    /// handshake is incomplete, or if the library itself has closed it.
    const fn may_be_reset(&self) -> bool {
        self.is_held || self.is_half_open || self.we_closed
    }

    /// Ends the connection at this time at the latest.
    pub(super) fn end_by(&mut self, end: Instant) {
        self.end_by = Some(self.end_by.map_or(end, |before| before.min(end)));
    }

    /// Processes an answer of the peer, which may have acknowledged new data. A peer that keeps its window closed may be
    /// a slow reader, until we have closed the connection.
    pub(super) fn on_answer(&mut self, is_progress: bool, now: Instant) {
        if is_progress || self.window.is_closed() && self.end_by.is_none() {
            self.waiting = self.window.is_outstanding(self.sent).then_some(now);
        }
    }

    /// Returns whether the connection is to be ended.
    fn is_over(&self, user_timeout: Duration, now: Instant) -> bool {
        let passed = |since| now.saturating_duration_since(since);
        let is_dead = self.waiting.is_some_and(|since| passed(since) > user_timeout);
        let is_abandoned = self.end_by.is_some_and(|end| now > end);
        let is_silent = passed(self.seen) >= SILENT;
        let is_closed = self.we_closed && self.they_closed() && self.waiting.is_none();
        is_dead || is_abandoned || is_silent || is_closed && passed(self.seen) > EVERY * 4
    }
}

impl Tap {
    /// Ends all connections if the node has slept for longer than peers keep a silent connection.
    pub(in crate::embedded) fn slept(&self, slept: Duration) {
        if slept < self.user_timeout {
            return;
        }
        let flows: Vec<_> = self.flows().keys().copied().collect();
        for flow in flows {
            self.abort(&flow);
        }
    }

    /// Returns whether this connection exists.
    pub(in crate::embedded) fn is_used(&self, flow: &Flow) -> bool {
        self.flows().contains_key(flow)
    }

    /// Records that a listener has accepted this connection.
    pub(in crate::embedded) fn accepted(&self, flow: &Flow) {
        if let Some(track) = self.flows().get_mut(flow) {
            track.is_held = true;
            if track.ending.take().is_some() {
                self.end(flow, track, track.acknowledged, Instant::now());
            }
        }
    }

    /// Records that the holder of this connection has closed it. The stack sends a FIN only after all data.
    pub(in crate::embedded) fn closed(&self, flow: &Flow) {
        self.closed_at(flow, Instant::now());
    }

    pub(super) fn closed_at(&self, flow: &Flow, now: Instant) {
        if let Some(track) = self.flows().get_mut(flow) {
            track.end_by(now + CLOSING);
        }
    }

    /// Ends a connection of the stack as if the peer had reset it. The peer is not notified.
    pub(in crate::embedded) fn abort(&self, flow: &Flow) {
        let mut flows = self.flows();
        if let Some(track) = flows.get_mut(flow).filter(|track| track.ending.is_none()) {
            self.end(flow, track, track.acknowledged, Instant::now());
        }
    }

    /// Hands the stack a reset with this sequence number, and a probe whether it was effective.
    pub(super) fn end(&self, flow: &Flow, track: &mut Track, number: TcpSeqNumber, now: Instant) {
        track.ending.get_or_insert(now);
        (track.flight, track.timer) = (Flight::default(), Timer::default());
        if !track.may_be_reset() {
            return;
        }
        let (ours, theirs) = *flow;
        // A number before the expected one: the stack takes nothing from the probe.
        let probed = track.acknowledged - 1;
        for (control, number) in [(TcpControl::Rst, number), (TcpControl::None, probed)] {
            let segment = Segment::new(theirs, ours, control, number, Some(track.sent), &[]);
            if let Some(packet) = segment.packet() {
                self.device.put(track.distance, packet);
            }
        }
    }

    /// Ends the connections that are due, and continues with those whose end the stack has not shown. Returns the
    /// former.
    pub(super) fn end_due(&self, now: Instant) -> Vec<Flow> {
        let mut flows = self.flows();
        flows.retain(|_, track| {
            let is_unconfirmed = |since| now.saturating_duration_since(since) > UNCONFIRMED;
            !(track.may_be_reset() && track.ending.is_some_and(is_unconfirmed))
        });
        let mut due = Vec::new();
        for (flow, track) in &mut *flows {
            if track.ending.is_none() {
                if !track.is_over(self.user_timeout, now) {
                    continue;
                }
                tracing::debug!(ours = %flow.0, peer = %flow.1, "a connection is over, and is removed from the stack");
                due.push(*flow);
            }
            self.end(flow, track, track.acknowledged, now);
        }
        let peers: HashSet<_> = flows.keys().map(|(_, theirs)| theirs.ip()).collect();
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|peer, _| peers.contains(peer));
        due
    }
}

/// Processes a reset of the stack with this sequence number. The number of a reset is the acknowledgement number of the
/// segment that it answers: the stack resets nothing that it expects, so it has no connection if that is the number after
/// all that it has sent.
pub(super) fn on_reset_of_stack(
    flows: &mut HashMap<Flow, Track>,
    flow: &Flow,
    number: TcpSeqNumber,
) -> Outgoing {
    match flows.get(flow) {
        Some(track) if track.sent == number => {
            let is_ending = track.ending.is_some();
            flows.remove(flow);
            if is_ending {
                Outgoing::Drop
            } else {
                Outgoing::Forward
            }
        }
        _ => Outgoing::Forward,
    }
}
