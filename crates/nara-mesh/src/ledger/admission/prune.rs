//! Evicts verified events when there are too many.

use std::ops::Range;

use nara_proto::time::UnixNanos;

use super::{Account, Admission, PRUNE_BATCH, Shelf};
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::retention::{Size, Standing};

/// Part of the ledger pruned at once from accounts over their quota: the search also has to skip the events of
/// other accounts.
const PRUNE_ACCOUNTS: usize = 20;

/// The owners whose events are pruned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Everyone who is not configured.
    Others,
    /// Configured peers.
    Peers,
    /// This nara.
    Own,
}

impl<S: Shelf> Admission<'_, S> {
    /// Prunes verified events to the size of the policy.
    pub(super) fn prune(&mut self) -> Result<(), S::Error> {
        let policy = self.retention.policy;
        let excess = policy.excess(self.shelf.size(Rank::is_verified));
        if excess.is_zero() {
            return Ok(());
        }
        let room = policy.room();
        let common = Rank::common(Priority::Ping);
        let kept = Rank::common(Priority::FirstSeen);
        let configured = Rank::configured(Priority::Ping);
        let some = excess.at_least(room, PRUNE_ACCOUNTS);
        self.prune_accounts(Whose::Others, Rank::STRANGER..configured, policy.quota(), some)?;
        // Prune to the exact size, now that the slack is used up.
        let excess = |shelf: &S| shelf.size(Rank::is_verified) - room;
        self.prune_ladder(Rank::STRANGER, common, excess(self.shelf))?;
        // Protected events of large accounts go before the few of small accounts.
        self.prune_shares(Whose::Others, common..kept, policy.floor(), excess)?;
        self.prune_shares(Whose::Others, kept..configured, policy.floor(), excess)?;
        self.prune_shares(Whose::Others, common..kept, Size::default(), excess)?;
        self.prune_ladder(Rank::STRANGER, kept, excess(self.shelf))?;
        // Protected events of others leave half of the room to this nara and configured peers.
        let too_much = |shelf: &S| {
            let kept_of_others = shelf.size(|rank| rank.is_kept() && !rank.is_configured());
            excess(shelf).min(kept_of_others - room.part(2))
        };
        self.prune_shares(Whose::Others, kept..configured, Size::default(), too_much)?;
        self.prune_ladder(kept, configured, too_much(self.shelf))?;
        self.prune_configured(configured, excess)?;
        // Needed only if there are more accounts than room.
        self.prune_ladder(configured, Rank::STATEMENT, excess(self.shelf))
    }

    /// Removes the excess, from this rank on, from this nara and from configured peers, without touching what
    /// another one is guaranteed. An event of this nara is never evicted for one of a peer, up to half of the
    /// room.
    pub(super) fn prune_configured(
        &mut self,
        from: Rank,
        excess: impl Fn(&S) -> Size,
    ) -> Result<(), S::Error> {
        let policy = self.retention.policy;
        let ranks = from..Rank::STATEMENT;
        let too_much = excess(self.shelf);
        self.prune_accounts(Whose::Peers, ranks.clone(), policy.quota(), too_much)?;
        let too_much = excess(self.shelf);
        self.prune_accounts(Whose::Own, ranks.clone(), policy.half(), too_much)?;
        self.prune_shares(Whose::Peers, ranks, Size::default(), excess)
    }

    /// Removes up to `excess` of these ranks from accounts over a share of the ledger, lowest rank first, but not
    /// below the share.
    pub(super) fn prune_accounts(
        &mut self,
        whose: Whose,
        ranks: Range<Rank>,
        share: Size,
        mut excess: Size,
    ) -> Result<(), S::Error> {
        if excess.is_zero() {
            return Ok(());
        }
        let mut over = match whose {
            Whose::Others => self.shelf.accounts_over(Account::Verified("").kind(), share)?,
            Whose::Peers | Whose::Own => self.shelf.accounts_over(Account::Configured("").kind(), share)?,
        };
        if whose != Whose::Others {
            let is_own = |name: &String| self.retention.known.standing(name) == Standing::Own;
            over.retain(|name, _| is_own(name) == (whose == Whose::Own));
        }
        let mut after = (ranks.start, UnixNanos::new(i64::MIN), i64::MIN);
        while !over.is_empty() && !excess.is_zero() {
            let rungs = self.shelf.ladder(after, ranks.end, PRUNE_BATCH)?;
            let Some(last) = rungs.last() else { break };
            after = last.place();
            for rung in rungs {
                let Some(name) = &rung.account else { continue };
                let Some(size) = over.get_mut(name) else { continue };
                let bytes = Size::one(rung.bytes);
                *size = *size - bytes;
                if !size.exceeds(share) {
                    over.remove(name);
                }
                excess = excess - bytes;
                self.remove(&rung.held.place)?;
                if over.is_empty() || excess.is_zero() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes the excess of these ranks from the largest accounts: first from those over their quota, an eighth
    /// of the ledger. More than eight accounts within their quota may still be too large together, so the share
    /// is halved until enough is removed or it would fall below the floor. An account with less than half of what
    /// the largest keep therefore loses nothing.
    pub(super) fn prune_shares(
        &mut self,
        whose: Whose,
        ranks: Range<Rank>,
        floor: Size,
        excess: impl Fn(&S) -> Size,
    ) -> Result<(), S::Error> {
        let mut share = self.retention.policy.quota();
        loop {
            let excess = excess(self.shelf);
            if excess.is_zero() {
                return Ok(());
            }
            self.prune_accounts(whose, ranks.clone(), share, excess)?;
            let half = share.part(2);
            if share.events <= 1 || half.events < floor.events {
                return Ok(());
            }
            share = half;
        }
    }

    /// Removes up to `excess` from these ranks, lowest and oldest first. Events that are no longer about
    /// strangers get their rank back instead.
    pub(super) fn prune_ladder(&mut self, from: Rank, below: Rank, mut excess: Size) -> Result<(), S::Error> {
        let start = (from, UnixNanos::new(i64::MIN), i64::MIN);
        while !excess.is_zero() {
            let batch = PRUNE_BATCH.min(if excess.bytes == 0 {
                excess.events
            } else {
                PRUNE_BATCH
            });
            let rungs = self.shelf.ladder(start, below, batch)?;
            if rungs.is_empty() {
                break;
            }
            for rung in rungs {
                if excess.is_zero() {
                    break;
                }
                let is_stranger = rung.held.rank == Rank::STRANGER;
                if is_stranger && !self.retention.is_about_strangers(&rung.actor, &rung.target) {
                    self.shelf.rerank(&rung, Rank::common(rung.priority))?;
                } else {
                    self.remove(&rung.held.place)?;
                    excess = excess - Size::one(rung.bytes);
                }
            }
        }
        Ok(())
    }
}
