//! Takes the samples of the last hour.

use std::sync::Arc;

use nara_proto::presence::PresenceState;
use tokio_util::sync::CancellationToken;

use super::samples::EVERY;
use super::state::Shared;
use crate::model::{Refusals, Sample};

/// Takes samples while they are requested, until shutdown.
pub(super) async fn sample(shared: Arc<Shared>, stopping: CancellationToken) {
    let sampling = async {
        loop {
            shared.samples.asked().await;
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let (sample, refusals) = now(&shared).await;
                if !shared.samples.add(sample, refusals) {
                    break;
                }
            }
        }
    };
    tokio::select! {
        () = sampling => {}
        () = stopping.cancelled() => {}
    }
}

async fn now(shared: &Shared) -> (Sample, Vec<Refusals>) {
    let metrics = shared.host.metrics().await.map(|text| Metrics::read(&text));
    let nara = &shared.nara;
    let peers = nara.registry().peers();
    let online = peers
        .iter()
        .filter(|peer| peer.presence() == PresenceState::Online);
    let total = |name: &str| metrics.as_ref()?.total(name);
    let sample = Sample {
        at_ms: nara.client().clock().now_millis().get(),
        peers: peers.len() as u64,
        online: online.count() as u64,
        // A ledger that fails counts its errors, and the doctor reports them.
        events: nara.ledger().count().await.map_or(0, |events| events as u64),
        ledger_bytes: total("nara_mesh_ledger_file_bytes"),
        requests: total("nara_mesh_requests_total"),
        refused: total("nara_mesh_requests_refused_total"),
        calls: total("nara_mesh_calls_total"),
        failed_calls: metrics.as_ref().map(|metrics| metrics.failed_calls),
        replay_entries: total("nara_mesh_replay_cache_entries"),
        memory_bytes: total("process_resident_memory_bytes"),
    };
    (
        sample,
        metrics.map(|metrics| metrics.refusals).unwrap_or_default(),
    )
}

/// The metrics that samples contain.
#[derive(Debug, Default)]
struct Metrics {
    totals: Vec<(&'static str, u64)>,
    failed_calls: u64,
    refusals: Vec<Refusals>,
}

/// Metrics that are summed over all labels.
const SUMMED: [&str; 6] = [
    "nara_mesh_calls_total",
    "nara_mesh_ledger_file_bytes",
    "nara_mesh_replay_cache_entries",
    "nara_mesh_requests_refused_total",
    "nara_mesh_requests_total",
    "process_resident_memory_bytes",
];

impl Metrics {
    /// Parses the Prometheus text format.
    fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let Some(name) = SUMMED.iter().find(|known| **known == name) else {
                continue;
            };
            let value = whole(value);
            match metrics.totals.iter_mut().find(|(known, _)| known == name) {
                Some((_, total)) => *total = total.saturating_add(value),
                None => metrics.totals.push((name, value)),
            }
            match *name {
                "nara_mesh_calls_total" if label(labels, "outcome") != Some("ok") => {
                    metrics.failed_calls = metrics.failed_calls.saturating_add(value);
                }
                "nara_mesh_requests_refused_total" if value > 0 => {
                    let reason = label(labels, "reason").unwrap_or("other").to_owned();
                    metrics.refusals.push(Refusals { reason, count: value });
                }
                _ => {}
            }
        }
        metrics.refusals.sort_by(|one, other| {
            let by_count = other.count.cmp(&one.count);
            by_count.then_with(|| one.reason.cmp(&other.reason))
        });
        metrics
    }

    fn total(&self, name: &str) -> Option<u64> {
        let found = self.totals.iter().find(|(known, _)| *known == name);
        found.map(|(_, total)| *total)
    }
}

/// Returns the value of a label; our label values contain no quotes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut labels = labels.trim_end_matches('}').split(',');
    labels.find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count below 2^53"
)]
fn whole(value: &str) -> u64 {
    value.parse::<f64>().map_or(0, |value| value.max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_up_over_their_labels() {
        let text = "# TYPE nara_mesh_calls_total counter\n\
                    nara_mesh_calls_total{endpoint=\"/ping\",outcome=\"ok\"} 3\n\
                    nara_mesh_calls_total{endpoint=\"/dm\",outcome=\"timeout\"} 2\n\
                    nara_mesh_requests_refused_total{reason=\"stale\"} 1\n\
                    nara_mesh_requests_refused_total{reason=\"replayed\"} 4\n\
                    nara_mesh_requests_refused_total{reason=\"untrusted\"} 0\n\
                    process_resident_memory_bytes 1.5e7\n\
                    other 7\nnonsense\n";
        let metrics = Metrics::read(text);
        assert_eq!(metrics.total("nara_mesh_calls_total"), Some(5));
        assert_eq!(metrics.failed_calls, 2);
        assert_eq!(metrics.total("process_resident_memory_bytes"), Some(15_000_000));
        assert_eq!(metrics.total("nara_mesh_requests_total"), None);
        let reasons: Vec<_> = metrics
            .refusals
            .iter()
            .map(|refusals| (&*refusals.reason, refusals.count))
            .collect();
        assert_eq!(reasons, [("replayed", 4), ("stale", 1)]);
    }
}
