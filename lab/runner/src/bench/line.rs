//! The measurements of a client over an emulated line, equivalent to `lab/go/peer/line.go`.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use nara_tailnet::MeshNode;
use nara_tailnet::status::PathKind;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::http::{Client, percentile};

/// The number of connections with concurrent requests.
const CONNECTIONS: usize = 4;
/// The duration of the concurrent requests.
const REQUESTS: Duration = Duration::from_secs(8);
/// The number of concurrent transfers, with requests beside them.
const TRANSFERS: usize = 8;
/// The timeout for a direct path.
const SEARCH: Duration = Duration::from_secs(10);
/// The timeout of a blob.
const TRANSFER: Duration = Duration::from_secs(45);

/// The measurements over one line. `None` stands for a timeout.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LineFigures {
    pub(crate) first_ms: f64,
    pub(crate) direct_ms: Option<f64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) down_mb_s: Option<f64>,
    pub(crate) up_mb_s: Option<f64>,
    pub(crate) together_mb_s: Option<f64>,
    pub(crate) beside_p50_ms: f64,
    pub(crate) beside_p99_ms: f64,
}

/// Sends requests, transfers a blob of this size in each direction, and downloads as much in concurrent parts.
pub(super) async fn measure(
    node: &dyn MeshNode,
    address: SocketAddr,
    blob: usize,
) -> Result<LineFigures, String> {
    let begin = Instant::now();
    let mut client = Client::connect(node, address).await?;
    client.message().await?;
    let first_ms = millis(begin.elapsed());
    let mut direct_ms = None;
    while begin.elapsed() < SEARCH {
        if let PathKind::Direct { .. } = node.path_to(address.ip()).await {
            direct_ms = Some(millis(begin.elapsed()));
            break;
        }
        client.message().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let connections = (0..CONNECTIONS).map(|_| requests(node, address));
    let mut taken = try_join_all(connections).await?.concat();
    taken.sort_unstable();
    let down_mb_s = timeout(TRANSFER, client.download(blob)).await;
    if down_mb_s.is_err() {
        // The rest of the blob blocks that connection.
        client = Client::connect(node, address).await?;
    }
    let up_mb_s = timeout(TRANSFER, client.upload(blob)).await;
    let (together_mb_s, mut beside) = together(node, address, blob).await?;
    beside.sort_unstable();
    Ok(LineFigures {
        first_ms,
        direct_ms,
        p50_ms: millis(percentile(&taken, 50)),
        p99_ms: millis(percentile(&taken, 99)),
        down_mb_s: down_mb_s.ok().transpose()?,
        up_mb_s: up_mb_s.ok().transpose()?,
        together_mb_s,
        beside_p50_ms: millis(percentile(&beside, 50)),
        beside_p99_ms: millis(percentile(&beside, 99)),
    })
}

/// Returns the total rate of concurrent transfers, and the latencies of requests beside them.
async fn together(
    node: &dyn MeshNode,
    address: SocketAddr,
    blob: usize,
) -> Result<(Option<f64>, Vec<Duration>), String> {
    let mut clients = try_join_all((0..TRANSFERS).map(|_| Client::connect(node, address))).await?;
    let mut asking = Client::connect(node, address).await?;
    let mut taken = Vec::new();
    let begin = Instant::now();
    let transfers = clients.iter_mut().map(|client| client.download(blob / TRANSFERS));
    let mut transfers = pin!(timeout(TRANSFER, try_join_all(transfers)));
    let done = loop {
        let one = Instant::now();
        tokio::select! {
            done = &mut transfers => break done,
            answered = asking.message() => {
                answered?;
                taken.push(one.elapsed());
            }
        }
    };
    let took = begin.elapsed().as_secs_f64();
    let rate = done.ok().transpose()?.map(|_| blob as f64 / 1e6 / took);
    Ok((rate, taken))
}

/// Returns the latencies of sequential requests on one connection.
async fn requests(node: &dyn MeshNode, address: SocketAddr) -> Result<Vec<Duration>, String> {
    let mut client = Client::connect(node, address).await?;
    client.message().await?;
    let mut taken = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < REQUESTS {
        let one = Instant::now();
        client.message().await?;
        taken.push(one.elapsed());
    }
    Ok(taken)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
