//! The metrics of a running nara, for Prometheus and whatever reads its format.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use nara_mesh::metrics;
use tokio::net::TcpListener;

use crate::failure::{Failure, Outcome};

/// The bounds of the ranges into which durations are counted, in seconds: from a call on one machine to the longest
/// that a call may take by default, and beyond.
const BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// How often the recorder tidies up what it has not been asked for.
const UPKEEP: Duration = Duration::from_secs(5);

/// Records metrics from now on.
pub(super) fn record() -> Outcome<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::failed("metrics cannot be recorded").caused_by(error))?;
    metrics::describe();
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(recorder)
}

/// Serves metrics under `/metrics` until the program ends. Returns the address.
pub(super) async fn serve(address: SocketAddr, recorder: PrometheusHandle) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::failed(format!("metrics cannot be served on {address}"))
            .caused_by(error)
            .hint("choose another port, or an address of this machine (--metrics)")
    })?;
    let bound = listener.local_addr().map_err(|error| {
        Failure::failed("the address of the metrics listener is unknown").caused_by(error)
    })?;
    let router = Router::new().route("/metrics", get(async move || recorder.render()));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics listener failed");
        }
    });
    Ok(bound)
}
