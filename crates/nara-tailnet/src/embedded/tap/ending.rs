//! Ends connections: dead, silent and abandoned ones, and those that the network stack should drop.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::segment::{Segment, TcpControl};
use super::{EVERY, Flow, Tap};
use crate::embedded::device::Distance;

/// A connection that we have closed is removed from the stack after this time without a segment.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(60);
/// A connection without outstanding data is untracked after this time without a segment, or ended in the far stack.
pub(super) const SILENT: Duration = Duration::from_secs(3600);

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

    /// Ends a connection of the stack as if the peer had reset it. The peer is not notified.
    pub(in crate::embedded) fn abort(&self, flow: &Flow) {
        let track = self.flows().remove(flow);
        if let Some(track) = track {
            let (ours, theirs) = *flow;
            let reset = TcpControl::Rst;
            let reset = Segment::new(theirs, ours, reset, track.acknowledged, Some(track.sent), &[]);
            if let Some(packet) = reset.packet() {
                self.device.put(track.distance, packet);
            }
        }
    }

    /// Returns the connections to end now, and removes closed ones.
    pub(super) fn due(&self, now: Instant) -> Vec<Flow> {
        let passed = |since: Instant| now.saturating_duration_since(since);
        let mut flows = self.flows();
        flows.retain(|_, track| {
            let is_closed = track.we_closed && track.they_closed && track.waiting.is_none();
            let is_forgotten = passed(track.seen) >= SILENT && track.distance == Distance::Near;
            !(is_forgotten || is_closed && passed(track.seen) > EVERY * 4)
        });
        let peers: HashSet<_> = flows.keys().map(|(_, theirs)| theirs.ip()).collect();
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|peer, _| peers.contains(peer));
        drop(paths);
        flows
            .iter()
            .filter(|(_, track)| {
                let is_dead = track
                    .waiting
                    .is_some_and(|since| passed(since) > self.user_timeout);
                let is_abandoned = track.we_closed && passed(track.seen) > HALF_CLOSED;
                // Without its track, its segments would reach the other stack.
                let is_silent = track.distance == Distance::Far && passed(track.seen) >= SILENT;
                is_dead || is_abandoned || is_silent
            })
            .map(|(flow, _)| *flow)
            .collect()
    }
}
