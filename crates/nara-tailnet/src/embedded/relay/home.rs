//! The choice of the home region, at whose relay peers reach this node.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::client;
use super::region::RelayMap;
use crate::embedded::underlay::RegionId;

/// The timeout of a measurement.
const MEASURE: Duration = Duration::from_secs(4);
/// The maximum number of concurrent measurements.
const AT_ONCE: usize = 16;
/// The latency ratio below which another region becomes home. Every change briefly delays all peers.
const NEARER: f64 = 0.67;

/// Returns the connection time of each region; regions that do not answer are omitted.
pub(super) async fn measure(map: &RelayMap) -> BTreeMap<RegionId, Duration> {
    let mut waiting: Vec<_> = map
        .0
        .iter()
        .filter(|(_, region)| region.may_be_home)
        .map(|(id, region)| (*id, region.servers.clone()))
        .collect();
    let mut running = JoinSet::new();
    let mut measured = BTreeMap::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((id, servers)) = waiting.pop()
        {
            running.spawn(async move {
                for server in &servers {
                    let begin = Instant::now();
                    if let Ok(Ok(_)) = timeout(MEASURE, client::dial(server)).await {
                        return Some((id, begin.elapsed()));
                    }
                }
                None
            });
        }
        match running.join_next().await {
            Some(Ok(Some((id, latency)))) => {
                measured.insert(id, latency);
            }
            Some(_) => {}
            None => return measured,
        }
    }
}

/// Returns the new home region. The present one is kept if it answers and no region is much nearer.
pub(super) fn choose(measured: &BTreeMap<RegionId, Duration>, present: Option<RegionId>) -> Option<RegionId> {
    let (nearest, latency) = measured.iter().min_by_key(|(_, latency)| **latency)?;
    let stays = present
        .and_then(|present| measured.get_key_value(&present))
        .filter(|(_, ours)| latency.as_secs_f64() >= ours.as_secs_f64() * NEARER);
    Some(stays.map_or(*nearest, |(present, _)| *present))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(latencies: &[(RegionId, u64)]) -> BTreeMap<RegionId, Duration> {
        latencies
            .iter()
            .map(|(id, ms)| (*id, Duration::from_millis(*ms)))
            .collect()
    }

    #[test]
    fn the_nearest_region_becomes_home() {
        assert_eq!(choose(&measured(&[(1, 30), (2, 10), (3, 20)]), None), Some(2));
        assert_eq!(choose(&measured(&[]), Some(1)), None);
    }

    #[test]
    fn home_moves_only_for_a_much_nearer_region() {
        assert_eq!(choose(&measured(&[(1, 12), (2, 10)]), Some(1)), Some(1));
        assert_eq!(choose(&measured(&[(1, 30), (2, 10)]), Some(1)), Some(2));
    }

    #[test]
    fn home_moves_when_its_region_does_not_answer() {
        assert_eq!(choose(&measured(&[(2, 90)]), Some(1)), Some(2));
    }
}
