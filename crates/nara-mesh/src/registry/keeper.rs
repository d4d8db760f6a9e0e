use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use nara_proto::event::{EventReception, Service, verify_events};
use nara_proto::identity::NaraName;
use nara_proto::succession::{Lineage, Succession};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{KeySource, PeerEvent, PeerRecord, PeerRegistry, RegisterError};
use crate::identity::LocalNara;
use crate::ledger::{CheckedEvent, Followed, Follower, Ledger, LedgerError, ReadLimit};
use crate::offload::on_blocking_thread;
use crate::random::random;

/// Minimum interval between scans of the whole registry. Events are missed when peers cause many of them, for
/// example with keys that contradict pinned ones; that must not keep the ledger busy.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of records per transaction.
const PART: usize = 512;

/// Stores what a registry learns in a ledger, so that a restart neither repeats trust on first use nor forgets
/// what a peer has proven. Ends when dropped.
///
/// Register configured peers first: their keys take precedence over keys of the ledger.
#[derive(Debug)]
pub struct PeerKeeper {
    registry: PeerRegistry,
    ledger: Arc<dyn Ledger>,
    stopping: CancellationToken,
    task: AbortOnDropHandle<()>,
    heeding: AbortOnDropHandle<()>,
}

/// What a registry loaded from a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recalled {
    /// The number of peers in the ledger.
    pub naras: usize,
    /// Decisions of the operator that newly took effect.
    pub decided: Vec<NaraName>,
    /// Why some records are not used. A configured key takes precedence over the key in the ledger.
    pub problems: Vec<RegisterError>,
}

impl PeerKeeper {
    /// Loads the records of the ledger into the registry, and stores what the registry learns from then on. Needs
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn start(
        registry: PeerRegistry,
        ledger: Arc<dyn Ledger>,
    ) -> Result<(Self, Recalled), LedgerError> {
        // Subscribe before loading, so that no event is missed.
        let events = registry.subscribe();
        let stored = Follower::new(ledger.clone(), ledger.position().await?, about_keys());
        let recalled = recall(&registry, &*ledger).await?;
        let heeding = tokio::spawn(heed(registry.clone(), stored).boxed());
        let stopping = CancellationToken::new();
        let keeping = keep(events, registry.clone(), ledger.clone(), stopping.clone());
        let keeper = Self {
            task: AbortOnDropHandle::new(tokio::spawn(keeping.boxed())),
            heeding: AbortOnDropHandle::new(heeding),
            registry,
            ledger,
            stopping,
        };
        Ok((keeper, recalled))
    }

    /// Loads what another process decided or learned meanwhile.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn reload(&self) -> Result<Recalled, LedgerError> {
        recall(&self.registry, &*self.ledger).await
    }

    /// Stores everything that the registry has learned, including before this service started.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be stored.
    pub async fn save(&self) -> Result<(), LedgerError> {
        let names = self.registry.peers();
        let mut learned = records(&self.registry, names.iter().filter_map(|peer| peer.info().name));
        // Configured keys are given again at each start.
        learned.retain(|record| {
            let configured = record
                .key
                .as_ref()
                .is_some_and(|key| key.source == KeySource::Configured);
            !configured || !record.protocol.is_empty()
        });
        self.ledger.learn_peers(learned).await
    }

    /// Stops the service, once everything learned so far is stored.
    pub async fn finish(self) {
        self.stopping.cancel();
        self.heeding.abort();
        // A panic of a task was already reported. Afterwards nothing holds the ledger.
        let _ = tokio::join!(self.task, self.heeding);
    }
}

async fn recall(registry: &PeerRegistry, ledger: &dyn Ledger) -> Result<Recalled, LedgerError> {
    let mut recalled = Recalled::default();
    let mut overruled = Vec::new();
    for record in ledger.peers().await? {
        recalled.naras += 1;
        let name = record.name.clone();
        match registry.restore(record) {
            Ok(false) => {}
            Ok(true) => recalled.decided.push(name),
            Err(error) => {
                if let RegisterError::KeyConflict(conflict) = &error
                    && conflict.pinned.source == KeySource::Configured
                {
                    overruled.push(name);
                }
                recalled.problems.push(error);
            }
        }
    }
    match ledger.learn_peers(records(registry, overruled)).await {
        // A ledger that can only be read keeps the overruled keys.
        Ok(()) | Err(LedgerError::ReadOnly(_)) => {}
        Err(error) => return Err(error),
    }
    registry.heed_all(statements(ledger, Vec::new()).await?);
    Ok(recalled)
}

/// Returns the filter of statements about keys.
fn about_keys() -> EventFilter {
    EventFilter {
        services: vec![Service::Succession.as_str().to_owned()],
        ..EventFilter::default()
    }
}

