//! Ingestion of events from a peer: verify, learn, store.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nara_proto::event::{EventProblem, EventTrust, EventVerdict, MAX_EVENT_BYTES, Service, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::NaraName;

use crate::ledger::{CheckedEvent, Insertion, LedgerError};
use crate::mesh_ranges;
use crate::metrics;
use crate::offload::{are_many, offload};
use crate::registry::{KeySource, PeerInfo, PinnedKey, RegisterError};
use crate::seldom::{shown, warn_seldom};
use crate::server::route::confidant::push_to_introduced;
use crate::server::route::state::Shared;

/// The maximum number of introductions accepted from one batch: a sender must not fill the registry with invented
/// naras.
const MAX_INTRODUCTIONS: usize = 64;

/// The result of a batch.
#[derive(Debug, Default)]
pub(in crate::server) struct Ingested {
    /// Events that were not refused, whether new or known.
    pub(in crate::server) accepted: Vec<SyncEvent>,
    /// The number of events that are new in the ledger.
    pub(in crate::server) stored: usize,
    /// The number of events whose signature is invalid, cannot be verified here, or is missing although required.
    pub(in crate::server) warnings: usize,
}

/// Verifies events, learns keys from introductions, and stores the accepted ones.
///
/// Events of naras with an unknown key are stored: forwarding events of other naras is the purpose of gossip. Events
/// that contradict a known key, have a forged id or lack a required signature are refused individually, without
/// consequences for the rest of the batch.
///
/// `told_by` is the nara that sent them: streams to it omit them.
pub(in crate::server) async fn ingest(
    shared: &Arc<Shared>,
    events: Vec<SyncEvent>,
    told_by: Option<&NaraName>,
) -> Result<Ingested, LedgerError> {
    let received = events.len();
    let (events, verdicts) = verify(shared.clone(), events, told_by.cloned()).await;
    let mut ingested = Ingested::default();
    let mut checked = Vec::with_capacity(events.len());
    for (event, verdict) in events.into_iter().zip(verdicts) {
        match verdict {
            Ok(trust) => {
                ingested.warnings += usize::from(trust == EventTrust::UnknownKey && event.is_signed());
                if trust == EventTrust::Verified {
                    shared.registry.hear(&event, shared.clock.now_nanos());
                    if event.service() == Some(Service::HeyThere) {
                        push_to_introduced(shared, &event);
                    }
                }
                checked.push(CheckedEvent::new(event.clone(), trust));
                ingested.accepted.push(event);
            }
            Err(problem) => {
                ingested.warnings += usize::from(matches!(
                    problem,
                    EventProblem::BadSignature | EventProblem::MustBeSigned
                ));
                tracing::info!(
                    event = %shown(&event.id), emitter = %shown(&event.emitter), %problem, "event refused"
                );
            }
        }
    }
    if !ingested.accepted.is_empty() {
        let insertions = shared.ledger.insert(checked, told_by.cloned()).await?;
        ingested.stored = insertions
            .iter()
            .filter(|insertion| matches!(insertion, Insertion::Stored))
            .count();
    }
    let known = ingested.accepted.len() - ingested.stored;
    let refused = received - ingested.accepted.len();
    for (outcome, count) in [("new", ingested.stored), ("known", known), ("refused", refused)] {
        ::metrics::counter!(metrics::EVENTS_TAKEN, "outcome" => outcome).increment(count as u64);
    }
    Ok(ingested)
}

/// Learns the keys of naras that introduce themselves, and verifies the events with all keys known afterwards.
async fn verify(
    shared: Arc<Shared>,
    mut events: Vec<SyncEvent>,
    told_by: Option<NaraName>,
) -> (Vec<SyncEvent>, Vec<EventVerdict>) {
    let many = are_many(&events);
    let (serving, teller) = (shared.clone(), told_by.clone());
    let work = move || {
        let mut learned = 0;
        let told_by = told_by.as_ref();
        learn_introductions(&shared, &events, told_by, Introduced::Strangers, &mut learned);
        let verdicts = shared.known_keys.judge(&mut events, shared.clock.now_nanos());
        // Only now: an event of the same batch may state that the key was replaced.
        learn_introductions(&shared, &events, told_by, Introduced::Known, &mut learned);
        (events, verdicts)
    };
    in_turn(&serving, many, teller, work).await
}

