//! The metrics of a running nara in the Prometheus text format.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{describe_gauge, gauge};
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use nara_local_api::server::serve_bounded;
use nara_mesh::ledger::Ledger;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::{Nara, metrics};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::failure::{Failure, Outcome};
use crate::ledger_file;

/// Histogram bounds in seconds: from a call on one machine to beyond the longest default timeout.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// How often binding an address that no interface has yet is retried.
const ADDRESS_PERIOD: Duration = Duration::from_secs(1);

/// Scrapers are few. More connections must not use up file descriptors of peer connections.
const MAX_CONNECTIONS: usize = 64;

/// How often the recorder does maintenance between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

const BUILD_INFO: &str = "nara_mesh_build_info";
const LEDGER_EVENTS: &str = "nara_mesh_ledger_events";
const LEDGER_FILE: &str = "nara_mesh_ledger_file_bytes";
const LEDGER_WAL: &str = "nara_mesh_ledger_wal_bytes";
const LEDGER_DISK_FREE: &str = "nara_mesh_ledger_disk_free_bytes";
const OWN_KEY_DISPUTES: &str = "nara_mesh_own_key_disputes";

/// The gauges of the program, in addition to those of the library and the process.
const GAUGES: [(&str, &str); 6] = [
    (BUILD_INFO, "1, with the `version` of the program."),
    (LEDGER_EVENTS, "Events stored in the ledger."),
    (LEDGER_FILE, "Size of the database file of the ledger."),
    (
        LEDGER_WAL,
        "Size of the write-ahead log. It is checkpointed from 16 MB on, during bulk insertions from 64 MB on.",
    ),
    (
        LEDGER_DISK_FREE,
        "Bytes that this nara can still write to the file system of its ledger.",
    ),
    (
        OWN_KEY_DISPUTES,
        "Peers that refuse the key of this nara (64 at most), and statements that replace it.",
    ),
];

/// The recorded metrics.
#[derive(Clone)]
pub(super) struct Exposition {
    recorder: PrometheusHandle,
    process: Arc<Collector>,
    measured: Arc<OnceLock<Measured>>,
}

/// The sources of the gauges: a ledger with its file, and a registry.
#[derive(Debug)]
struct Measured {
    ledger: Arc<dyn Ledger>,
    registry: PeerRegistry,
    file: PathBuf,
}

impl Exposition {
    /// Starts recording metrics.
    pub(super) fn start() -> Outcome<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &BUCKETS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| Failure::failed("metrics cannot be recorded").caused_by(error))?;
        metrics::Metric::describe_all();
        let process = Collector::default();
        process.describe();
        for (name, help) in GAUGES {
            describe_gauge!(name, help);
        }
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
        gauge!(OWN_KEY_DISPUTES).set(0);
        tokio::spawn(keep_up(recorder.clone()));
        Ok(Self {
            recorder,
            process: Arc::new(process),
            measured: Arc::default(),
        })
    }

    /// Serves the metrics under `/metrics` until the program exits: at once, or as soon as an interface has
    /// the address. Returns the address.
    pub(super) async fn serve(self, address: SocketAddr) -> Outcome<SocketAddr> {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().map_err(|error| {
                    Failure::failed("the address of the metrics listener is unknown").caused_by(error)
                })?;
                tokio::spawn(self.answer(listener));
                Ok(address)
            }
            // For example the address of a tailnet that is not up yet, perhaps because this nara joins it
            // later.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::warn!(
                    "metrics will be served on {address} once an interface of this machine has the address {}",
                    address.ip()
                );
                tokio::spawn(self.serve_later(address));
                Ok(address)
            }
            Err(error) => Err(Failure::failed(format!("metrics cannot be served on {address}"))
                .caused_by(error)
                .hint("choose another port, or an address of this machine (--metrics)")),
        }
    }

    async fn serve_later(self, address: SocketAddr) {
        loop {
            sleep(ADDRESS_PERIOD).await;
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    tracing::warn!("metrics are now served on {address}");
                    return self.answer(listener).await;
                }
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be served on {address}: choose another port (--metrics)");
                    return;
                }
            }
        }
    }

    async fn answer(self, listener: TcpListener) {
        let page = async move || self.render().await;
        let router = Router::new().route("/metrics", get(page));
        serve_bounded(listener, router, MAX_CONNECTIONS).await;
    }

    /// Renders the metrics in the Prometheus text format.
    pub(super) async fn render(&self) -> String {
        self.process.collect();
        if let Some(measured) = self.measured.get() {
            measured.measure().await;
        }
        self.recorder.render()
    }

    /// Measures a nara, whose ledger database is `file`, from now on.
    pub(super) fn measure(&self, nara: &Nara, file: PathBuf) {
        self.measured.get_or_init(|| Measured {
            ledger: nara.ledger().clone(),
            registry: nara.registry().clone(),
            file,
        });
    }
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    async fn measure(&self) {
        gauge!(OWN_KEY_DISPUTES).set(self.registry.against_own_key().len() as f64);
        // On an error the gauge keeps its value: the ledger counts its errors.
        if let Ok(events) = self.ledger.count().await {
            gauge!(LEDGER_EVENTS).set(events as f64);
        }
        let file = self.file.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let wal = ledger_file::beside(&file, "-wal");
            (size(&file), size(&wal), ledger_file::disk_free(&file))
        });
        let Ok((file, wal, free)) = measured.await else {
            return;
        };
        gauge!(LEDGER_FILE).set(file as f64);
        gauge!(LEDGER_WAL).set(wal as f64);
        if let Some(free) = free {
            gauge!(LEDGER_DISK_FREE).set(free as f64);
        }
    }
}

