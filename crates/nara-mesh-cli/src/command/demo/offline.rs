use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nara_mesh::client::MeshClient;
use nara_proto::identity::NaraId;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::nara::Mesh;
use super::step::{Report, Step, StepResult, or_failed};
use crate::connect::new_soul;
use crate::peers_file::PeerEntry;
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "offline",
    title: "a silent peer costs one limit for dialling (here 1 s), then no time; nobody else waits",
};

/// The limit for dialling in this step.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// A known-down peer must be answered for faster than this.
const INSTANT: Duration = Duration::from_millis(1);

/// Calls until the peer counts as down: one if it cannot be dialled, three if it takes connections and then
/// says nothing.
const MOST_CALLS: usize = 4;

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let client = MeshClient::builder(alice.local.clone())
        .registry(alice.client.registry().clone())
        .dial_timeout(DIAL_LIMIT)
        .call_timeout(DIAL_LIMIT)
        .build();
    let hole = BlackHole::open().await?;
    let silent = stranger(&client, "silent", hole.address)?;
    let closed = stranger(&client, "closed", closed_port().await?)?;

    // While alice waits for the silent peer, she talks to bob.
    let first = async {
        let start = Instant::now();
        (client.ping(&silent).await, start.elapsed())
    };
    let meanwhile = async {
        tokio::time::sleep(DIAL_LIMIT / 4).await;
        let start = Instant::now();
        (client.ping(bob.local.id()).await, start.elapsed())
    };
    let ((silent_first, gave_up), (other, other_took)) = tokio::join!(first, meanwhile);
    let (calls, down, instantly) = until_known_down(&client, &silent).await;
    let start = Instant::now();
    let refused = client.ping(&closed).await;
    let refused_took = start.elapsed();
    for id in [&silent, &closed] {
        client.registry().unregister(id);
    }
    let failed_fast = silent_first
        .as_ref()
        .is_err_and(|error| error.is_timeout() || error.is_unreachable())
        && gave_up < DIAL_LIMIT * 2;
    let ok = failed_fast
        && down
        && instantly < INSTANT
        && other.is_ok()
        && other_took < DIAL_LIMIT
        && refused.is_err_and(|error| error.is_unreachable());
    let mut lines = vec![format!("silent peer    given up after {}", human(gave_up))];
    if let Err(error) = &silent_first {
        let text = error.to_string();
        lines.extend(text.split("; ").map(|part| format!("               {part}")));
    }
    lines.push(format!(
        "               call {calls} failed after {}: known to be down",
        human(instantly)
    ));
    lines.push(format!("closed port    refused after {}", human(refused_took)));
    lines.push(format!("meanwhile      bob answered after {}", human(other_took)));
    drop(hole);
    let summary = format!(
        "given up after {}, then failed after {}",
        human(gave_up),
        human(instantly)
    );
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("first_failure_us", micros(gave_up))
        .figure(
            "known_down_failure_ns",
            u64::try_from(instantly.as_nanos()).unwrap_or(u64::MAX),
        )
        .figure("calls_until_known_down", calls)
        .figure("refused_us", micros(refused_took))
        .figure("other_peer_us", micros(other_took)))
}

/// Calls a peer until it is known to be down: how many calls that took with the one before, whether it came
/// to that, and how long a call takes then. The quickest of a few: the others may have waited for a core.
async fn until_known_down(client: &MeshClient, peer: &NaraId) -> (usize, bool, Duration) {
    const FEW: usize = 5;
    let mut calls = 1;
    loop {
        calls += 1;
        let mut quickest = Duration::MAX;
        let mut down = true;
        for _ in 0..FEW {
            let start = Instant::now();
            let outcome = client.ping(peer).await;
            quickest = quickest.min(start.elapsed());
            down = outcome.is_err_and(|error| error.is_circuit_open());
            if !down {
                break;
            }
        }
        if down || calls > MOST_CALLS {
            return (calls, down, quickest);
        }
    }
}

fn stranger(
    client: &MeshClient,
    name: &str,
    address: SocketAddr,
) -> Result<NaraId, Box<dyn std::error::Error + Send + Sync>> {
    let soul = new_soul(&name.parse()?).map_err(|failure| failure.message)?;
    let id = NaraId::derive(&soul, name);
    let entry = PeerEntry {
        name: name.parse()?,
        id: Some(id.clone()),
        address: Some(address),
        key: None,
    };
    client.registry().register(entry.to_info())?;
    Ok(id)
}

async fn closed_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

/// An address from which nothing comes back, as from a machine that lost power: the queue of a listener that
/// accepts nobody is filled up, so that the operating system drops what comes then.
struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn open() -> std::io::Result<Self> {
        /// More than any queue of length 1 takes.
        const MOST_QUEUED: usize = 8;
        const DROPPED_AFTER: Duration = Duration::from_millis(100);

        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut queued = Vec::new();
        while queued.len() < MOST_QUEUED {
            match tokio::time::timeout(DROPPED_AFTER, TcpStream::connect(address)).await {
                Ok(stream) => queued.push(stream?),
                Err(_) => break,
            }
        }
        Ok(Self {
            address,
            _listener: listener,
            _queued: queued,
        })
    }
}
