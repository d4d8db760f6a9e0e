mod prune;
mod statements;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use nara_proto::checkpoint::is_filtered_at_ingest;
use nara_proto::event::{Service, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::NaraName;
use nara_proto::time::UnixNanos;

use super::held::{Held, HeldPing, Place, ping_to_go};
use super::rank::{Priority, Rank, is_note};
use super::retention::{Retention, Size, Standing};
use super::{CheckedEvent, Insertion};
use prune::Whose;

/// A verified event in eviction order: by rank, then time, then arrival.
#[derive(Clone, Debug)]
pub(super) struct Rung {
    pub(super) held: Held,
    pub(super) account: Option<String>,
    pub(super) bytes: usize,
    pub(super) priority: Priority,
    pub(super) actor: String,
    pub(super) target: String,
}

/// The position of a [`Rung`] in the eviction order.
pub(super) type LadderPlace = (Rank, UnixNanos, i64);

impl Rung {
    fn place(&self) -> LadderPlace {
        (self.held.rank, self.held.place.ts, self.held.place.seq)
    }
}

/// The quota account that an event is charged to. The numbers are stored in databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Account<'a> {
    /// Verified events, by emitter or by the peer that sent them.
    Verified(&'a str),
    /// Unverified events, by the peer that sent them.
    Teller(&'a str),
    /// Unverified events, by claimed emitter.
    Emitter(&'a str),
    /// Events of this nara and of configured peers, by emitter.
    Configured(&'a str),
    /// Key statements that are never pruned, by the nara that they are about.
    Statements(&'a str),
}

impl<'a> Account<'a> {
    pub(super) const fn kind(self) -> u8 {
        match self {
            Self::Verified(_) => 0,
            Self::Teller(_) => 1,
            Self::Emitter(_) => 2,
            Self::Configured(_) => 3,
            Self::Statements(_) => 4,
        }
    }

    pub(super) const fn name(self) -> &'a str {
        match self {
            Self::Verified(name)
            | Self::Teller(name)
            | Self::Emitter(name)
            | Self::Configured(name)
            | Self::Statements(name) => name,
        }
    }

    /// Returns the accounts that an event is charged to.
    pub(super) fn of(
        rank: Rank,
        charged: Option<&'a str>,
        origin: Option<&'a str>,
        emitter: &'a str,
    ) -> [Option<Self>; 2] {
        if rank == Rank::STATEMENT {
            [charged.map(Self::Statements), None]
        } else if rank.is_configured() {
            [charged.map(Self::Configured), None]
        } else if rank.is_verified() {
            [charged.map(Self::Verified), None]
        } else {
            [
                Some(Self::Teller(origin.unwrap_or_default())),
                (!emitter.is_empty()).then_some(Self::Emitter(emitter)),
            ]
        }
    }
}

/// An event to be stored.
#[derive(Debug)]
pub(super) struct NewEvent<'a> {
    pub(super) event: SyncEvent,
    pub(super) json: String,
    pub(super) priority: Priority,
    pub(super) rank: Rank,
    /// The account of a verified event.
    pub(super) account: Option<String>,
    pub(super) origin: Option<&'a NaraName>,
    pub(super) now: UnixNanos,
}

/// The actor and emitter of a stored event, and the account it is charged to.
#[derive(Debug, Default)]
pub(super) struct Maker {
    pub(super) actor: String,
    pub(super) emitter: String,
    pub(super) account: Option<String>,
}

/// The storage operations that the retention rules need. Every method is an index lookup.
pub(super) trait Shelf {
    type Error;

    /// Finds the event with this id.
    fn find(&mut self, id: &str) -> Result<Option<Held>, Self::Error>;

    /// Returns the actor, emitter and account of a stored event.
    fn maker(&mut self, place: &Place) -> Result<Maker, Self::Error>;

    /// Returns the number of voters of a stored checkpoint.
    fn voters(&mut self, place: &Place) -> Result<usize, Self::Error>;

    /// Stores an event with a new id and returns its position in the order of arrival.
    fn add(&mut self, event: NewEvent<'_>) -> Result<i64, Self::Error>;

    /// Removes an event.
    fn remove(&mut self, place: &Place) -> Result<(), Self::Error>;

    /// Changes the rank of an event.
    fn rerank(&mut self, rung: &Rung, rank: Rank) -> Result<(), Self::Error>;

    /// Returns the total size of the events with these ranks.
    fn size(&self, ranks: impl Fn(Rank) -> bool) -> Size;

    /// Returns the size charged to an account.
    fn charged(&mut self, account: Account<'_>) -> Result<Size, Self::Error>;

    /// Returns the accounts of this kind that exceed a quota.
    fn accounts_over(&mut self, kind: u8, quota: Size) -> Result<BTreeMap<String, Size>, Self::Error>;

    /// Returns up to `limit` events in eviction order, after a position and below a rank.
    fn ladder(&mut self, after: LadderPlace, below: Rank, limit: usize) -> Result<Vec<Rung>, Self::Error>;

    /// Returns up to `limit` verified pings of a target, in eviction order.
    fn pings(&mut self, target: &str, limit: usize) -> Result<Vec<HeldPing>, Self::Error>;

    /// Returns the number of stored verified observations of a pair, at most `limit`.
    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> Result<usize, Self::Error>;

    /// Returns the oldest verified restart, or the oldest other verified observation, of a pair.
    fn oldest_observation(&mut self, pair: (&str, &str), restart: bool)
    -> Result<Option<Place>, Self::Error>;

    /// Returns whether a verified checkpoint about this subject is stored.
    fn has_checkpoint(&mut self, subject: &str) -> Result<bool, Self::Error>;

    /// Returns the unverified event of an account, or of all, that is evicted first: by rank, then by arrival.
    fn first_unverified(&mut self, account: Option<Account<'_>>) -> Result<Option<Held>, Self::Error>;

    /// Returns up to `limit` unverified events that arrived before a time.
    fn unverified_before(&mut self, time: UnixNanos, limit: usize) -> Result<Vec<Place>, Self::Error>;
}

/// The outcome of [`admit`].
pub(super) struct Admitted {
    /// One outcome per event.
    pub(super) outcomes: Vec<Insertion>,
    /// The stored events: position in the order of arrival, and index into `outcomes`.
    pub(super) stored: BTreeMap<i64, usize>,
}

/// Stores the events that the retention rules admit (docs/protocol/v1.md, section 8.6), and evicts others to make
/// room for them. An event that is evicted within the same call counts as not retained.
pub(super) fn admit<S: Shelf>(
    shelf: &mut S,
    retention: &Retention,
    events: impl IntoIterator<Item = CheckedEvent>,
    origin: Option<&NaraName>,
    now: UnixNanos,
) -> Result<Admitted, S::Error> {
    let mut admission = Admission {
        shelf,
        retention,
        origin,
        now,
        outcomes: Vec::new(),
        stored: BTreeMap::new(),
        statements_looked_through: false,
    };
    admission.expire()?;
    for event in events {
        admission.take(event)?;
    }
    admission.prune()?;
    Ok(Admitted {
        outcomes: admission.outcomes,
        stored: admission.stored,
    })
}

struct Admission<'a, S> {
    shelf: &'a mut S,
    retention: &'a Retention,
    origin: Option<&'a NaraName>,
    now: UnixNanos,
    outcomes: Vec<Insertion>,
    /// The outcomes of the stored events, by order of arrival.
    stored: BTreeMap<i64, usize>,
    /// Whether this call has already searched the statements for naras that are no longer known.
    statements_looked_through: bool,
}

/// Number of events fetched at once while pruning.
const PRUNE_BATCH: usize = 1_000;

impl<S: Shelf> Admission<'_, S> {
    fn take(&mut self, checked: CheckedEvent) -> Result<(), S::Error> {
        let verified = checked.is_verified();
        let mut event = checked.event;
        if event.id.is_empty() {
            event.id = event.compute_id();
        }
        let held = self.shelf.find(&event.id)?;
        // A verified event replaces an unverified one; one from a configured peer replaces hearsay.
        let stays = match &held {
            Some(held) if verified && held.rank.is_verified() => !self.is_preferred(&event, held)?,
            Some(held) => !verified && held.rank >= self.hearsay_rank(),
            None => false,
        };
        let outcome = if stays {
            Insertion::Duplicate
        } else if is_forgotten(&event) {
            Insertion::Forgotten
        } else {
            let json = go_json::to_string(&event);
            // The new sender of a checkpoint with more voters must not get it into its account: it would be
            // evicted along with that account.
            let charged_before = match &held {
                Some(held) if event.service() == Some(Service::Checkpoint) => {
                    self.shelf.maker(&held.place)?.account
                }
                _ => None,
            };
            match self.place(&event, json.len(), verified)? {
                Some((rank, account)) => {
                    let account = charged_before.or(account);
                    // It may have been evicted for this one.
                    if held.is_some()
                        && let Some(held) = self.shelf.find(&event.id)?
                    {
                        self.remove(&held.place)?;
                    }
                    let seq = self.shelf.add(NewEvent {
                        priority: Priority::of(&event),
                        event,
                        json,
                        rank,
                        account,
                        origin: self.origin,
                        now: self.now,
                    })?;
                    self.stored.insert(seq, self.outcomes.len());
                    Insertion::Stored
                }
                None => Insertion::NotRetained,
            }
        };
        self.outcomes.push(outcome);
        Ok(())
    }

    /// Returns the rank and account for an event that may be stored, after evicting others for it.
    fn place(
        &mut self,
        event: &SyncEvent,
        bytes: usize,
        verified: bool,
    ) -> Result<Option<(Rank, Option<String>)>, S::Error> {
        let policy = self.retention.policy;
        let newest = self.now.saturating_add(policy.max_ahead);
        if bytes > policy.max_event_bytes || event.ts > newest {
            return Ok(None);
        }
        if verified {
            let (rank, account) = self.standing_of(event)?;
            let fits = self.make_room(event, bytes, rank, account.as_deref())?;
            Ok(fits.then_some((rank, account)))
        } else if is_welcome_unverified(event) {
            let rank = self.hearsay_rank();
            let teller = self.origin.map_or("", |origin| origin.as_str());
            let fits = self.make_room_for_unverified(&event.emitter, teller, bytes, rank)?;
            Ok(fits.then_some((rank, None)))
        } else {
            Ok(None)
        }
    }

    /// Returns whether a verified event is preferred to the verified event stored under the same id.
    ///
    /// An id does not cover the observer of a restart, and does not distinguish `alice` talking about `bob:x`
    /// from `alice:bob` talking about `x`: another nara can sign its own event under the id of one it has seen.
    /// The rule is independent of the order of arrival, and no nara can win by its choice of name. Where it does
    /// not decide, the first event is kept: any other criterion, such as the name, could be chosen by the
    /// attacker.
    fn is_preferred(&mut self, event: &SyncEvent, held: &Held) -> Result<bool, S::Error> {
        let Maker {
            actor,
            emitter,
            account,
        } = self.shelf.maker(&held.place)?;
        if event.service() == Some(Service::Succession) {
            // A statement that this nara relies on must not be evicted with its first sender's events.
            let (rank, charged) = self.standing_of(event)?;
            let is_better = rank > held.rank || (rank == held.rank && charged != account);
            return Ok(self.is_its_own_word(event) && is_better);
        }
        if event.service() == Some(Service::Checkpoint) {
            // The id does not cover the voters, and those left have all signed.
            return Ok(voters(event) > self.shelf.voters(&held.place)?);
        }
        if actor == event.actor() {
            // Earlier versions accepted a nara's own events in the name of others.
            return Ok(event.emitter == actor && emitter != actor);
        }
        let is_restart = Priority::of(event) == Priority::Restart;
        let precedence = |actor: &str| {
            let standing = self.retention.known.standing(actor);
            let colons = actor.matches(':').count();
            (
                standing.is_configured(),
                Reverse(colons),
                is_restart && actor == event.target(),
                standing,
            )
        };
        Ok(precedence(event.actor()) > precedence(&actor))
    }

    /// Returns the rank of unverified events from this origin.
    fn hearsay_rank(&self) -> Rank {
        let teller = self.origin.map_or("", |origin| origin.as_str());
        match self.retention.known.standing(teller) {
            standing if standing.is_configured() => Rank::UNVERIFIED_CONFIGURED,
            _ => Rank::UNVERIFIED,
        }
    }

    /// Returns the rank of a verified event and the account it is charged to.
    fn standing_of(&mut self, event: &SyncEvent) -> Result<(Rank, Option<String>), S::Error> {
        let priority = Priority::of(event);
        let teller = || self.origin.map(|origin| origin.as_str());
        let emitter = match event.service() {
            // Its voters prove a checkpoint; it has no emitter.
            Some(Service::Checkpoint) => None,
            // The holder of a replaced key can make any number of statements.
            Some(Service::Succession) => self.is_its_own_word(event).then(|| event.actor()),
            _ => Some(event.emitter.as_str()),
        };
        let standing = emitter.map_or(Standing::Stranger, |emitter| {
            self.retention.known.standing(emitter)
        });
        let account = match standing {
            Standing::Met | Standing::Configured | Standing::Own => emitter,
            Standing::Stranger | Standing::Introduced => teller().or(emitter),
        };
        let account = account.filter(|name| !name.is_empty()).map(str::to_owned);
        // Statements without a sender, such as imported ones, share one account, so that they cannot fill the
        // whole ledger.
        let account = account.or_else(|| (event.service() == Some(Service::Succession)).then(String::new));
        let is_statement = event.service() == Some(Service::Succession) && standing >= Standing::Met;
        let rank = if is_statement && self.has_room_for_statement(event.actor())? {
            Rank::STATEMENT
        } else if standing.is_configured() && !is_note(event) {
            Rank::configured(priority)
        } else if priority.may_be_stranger(event)
            && self.retention.is_about_strangers(event.actor(), event.target())
        {
            Rank::STRANGER
        } else {
            Rank::common(priority)
        };
        Ok((rank, account))
    }

    /// Returns whether a verified event may be stored, after evicting others for it.
    fn make_room(
        &mut self,
        event: &SyncEvent,
        bytes: usize,
        rank: Rank,
        account: Option<&str>,
    ) -> Result<bool, S::Error> {
        let policy = self.retention.policy;
        if rank.is_kept() && !self.make_room_for_kept(bytes, rank)? {
            return Ok(false);
        }
        match event.service() {
            Some(Service::Ping) => self.make_room_for_ping(event, rank, account, policy.pings_per_target),
            Some(Service::Observation) => self.make_room_for_observation(event, policy.observations_per_pair),
            _ => Ok(true),
        }
    }

    /// Protected events must not outgrow the ledger. If they would, accounts over their quota lose some first;
    /// for events of this nara and of configured peers everyone else does, and they share the rest as in
    /// [`Admission::prune`].
    fn make_room_for_kept(&mut self, bytes: usize, rank: Rank) -> Result<bool, S::Error> {
        let room = self.retention.policy.room();
        let is_full = |shelf: &S| shelf.size(Rank::is_kept).plus(Size::one(bytes)).exceeds(room);
        if !is_full(self.shelf) {
            return Ok(true);
        }
        let kept = self.shelf.size(Rank::is_kept).plus(Size::one(bytes));
        let some = (kept - room).at_least(room, 100);
        let first = Rank::common(Priority::FirstSeen);
        let configured = Rank::configured(Priority::Ping);
        let first_configured = Rank::configured(Priority::FirstSeen);
        let policy = self.retention.policy;
        let too_much = |shelf: &S| match is_full(shelf) {
            true => some,
            false => Size::default(),
        };
        self.prune_accounts(Whose::Others, Rank::STRANGER..configured, policy.quota(), some)?;
        self.prune_shares(Whose::Others, first..configured, policy.floor(), too_much)?;
        let excess = too_much(self.shelf);
        self.prune_accounts(
            Whose::Peers,
            first_configured..Rank::STATEMENT,
            policy.quota(),
            excess,
        )?;
        self.prune_shares(Whose::Others, first..configured, Size::default(), too_much)?;
        if rank.is_configured() {
            self.prune_ladder(first, configured, too_much(self.shelf))?;
            self.prune_configured(first_configured, too_much)?;
        }
        Ok(!is_full(self.shelf))
    }

    /// Returns a new measurement replaces an older one of the same nara before one of another, and accounts share
    /// the slots: puppets sent by one peer get no more of them than any other nara that asks for as many.
    fn make_room_for_ping(
        &mut self,
        event: &SyncEvent,
        rank: Rank,
        account: Option<&str>,
        limit: usize,
    ) -> Result<bool, S::Error> {
        if limit == usize::MAX {
            // Counting would read all pings.
            return Ok(true);
        }
        loop {
            let pings = self.shelf.pings(event.target(), limit)?;
            if pings.len() < limit {
                return Ok(true);
            }
            let Some(goes) = ping_to_go(&pings, event, rank, account) else {
                return Ok(false);
            };
            self.remove(&goes.place)?;
        }
    }

    /// Returns the new event competes with the stored ones, so that a replayed old event does not evict a newer
    /// one.
    fn make_room_for_observation(&mut self, event: &SyncEvent, limit: usize) -> Result<bool, S::Error> {
        if limit == usize::MAX {
            return Ok(true);
        }
        let pair = (event.actor(), event.target());
        let is_restart = Priority::of(event) == Priority::Restart;
        while self.shelf.count_observations(pair, limit)? >= limit {
            let other = self.shelf.oldest_observation(pair, false)?;
            let oldest = if other.is_some() || !is_restart {
                other.filter(|oldest| is_restart || !oldest.is_after(event))
            } else if self.shelf.has_checkpoint(event.target())? {
                self.shelf
                    .oldest_observation(pair, true)?
                    .filter(|oldest| !oldest.is_after(event))
            } else {
                // Restarts are kept until a checkpoint counts them.
                return Ok(true);
            };
            match oldest {
                Some(oldest) => self.remove(&oldest)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Unverified events have separate room: per sender, per claimed emitter, and in total. The oldest arrival is
    /// evicted for a new one, but an event from a configured peer is never evicted for one from another peer.
    fn make_room_for_unverified(
        &mut self,
        emitter: &str,
        teller: &str,
        bytes: usize,
        rank: Rank,
    ) -> Result<bool, S::Error> {
        let policy = self.retention.policy;
        let quota = policy.unverified_quota();
        let new = Size::one(bytes);
        if new.exceeds(quota) {
            return Ok(false);
        }
        let accounts = Account::of(rank, None, Some(teller), emitter);
        for account in accounts.into_iter().flatten() {
            while self.shelf.charged(account)?.plus(new).exceeds(quota) {
                if !self.remove_unverified(Some(account), rank)? {
                    return Ok(false);
                }
            }
        }
        let room = policy.unverified_room();
        while self
            .shelf
            .size(|rank| !rank.is_verified())
            .plus(new)
            .exceeds(room)
        {
            if !self.remove_unverified(None, rank)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remove_unverified(&mut self, account: Option<Account<'_>>, rank: Rank) -> Result<bool, S::Error> {
        match self.shelf.first_unverified(account)? {
            Some(held) if held.rank <= rank => {
                self.remove(&held.place)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes unverified events that have expired.
    fn expire(&mut self) -> Result<(), S::Error> {
        let kept_for = self.retention.policy.unverified_for;
        if kept_for == Duration::MAX {
            return Ok(());
        }
        let limit = self.now.saturating_sub(kept_for);
        loop {
            let expired = self.shelf.unverified_before(limit, PRUNE_BATCH)?;
            for place in &expired {
                self.remove(place)?;
            }
            if expired.len() < PRUNE_BATCH {
                return Ok(());
            }
        }
    }

    fn remove(&mut self, place: &Place) -> Result<(), S::Error> {
        if let Some(index) = self.stored.remove(&place.seq) {
            self.outcomes[index] = Insertion::NotRetained;
        }
        self.shelf.remove(place)
    }
}

/// Returns whether an unverified event may be stored until its key is learned or it expires.
fn is_welcome_unverified(event: &SyncEvent) -> bool {
    match event.service() {
        // The keys of its voters prove it, and later senders send it whole. Until then it proves nothing, and
        // nothing here reads it.
        Some(Service::Checkpoint) | None => false,
        // Old ledgers hold unsigned social events, v1 peers send unsigned observations, and successions are
        // signed inside.
        Some(Service::Social | Service::Observation | Service::Succession) => true,
        // It is signed, and the key of its emitter may be learned.
        Some(_) => event.is_signed(),
    }
}

/// Returns the number of voters of a checkpoint.
pub(super) fn voters(event: &SyncEvent) -> usize {
    let payload = event.checkpoint.as_deref();
    payload.map_or(0, |payload| payload.voter_ids.as_ref().map_or(0, Vec::len))
}

fn is_forgotten(event: &SyncEvent) -> bool {
    event.service() == Some(Service::Checkpoint)
        && event.checkpoint.as_deref().is_some_and(is_filtered_at_ingest)
}
