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

/// One rung of the ladder of verified events, in the order of rank, time and arrival.
#[derive(Clone, Debug)]
pub(super) struct Rung {
    pub(super) held: Held,
    pub(super) account: Option<String>,
    pub(super) bytes: usize,
    pub(super) priority: Priority,
    pub(super) actor: String,
    pub(super) target: String,
}

/// A place on the ladder: see [`Rung`].
pub(super) type LadderPlace = (Rank, UnixNanos, i64);

impl Rung {
    fn place(&self) -> LadderPlace {
        (self.held.rank, self.held.place.ts, self.held.place.seq)
    }
}

/// To whom events are charged. The numbers are stored in databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Account<'a> {
    /// Verified events, to their emitter or teller.
    Verified(&'a str),
    /// Unverified events, to their teller.
    Teller(&'a str),
    /// Unverified events, to the emitter that they claim.
    Emitter(&'a str),
    /// Events of this nara and of configured peers, to their emitter.
    Configured(&'a str),
    /// Statements that are never pruned, to the nara that they are about.
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

    /// The accounts of one event.
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

/// An event that is stored now.
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

/// Who made a stored event, and who is charged for it.
#[derive(Debug, Default)]
pub(super) struct Maker {
    pub(super) actor: String,
    pub(super) emitter: String,
    pub(super) account: Option<String>,
}

/// What the rules of retention need of a storage. Every method is a look-up in an index.
pub(super) trait Shelf {
    type Error;

    /// The event with this id.
    fn find(&mut self, id: &str) -> Result<Option<Held>, Self::Error>;

    /// Who made a stored event, and who is charged for it.
    fn maker(&mut self, place: &Place) -> Result<Maker, Self::Error>;

    /// How many voters a stored checkpoint has.
    fn voters(&mut self, place: &Place) -> Result<usize, Self::Error>;

    /// Stores an event whose id is new; its place in the order of arrival.
    fn add(&mut self, event: NewEvent<'_>) -> Result<i64, Self::Error>;

    /// Removes an event.
    fn remove(&mut self, place: &Place) -> Result<(), Self::Error>;

    /// Gives an event another rank.
    fn rerank(&mut self, rung: &Rung, rank: Rank) -> Result<(), Self::Error>;

    /// How much is stored of these ranks.
    fn size(&self, ranks: impl Fn(Rank) -> bool) -> Size;

    /// How much is charged to an account.
    fn charged(&mut self, account: Account<'_>) -> Result<Size, Self::Error>;

    /// The accounts of this kind that exceed a quota.
    fn accounts_over(&mut self, kind: u8, quota: Size) -> Result<BTreeMap<String, Size>, Self::Error>;

    /// The ladder behind a place and below a rank, at most `limit` rungs.
    fn ladder(&mut self, after: LadderPlace, below: Rank, limit: usize) -> Result<Vec<Rung>, Self::Error>;

    /// The verified pings of a target, the first to go first, at most `limit`.
    fn pings(&mut self, target: &str, limit: usize) -> Result<Vec<HeldPing>, Self::Error>;

    /// How many verified observations of a pair are stored, at most `limit`.
    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> Result<usize, Self::Error>;

    /// The oldest verified restart, or the oldest other verified observation, of a pair.
    fn oldest_observation(&mut self, pair: (&str, &str), restart: bool)
    -> Result<Option<Place>, Self::Error>;

    /// Whether a verified checkpoint about this subject is stored.
    fn has_checkpoint(&mut self, subject: &str) -> Result<bool, Self::Error>;

    /// The unverified event of an account, or of all, that goes first: by rank, then by arrival.
    fn first_unverified(&mut self, account: Option<Account<'_>>) -> Result<Option<Held>, Self::Error>;

    /// Unverified events that arrived before a time, at most `limit`.
    fn unverified_before(&mut self, time: UnixNanos, limit: usize) -> Result<Vec<Place>, Self::Error>;
}

/// What became of events that were to be stored.
pub(super) struct Admitted {
    /// One outcome for each.
    pub(super) outcomes: Vec<Insertion>,
    /// Those that are stored: their places in the order of arrival, and their indices.
    pub(super) stored: BTreeMap<i64, usize>,
}

/// Stores the events that the rules of retention let in (docs/protocol/v1.md, section 8.6) and removes those that have
/// to go for them. An event that does not outlive the call was not retained.
pub(super) fn admit<S: Shelf>(
    shelf: &mut S,
    retention: &Retention,
    events: Vec<CheckedEvent>,
    origin: Option<&NaraName>,
    now: UnixNanos,
) -> Result<Admitted, S::Error> {
    let mut admission = Admission {
        shelf,
        retention,
        origin,
        now,
        outcomes: Vec::with_capacity(events.len()),
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
    /// The outcomes of the events that are stored, by order of arrival.
    stored: BTreeMap<i64, usize>,
    /// Whether the statements were looked through for those about naras that are not known any more.
    statements_looked_through: bool,
}

/// How many events are looked up at once while pruning.
const PRUNE_BATCH: usize = 1_000;

impl<S: Shelf> Admission<'_, S> {
    fn take(&mut self, checked: CheckedEvent) -> Result<(), S::Error> {
        let verified = checked.is_verified();
        let mut event = checked.event;
        if event.id.is_empty() {
            event.id = event.compute_id();
        }
        let held = self.shelf.find(&event.id)?;
        // What is verified takes the place of what is not, and what a configured peer tells that of hearsay.
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
            // Who tells a checkpoint with more voters does not get it into its account, with which it would go.
            let charged_before = match &held {
                Some(held) if event.service() == Some(Service::Checkpoint) => {
                    self.shelf.maker(&held.place)?.account
                }
                _ => None,
            };
            match self.place(&event, json.len(), verified)? {
                Some((rank, account)) => {
                    let account = charged_before.or(account);
                    // It may be what had to go for this one.
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

    /// The rank and account of an event that may be stored; what has to go for it is gone then.
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

    /// Whether a verified event is preferred to the verified one that is stored under its id.
    ///
    /// An id does not cover the observer of a restart, and does not tell `alice` who says something about `bob:x` from
    /// `alice:bob` who says something about `x`: another nara can sign an event of its own under the id of one that it
    /// has seen. The rule does not depend on the order of arrival, and nobody can put itself first by it. Where it does not
    /// decide, the first is kept: whatever else it went by, such as the names, who wants to be first could choose.
    fn is_preferred(&mut self, event: &SyncEvent, held: &Held) -> Result<bool, S::Error> {
        let Maker {
            actor,
            emitter,
            account,
        } = self.shelf.maker(&held.place)?;
        if event.service() == Some(Service::Succession) {
            // What this nara goes by shall not leave with what its first teller told.
            let (rank, charged) = self.standing_of(event)?;
            let is_better = rank > held.rank || (rank == held.rank && charged != account);
            return Ok(self.is_its_own_word(event) && is_better);
        }
        if event.service() == Some(Service::Checkpoint) {
            // Its id does not cover its voters, and those that are left have signed it.
            return Ok(voters(event) > self.shelf.voters(&held.place)?);
        }
        if actor == event.actor() {
            // Earlier versions took own events in the name of others.
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

    /// The rank of unverified events.
    fn hearsay_rank(&self) -> Rank {
        let teller = self.origin.map_or("", |origin| origin.as_str());
        match self.retention.known.standing(teller) {
            standing if standing.is_configured() => Rank::UNVERIFIED_CONFIGURED,
            _ => Rank::UNVERIFIED,
        }
    }

    /// The rank of a verified event, and to whom it is charged.
    fn standing_of(&mut self, event: &SyncEvent) -> Result<(Rank, Option<String>), S::Error> {
        let priority = Priority::of(event);
        let teller = || self.origin.map(|origin| origin.as_str());
        let emitter = match event.service() {
            // It is proven by its voters, not by an emitter.
            Some(Service::Checkpoint) => None,
            // A holder of a replaced key can make any number of statements.
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
        // Statements that nobody told, such as imported ones, share one account: they must not take the room of all.
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

    /// Whether a verified event may be stored; what has to go for it is gone then.
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

    /// What is kept cannot be more than the ledger: then accounts over their quota lose some, and everybody does for
    /// this nara and configured peers, who share what is left as in [`Admission::prune`].
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

    /// A new measurement takes the place of an older one of the same nara before that of another, and the accounts share
    /// the places: puppets of one teller have no more of them than another nara that asks for as many.
    fn make_room_for_ping(
        &mut self,
        event: &SyncEvent,
        rank: Rank,
        account: Option<&str>,
        limit: usize,
    ) -> Result<bool, S::Error> {
        if limit == usize::MAX {
            // Not counted: that would be all there are.
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

    /// The new event competes with those that are there, so that an old one that comes again does not push
    /// out a newer one.
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
                // Restarts are not lost before a checkpoint counts them.
                return Ok(true);
            };
            match oldest {
                Some(oldest) => self.remove(&oldest)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Unverified events have room of their own, for each teller and each claimed emitter and in all. The oldest
    /// arrival goes for a new one, but what a configured peer told does not go for what others tell.
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

    /// Removes unverified events whose time is over.
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

/// Whether an event may be stored although nobody has verified it, until its key is learned or its time is over.
fn is_welcome_unverified(event: &SyncEvent) -> bool {
    match event.service() {
        // The keys of its voters prove it, and whoever tells it later tells it whole; until then it is the word of
        // nobody, and nothing here reads it.
        Some(Service::Checkpoint) | None => false,
        // Old ledgers hold the first unsigned, v1 peers send the second so, and the third is signed inside.
        Some(Service::Social | Service::Observation | Service::Succession) => true,
        // Its emitter has signed it, and its key may be learned.
        Some(_) => event.is_signed(),
    }
}

/// How many voters a checkpoint has.
pub(super) fn voters(event: &SyncEvent) -> usize {
    let payload = event.checkpoint.as_deref();
    payload.map_or(0, |payload| payload.voter_ids.as_ref().map_or(0, Vec::len))
}

fn is_forgotten(event: &SyncEvent) -> bool {
    event.service() == Some(Service::Checkpoint)
        && event.checkpoint.as_deref().is_some_and(is_filtered_at_ingest)
}