/// Verifies many signatures without blocking the runtime: one batch per teller at a time, and few in total.
pub(in crate::server) async fn in_turn<T: Send + 'static>(
    shared: &Shared,
    many: bool,
    teller: Option<NaraName>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if many {
        shared
            .checks
            .run(teller, async { offload(true, work).await })
            .await
    } else {
        work()
    }
}

/// Which introductions are examined: of naras without a key here, or of known ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Introduced {
    Strangers,
    Known,
}

/// Pins the keys of naras that introduce themselves in a verified `hey-there` (docs/protocol/v1.md, section 8.6). V1
/// peers also accept unsigned ones. `learned` counts the introductions of a batch.
fn learn_introductions(
    shared: &Shared,
    events: &[SyncEvent],
    told_by: Option<&NaraName>,
    introduced: Introduced,
    learned: &mut usize,
) {
    for event in events {
        let Some((name, mesh_ip)) = introduction(event) else {
            continue;
        };
        let Some(key) = event.embedded_key() else { continue };
        let known = shared.registry.by_name(name.as_str());
        let is_known = known.as_ref().is_some_and(|peer| peer.info().key.is_some());
        if name == *shared.local.name()
            || known.and_then(|peer| peer.key()) == Some(key)
            || is_known != (introduced == Introduced::Known)
            // An event of the same batch may state that its key was replaced.
            || shared.registry.is_replaced(name.as_str(), &key)
        {
            continue;
        }
        // The expensive check comes last, and is limited. The owner of this nara signed an import, and may introduce
        // any number of naras.
        if *learned == MAX_INTRODUCTIONS && told_by.is_some() {
            warn_seldom!("more than {MAX_INTRODUCTIONS} introductions in one batch: the rest is ignored");
            return;
        }
        *learned += 1;
        if !event.has_genuine_id() || event.verify(&key).is_err() {
            continue;
        }
        let address = mesh_ip
            .map(|ip| ip.to_canonical())
            .filter(|ip| mesh_ranges::contain(&shared.mesh_ranges, *ip))
            .map(|ip| SocketAddr::new(ip, shared.mesh_port));
        let known_address = shared
            .registry
            .by_name(name.as_str())
            .and_then(|peer| peer.info().address);
        let info = PeerInfo {
            name: Some(name.clone()),
            // A configured or discovered address takes precedence over one from a third party.
            address: address
                .filter(|address| known_address.is_none() && shared.registry.has_room_at(address.ip())),
            // The event names no port.
            either_port: true,
            key: Some(PinnedKey {
                name,
                id: None,
                key,
                source: KeySource::HeyThere {
                    told_by: told_by.cloned(),
                },
                learned_at: shared.clock.now_millis(),
            }),
            ..PeerInfo::default()
        };
        match shared.registry.register(info) {
            Ok(_) => {}
            // As the operator configured it.
            Err(error @ RegisterError::KeyRefused(_)) => {
                tracing::info!(%error, "introduction not trusted")
            }
            Err(error) => warn_seldom!(%error, "introduction not trusted"),
        }
    }
}

/// Returns the name and address of a nara that introduces itself, not another.
fn introduction(event: &SyncEvent) -> Option<(NaraName, Option<IpAddr>)> {
    if event.service() != Some(Service::HeyThere) || event.validate().is_err() {
        return None;
    }
    let payload = event.hey_there.as_deref()?;
    if payload.from != event.emitter {
        return None;
    }
    Some((payload.from.parse().ok()?, payload.mesh_ip.parse().ok()))
}

pub(in crate::server) fn is_small(event: &SyncEvent) -> bool {
    // Encoding an event takes a fiftieth of the time of verifying it.
    go_json::to_vec(event).len() <= MAX_EVENT_BYTES
}
