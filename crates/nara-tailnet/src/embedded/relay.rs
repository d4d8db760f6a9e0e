//! The relays (DERP) that carry packets: one link per region in use, and the choice of the home relay.

mod client;
mod frame;
mod home;
mod link;
mod pacer;
pub(super) mod region;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use ts_keys::NodeKeyPair;

use self::link::Link;
pub(super) use self::link::LinkState;
use self::region::{RelayMap, Server};
use super::interfaces::Addresses;
use super::sleep::Sleeps;
use super::tls::Tls;
use super::underlay::{RegionId, RelayHost};

/// The interval between latency measurements for the choice of the home relay.
const MEASURE_EVERY: Duration = Duration::from_secs(600);
/// The home relay is replaced after an outage this long.
const FAILED_AFTER: Duration = Duration::from_secs(5);
/// The pause after a measurement that reached no relay.
const NONE_FOUND: Duration = Duration::from_secs(2);

/// All relay links. The control session provides the map, and reads the home region and its state.
pub(super) struct Relays {
    host: Arc<dyn RelayHost>,
    tls: Tls,
    rate: u32,
    links: Mutex<Links>,
    map: watch::Sender<RelayMap>,
    keys: watch::Sender<NodeKeyPair>,
    home: watch::Sender<Option<RegionId>>,
    home_state: watch::Sender<LinkState>,
    addresses: Addresses,
    sleeps: Sleeps,
}

#[derive(Default)]
struct Links {
    tasks: JoinSet<()>,
    regions: HashMap<RegionId, OpenLink>,
}

struct OpenLink {
    task: AbortHandle,
    servers: watch::Sender<Vec<Server>>,
    state: watch::Receiver<LinkState>,
}

impl Relays {
    pub(super) fn new(
        host: Arc<dyn RelayHost>,
        tls: Tls,
        rate: u32,
        keys: NodeKeyPair,
        addresses: Addresses,
        sleeps: Sleeps,
    ) -> Arc<Self> {
        Arc::new(Self {
            host,
            tls,
            rate,
            links: Mutex::default(),
            map: watch::Sender::default(),
            keys: watch::Sender::new(keys),
            home: watch::Sender::default(),
            home_state: watch::Sender::default(),
            addresses,
            sleeps,
        })
    }