/// Returns the stored statements about the keys of these naras, or of all naras if none is named.
async fn statements(ledger: &dyn Ledger, names: Vec<String>) -> Result<Vec<Succession>, LedgerError> {
    let limit = ReadLimit::events(usize::MAX);
    let filter = EventFilter {
        subjects: names,
        ..about_keys()
    };
    let events = ledger.page(filter, Cursor::START, limit).await?;
    let read = events
        .iter()
        .filter_map(|checked| Succession::from_event(&checked.event).ok());
    Ok(read.collect())
}

/// Returns the stored statements that lead to the current key of this nara, oldest first.
pub(crate) async fn own_successions(
    ledger: &dyn Ledger,
    local: &LocalNara,
) -> Result<Vec<Succession>, LedgerError> {
    let mut statements = statements(ledger, vec![local.name().as_str().to_owned()]).await?;
    let mut key = local.public_key();
    let mut chain: Vec<Succession> = Vec::new();
    while chain.len() < Lineage::MAX_STEPS
        && let Some(index) = statements
            .iter()
            .position(|statement| statement.new_key() == Some(&key))
    {
        // Removed from the list, so that a cycle ends.
        let statement = statements.swap_remove(index);
        key = *statement.old_key();
        chain.push(statement);
    }
    chain.reverse();
    Ok(chain)
}

/// Applies statements as they are stored, whatever their origin.
async fn heed(registry: PeerRegistry, mut stored: Follower) {
    loop {
        match stored.next().await {
            Ok(Followed::Events(arrivals)) => {
                let events = arrivals.iter().map(|arrival| &arrival.event);
                registry.heed_all(
                    events
                        .filter_map(|event| Succession::from_event(event).ok())
                        .collect(),
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "statements of succession cannot be read");
                sleep(LOOK_INTERVAL).await;
            }
        }
    }
}

async fn keep(
    mut events: broadcast::Receiver<PeerEvent>,
    registry: PeerRegistry,
    ledger: Arc<dyn Ledger>,
    stopping: CancellationToken,
) {
    // When to scan the whole registry, because events were missed.
    let mut look_at = None;
    let mut looked: Option<Instant> = None;
    loop {
        let due = look_at.unwrap_or_else(|| Instant::now() + LOOK_INTERVAL);
        let mut next = tokio::select! {
            biased;
            () = stopping.cancelled() => events.try_recv(),
            event = events.recv() => event.map_err(|error| match error {
                RecvError::Lagged(missed) => TryRecvError::Lagged(missed),
                RecvError::Closed => TryRecvError::Closed,
            }),
            () = sleep_until(due), if look_at.is_some() => Err(TryRecvError::Empty),
        };
        // Process all pending events in one batch.
        let mut names = BTreeSet::new();
        let mut pinned = BTreeSet::new();
        let mut learned = Vec::new();
        let mut gone = Vec::new();
        let mut met = BTreeSet::new();
        let mut stated: Vec<Succession> = Vec::new();
        let ended = loop {
            learned.extend(next.iter().flat_map(super::learned));
            match next {
                Ok(PeerEvent::KeyPinned(key)) => {
                    pinned.insert(key.name.clone());
                    if key.source != KeySource::Configured {
                        names.insert(key.name);
                    }
                }
                Ok(PeerEvent::ProtocolLearned(info) | PeerEvent::Seen(info)) => {
                    met.extend(info.name.clone());
                    names.extend(info.name);
                }
                Ok(PeerEvent::Unregistered(info)) => gone.extend(info.name),
                Ok(PeerEvent::Succession { statement, .. }) => {
                    if !is_ghost(&registry, statement.name()) {
                        stated.push(*statement);
                    }
                }
                Ok(_) => {}
                Err(TryRecvError::Lagged(_)) => {
                    let next = looked.map(|looked| looked + LOOK_INTERVAL);
                    look_at.get_or_insert_with(|| next.unwrap_or_else(Instant::now));
                }
                Err(TryRecvError::Empty) => break stopping.is_cancelled(),
                Err(TryRecvError::Closed) => break true,
            }
            next = events.try_recv();
        };
        if look_at.is_some_and(|at| ended || at <= Instant::now()) {
            names.extend(registry.peers().iter().filter_map(|peer| peer.info().name));
            met.extend(names.iter().cloned());
            look_at = None;
            looked = Some(Instant::now());
        }
        // In parts, so that events can be stored in between.
        for part in records(&registry, names).chunks(PART) {
            if let Err(error) = ledger.learn_peers(part.to_vec()).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "learned peer data cannot be stored");
            }
        }
        // Skip naras that were registered again meanwhile.
        gone.retain(|name| registry.by_name(name.as_str()).is_none());
        if !gone.is_empty()
            && let Err(error) = ledger.forget_ghosts(Some(gone)).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "records of removed peers cannot be deleted");
        }
        // While a nara was a ghost, its statements were charged to the peers that sent them.
        met.retain(|name| !is_ghost(&registry, name));
        stated.extend(met.iter().flat_map(|name| registry.followed(name.as_str())));
        if let Err(error) = store_followed(&*ledger, stated).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "a statement of succession cannot be stored");
        }
        if !pinned.is_empty() {
            // Statements that arrived before their key was known.
            let names = pinned.iter().map(|name| name.as_str().to_owned());
            match statements(&*ledger, names.collect()).await {
                Ok(statements) => {
                    registry.heed_all(statements);
                }
                Err(error) => tracing::error!(%error, "statements of succession cannot be read"),
            }
        }
        if !learned.is_empty()
            && let Err(error) = ledger.forgive(learned).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "rejections that awaited a key cannot be cleared");
        }
        for name in pinned {
            if let Err(error) = verify_stored(&registry, &*ledger, &name).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, %name, "stored events cannot be verified");
            }
        }
        if ended {
            return;
        }
    }
}