/// Returns the size of a file; 0 if it is missing.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

async fn keep_up(recorder: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MANUAL: &str = include_str!("../../../../../docs/operate.md");

    /// The names of the process metrics, as in Prometheus client libraries.
    const PROCESS: [&str; 8] = [
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
    ];

    /// The names of all exported series.
    fn exported() -> BTreeSet<String> {
        let mut names: BTreeSet<String> = PROCESS.map(str::to_owned).into();
        names.extend(GAUGES.map(|(name, _)| name.to_owned()));
        for metric in metrics::Metric::ALL {
            names.insert(metric.name.to_owned());
            if metric.kind == metrics::MetricKind::Histogram {
                names.extend(["_bucket", "_count", "_sum"].map(|part| format!("{}{part}", metric.name)));
            }
        }
        names
    }

    /// The metric names in a text: ours, and those of processes.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words
            .filter(|word| word.starts_with("nara_mesh_") || word.starts_with("process_"))
            .collect()
    }

    #[test]
    fn dashboards_and_alerts_use_metrics_that_the_program_exports() {
        let exported = exported();
        for (file, text) in [
            (
                "nara-mesh.json",
                include_str!("../../../../../packaging/grafana/nara-mesh.json"),
            ),
            (
                "alerts.yml",
                include_str!("../../../../../packaging/prometheus/alerts.yml"),
            ),
            (
                "alerts_test.yml",
                include_str!("../../../../../packaging/prometheus/alerts_test.yml"),
            ),
        ] {
            let named = named(text);
            assert!(named.len() > 5, "{file}: {named:?}");
            for name in named {
                assert!(
                    exported.contains(name),
                    "{file} uses {name}, which does not exist"
                );
            }
        }
    }

    #[test]
    fn every_alert_has_a_test_and_a_paragraph_that_says_what_to_do() {
        let alerts = include_str!("../../../../../packaging/prometheus/alerts.yml");
        let tests = include_str!("../../../../../packaging/prometheus/alerts_test.yml");
        let names: Vec<&str> = alerts
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- alert: "))
            .collect();
        assert!(names.len() >= 9, "{names:?}");
        for name in &names {
            let anchor = format!("operate.md#{}", name.to_lowercase());
            assert!(alerts.contains(&anchor), "{name} does not lead to {anchor}");
            assert!(
                tests.contains(&format!("alertname: {name}\n")),
                "{name} has no test"
            );
            let heading = format!("\n#### {name}\n");
            let (_, paragraph) = MANUAL
                .split_once(&heading)
                .unwrap_or_else(|| panic!("no paragraph {name}"));
            let (paragraph, _) = paragraph.split_once("\n#").unwrap_or((paragraph, ""));
            for part in ["**Means**", "**Do**"] {
                assert!(paragraph.contains(part), "{name}: no {part} in {paragraph}");
            }
        }
        let documented = MANUAL
            .lines()
            .filter_map(|line| line.strip_prefix("#### "))
            .filter(|heading| heading.starts_with("NaraMesh"));
        assert_eq!(documented.count(), names.len(), "a paragraph is about no alert");
    }

    #[test]
    fn the_operators_manual_documents_the_metrics_of_the_program() {
        let rows = GAUGES.map(|(name, help)| format!("| `{name}` | gauge | {help} |"));
        for row in rows {
            assert!(MANUAL.contains(&row), "no row {row}");
        }
        for name in PROCESS {
            assert!(MANUAL.contains(&format!("`{name}`")), "{name}");
        }
    }
}