    /// Sets the map from the control server, and ends the links to regions that it does not list.
    pub(super) fn set_map(&self, map: RelayMap) {
        let mut links = self.links();
        links.regions.retain(|id, link| {
            let is_listed = map.0.contains_key(id);
            if !is_listed {
                self.host.remove_link(*id);
                link.task.abort();
            }
            is_listed
        });
        // Otherwise the set keeps the tasks that have ended.
        while links.tasks.try_join_next().is_some() {}
        self.map.send_if_modified(|old| {
            let differs = *old != map;
            *old = map;
            differs
        });
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces our key: all links reconnect to their relays.
    pub(super) fn set_keys(&self, keys: NodeKeyPair) {
        self.keys.send_replace(keys);
    }

    pub(super) fn home(&self) -> watch::Receiver<Option<RegionId>> {
        self.home.subscribe()
    }

    /// Returns the state of the home link.
    pub(super) fn home_state(&self) -> watch::Receiver<LinkState> {
        self.home_state.subscribe()
    }

    /// Returns the short name of a region.
    pub(super) fn code(&self, region: RegionId) -> String {
        let map = self.map.borrow();
        map.0
            .get(&region)
            .map(|region| region.code.clone())
            .filter(|code| !code.is_empty())
            .unwrap_or_else(|| region.to_string())
    }

    /// Opens links to the given regions that are in the map.
    pub(super) fn use_regions(&self, regions: impl IntoIterator<Item = RegionId>) {
        let mut links = self.links();
        let map = self.map.borrow();
        for id in regions {
            let Some(region) = map.0.get(&id) else { continue };
            if let Some(open) = links.regions.get(&id) {
                open.servers.send_if_modified(|servers| {
                    let differs = *servers != region.servers;
                    servers.clone_from(&region.servers);
                    differs
                });
                continue;
            }
            let (queue, waiting) = mpsc::channel(link::QUEUE);
            let servers = watch::Sender::new(region.servers.clone());
            let state = watch::Sender::default();
            let states = state.subscribe();
            let link = Link {
                region: id,
                rate: self.rate,
                tls: self.tls.clone(),
                host: Arc::clone(&self.host),
                servers: servers.subscribe(),
                keys: self.keys.subscribe(),
                home: self.home.subscribe(),
                addresses: self.addresses.clone(),
                moved: None,
                sleeps: self.sleeps.clone(),
                state,
            };
            let open = OpenLink {
                task: links.tasks.spawn(link.run(waiting)),
                servers,
                state: states,
            };
            links.regions.insert(id, open);
            self.host.add_link(id, queue);
        }
    }

    fn state_of(&self, region: RegionId) -> Option<watch::Receiver<LinkState>> {
        let links = self.links();
        links.regions.get(&region).map(|link| link.state.clone())
    }

    /// Chooses the home relay, and again when the map changes, when the relay fails, and periodically.
    pub(super) async fn keep_home(&self) {
        let mut map = self.map.subscribe();
        loop {
            let present = *self.home.borrow();
            let known = map.borrow_and_update().clone();
            let mut measured = home::measure(&known).await;
            if let Some(present) = present
                && self.home_failed()
                && measured.len() > 1
            {
                // The relay accepts connections but does not work.
                measured.remove(&present);
            }
            let chosen = home::choose(&measured, present);
            if let Some(chosen) = chosen {
                self.use_regions([chosen]);
                self.home.send_if_modified(|home| {
                    let moved = *home != Some(chosen);
                    if moved {
                        tracing::info!(region = chosen, "home relay");
                        *home = Some(chosen);
                    }
                    moved
                });
            } else if !known.0.is_empty() {
                self.home_state.send_if_modified(|state| {
                    let was_up = !matches!(state, LinkState::Down { .. });
                    if was_up {
                        *state = LinkState::Down {
                            detail: "no relay answers".to_owned(),
                            since: Instant::now(),
                        };
                    }
                    was_up
                });
                sleep(NONE_FOUND).await;
                continue;
            }
            tokio::select! {
                Ok(()) = map.changed() => {}
                () = self.until_home_fails() => {}
                () = sleep(MEASURE_EVERY) => {}
            }
        }
    }

    fn home_failed(&self) -> bool {
        matches!(&*self.home_state.borrow(), LinkState::Down { since, .. } if since.elapsed() >= FAILED_AFTER)
    }

    /// Returns when the home link has been down for too long.
    async fn until_home_fails(&self) {
        let home = *self.home.borrow();
        let Some(mut state) = home.and_then(|home| self.state_of(home)) else {
            return std::future::pending().await;
        };
        loop {
            let now = state.borrow_and_update().clone();
            self.home_state.send_replace(now.clone());
            let give_up = match now {
                LinkState::Down { since, .. } => Some(since + FAILED_AFTER),
                LinkState::Idle | LinkState::Up => None,
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = async {
                    match give_up {
                        Some(when) if when > Instant::now() => sleep_until(when).await,
                        // It was measured after the failure already: pause before the next measurement.
                        Some(_) => sleep(FAILED_AFTER).await,
                        None => std::future::pending().await,
                    }
                } => return,
            }
        }
    }

    /// Closes all links.
    pub(super) fn close(&self) {
        let mut links = self.links();
        links.regions.clear();
        links.tasks.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::BytesMut;
    use ts_keys::NodePublicKey;

    use super::region::WireMap;
    use super::*;
    use crate::embedded::settings::EmbeddedSettings;
    use crate::embedded::underlay::RelayBatch;

    #[derive(Default)]
    struct Host(Mutex<BTreeMap<RegionId, mpsc::Sender<RelayBatch>>>);

    impl RelayHost for Host {
        fn add_link(&self, region: RegionId, queue: mpsc::Sender<RelayBatch>) {
            self.0.lock().unwrap().insert(region, queue);
        }
        fn remove_link(&self, region: RegionId) {
            self.0.lock().unwrap().remove(&region);
        }
        fn relayed(&self, _packets: Vec<(NodePublicKey, BytesMut)>) {}
        fn connected(&self) {}
    }

    #[tokio::test]
    async fn a_link_ends_when_the_map_does_not_list_its_region() {
        let settings = EmbeddedSettings::new("a", "https://control.invalid".parse().unwrap());
        let host = Arc::new(Host::default());
        let (addresses, sleeps) = (watch::Sender::default(), watch::Sender::default());
        let relays = Relays::new(
            Arc::<Host>::clone(&host),
            Tls::new(&settings).unwrap(),
            0,
            NodeKeyPair::random(),
            addresses.subscribe(),
            sleeps.subscribe(),
        );
        for n in 0..5 {
            let regions = n * 100..n * 100 + 200;
            let listed = regions
                .clone()
                .map(|id| format!(r#""{id}":{{"Nodes":[{{"HostName":"h"}}]}}"#));
            let map = format!(r#"{{"Regions":{{{}}}}}"#, listed.collect::<Vec<_>>().join(","));
            relays.set_map(serde_json::from_str::<WireMap>(&map).unwrap().into());
            relays.use_regions(regions.clone());
            // The aborted tasks end.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let again = relays.map.borrow().clone();
            relays.set_map(again);
            let links = relays.links();
            assert!(host.0.lock().unwrap().keys().copied().eq(regions));
            assert_eq!((links.regions.len(), links.tasks.len()), (200, 200));
        }
    }
}