/// Returns whether a nara was never met: then statements about it are charged to the peers that send them.
fn is_ghost(registry: &PeerRegistry, name: &NaraName) -> bool {
    let peer = registry.by_name(name.as_str());
    let record = peer.and_then(|peer| registry.record_of(&peer));
    record.is_some_and(|record| record.is_ghost())
}

/// Stores followed statements as sent by the naras that they are about, whatever peer sent them first.
async fn store_followed(ledger: &dyn Ledger, statements: Vec<Succession>) -> Result<(), LedgerError> {
    let mut by_name: BTreeMap<NaraName, Vec<CheckedEvent>> = BTreeMap::new();
    for statement in statements {
        let events = by_name.entry(statement.name().clone()).or_default();
        events.push(CheckedEvent::verified(statement.to_event()));
    }
    for (name, events) in by_name {
        ledger.insert(events, Some(name)).await?;
    }
    Ok(())
}

/// Verifies the stored events of a nara whose key was unknown when they arrived. Removes events that the key
/// disproves, as they would be refused now.
async fn verify_stored(
    registry: &PeerRegistry,
    ledger: &dyn Ledger,
    name: &NaraName,
) -> Result<(), LedgerError> {
    let arrivals = ledger.unverified_by(name.as_str().to_owned()).await?;
    if arrivals.is_empty() {
        return Ok(());
    }
    let keys = registry.clone();
    let checked = on_blocking_thread(move || {
        let (mut events, tellers): (Vec<_>, Vec<_>) = arrivals
            .into_iter()
            .map(|arrival| (arrival.event, arrival.origin))
            .unzip();
        let reception = EventReception {
            // They were not from the future when they arrived.
            now: UnixNanos::new(i64::MAX),
            random: random(),
        };
        let verdicts = verify_events(&mut events, &keys, reception);
        let mut verified: BTreeMap<Option<NaraName>, Vec<CheckedEvent>> = BTreeMap::new();
        let mut disproved = Vec::new();
        for ((event, verdict), teller) in events.into_iter().zip(verdicts).zip(tellers) {
            match verdict {
                Ok(trust) if trust.is_verified() => {
                    let events = verified.entry(teller).or_default();
                    events.push(CheckedEvent::verified(event));
                }
                Ok(_) => {}
                Err(_) => disproved.push(event.id),
            }
        }
        (verified, disproved)
    });
    // Fails only when the runtime shuts down.
    let (verified, disproved) = checked.await.map_err(|_| LedgerError::Closed)?;
    let count = verified.values().map(Vec::len).sum::<usize>();
    // They stay charged to the peers that sent them.
    for (teller, events) in verified {
        ledger.insert(events, teller).await?;
    }
    let disproved = match disproved.is_empty() {
        true => 0,
        false => ledger.remove_unverified(disproved).await?,
    };
    tracing::debug!(%name, count, disproved, "stored events are verified now");
    Ok(())
}

/// Returns the records to store: only those with a key.
fn records(registry: &PeerRegistry, names: impl IntoIterator<Item = NaraName>) -> Vec<PeerRecord> {
    let peers = names
        .into_iter()
        .filter_map(|name| registry.by_name(name.as_str()));
    let records = peers.filter_map(|peer| registry.record_of(&peer));
    let kept = |record: &PeerRecord| {
        record
            .key
            .as_ref()
            .is_some_and(|key| key.source != KeySource::Own)
    };
    records.filter(kept).collect()
}

#[cfg(test)]
mod tests;
