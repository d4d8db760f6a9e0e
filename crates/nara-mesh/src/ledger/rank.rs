//! The order in which events are evicted when the ledger is too large.

use nara_proto::event::{Service, SyncEvent};

/// The priority of an event by its content. The numbers are stored in databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    Ping = 0,
    /// Includes notes about passing postcards.
    Seen = 1,
    Social = 2,
    /// Status changes, introductions and goodbyes.
    Presence = 3,
    FirstSeen = 4,
    Checkpoint = 5,
    /// Restarts and statements about keys: without the latter, a replaced key becomes valid again.
    Restart = 6,
}

impl Priority {
    /// Returns the priority of an event.
    pub(super) fn of(event: &SyncEvent) -> Self {
        match event.service() {
            Some(Service::Ping) => Self::Ping,
            Some(Service::Seen) => Self::Seen,
            Some(Service::Social) if is_note(event) => Self::Seen,
            Some(Service::Social) => Self::Social,
            Some(Service::Checkpoint) => Self::Checkpoint,
            Some(Service::Succession) => Self::Restart,
            Some(Service::Observation) => match event.observation.as_deref().map(|p| p.kind.as_str()) {
                Some("restart") => Self::Restart,
                Some("first-seen") => Self::FirstSeen,
                _ => Self::Presence,
            },
            // Introductions, goodbyes and unknown services: events that this version does not know are not
            // evicted first.
            _ => Self::Presence,
        }
    }

    /// Returns whether verified events of this kind are protected while their account is within its quota.
    pub(super) fn is_kept(self) -> bool {
        self >= Self::FirstSeen
    }

    /// Returns whether an event about strangers is evicted first. Introductions and goodbyes are exempt: they are
    /// how strangers become known.
    pub(super) fn may_be_stranger(self, event: &SyncEvent) -> bool {
        !self.is_kept() && !matches!(event.service(), Some(Service::HeyThere | Service::Chau))
    }
}

/// Returns whether the event is its emitter's note that a postcard passed: a sender of postcards can cause any
/// number of them.
pub(super) fn is_note(event: &SyncEvent) -> bool {
    event.social.as_deref().is_some_and(|payload| {
        payload.kind == "observation" && matches!(&*payload.reason, "journey-pass" | "journey-complete")
    })
}

/// The order in which events are evicted from a full ledger, lowest first. The numbers are stored in databases.
///
/// Unverified and verified events do not compete: each kind has separate room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(pub(super) u8);

impl Rank {
    /// Unverified.
    pub(super) const UNVERIFIED: Self = Self(0);
    /// Unverified, sent by a configured peer.
    pub(super) const UNVERIFIED_CONFIGURED: Self = Self(1);
    /// Verified, about unknown naras.
    pub(super) const STRANGER: Self = Self(2);
    /// The lowest rank of verified events about known naras; the priority is added.
    const COMMON: u8 = 3;
    /// The lowest rank of events of this nara and of configured peers; the priority is added.
    const CONFIGURED: u8 = 10;
    /// A statement about the key of a nara that was met, sent by that nara itself: never pruned.
    pub(super) const STATEMENT: Self = Self(17);

    pub(super) const fn common(priority: Priority) -> Self {
        Self(Self::COMMON + priority as u8)
    }

    pub(super) const fn configured(priority: Priority) -> Self {
        Self(Self::CONFIGURED + priority as u8)
    }

    pub(super) const fn is_verified(self) -> bool {
        self.0 >= Self::STRANGER.0
    }

    /// Returns whether it is an event of this nara or of a configured peer.
    pub(super) const fn is_configured(self) -> bool {
        self.0 >= Self::CONFIGURED
    }

    /// Returns whether it is evicted only when its account is over its quota.
    pub(super) const fn is_kept(self) -> bool {
        let first = Priority::FirstSeen as u8;
        (!self.is_configured() && self.0 >= Self::COMMON + first)
            || (self.0 >= Self::CONFIGURED + first && self.0 < Self::STATEMENT.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_different_kinds_do_not_overlap() {
        assert!(Rank::STRANGER < Rank::common(Priority::Ping));
        assert!(Rank::common(Priority::Restart) < Rank::configured(Priority::Ping));
        assert!(Rank::configured(Priority::Restart) < Rank::STATEMENT);
        assert!(Rank::STATEMENT.is_verified() && !Rank::STATEMENT.is_kept());
        for priority in [
            Priority::Ping,
            Priority::Presence,
            Priority::FirstSeen,
            Priority::Restart,
        ] {
            assert_eq!(Rank::common(priority).is_kept(), priority.is_kept());
            assert_eq!(Rank::configured(priority).is_kept(), priority.is_kept());
        }
        assert!(!Rank::common(Priority::Restart).is_configured());
        assert!(Rank::configured(Priority::Ping).is_configured());
        assert!(!Rank::STRANGER.is_kept() && Rank::STRANGER.is_verified());
        assert!(!Rank::UNVERIFIED_CONFIGURED.is_verified() && !Rank::UNVERIFIED_CONFIGURED.is_kept());
    }
}
