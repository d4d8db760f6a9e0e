use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use nara_mesh::client::MeshClient;
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport};
use nara_proto::identity::NaraId;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::nara::{Mesh, PATIENCE};
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

/// Calls until the peer counts as down: one if it cannot be dialled, three if it takes connections and then
/// says nothing; a few more if the machine is so busy that the pause of the breaker passes between two calls.
const MOST_CALLS: usize = 12;

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let transport = Arc::new(CountingTransport::default());
    let client = MeshClient::builder(alice.local.clone())
        .registry(alice.client.registry().clone())
        .transport(transport.clone())
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
    let patient = client.with_timeout(PATIENCE);
    let meanwhile = async {
        tokio::time::sleep(DIAL_LIMIT / 4).await;
        let start = Instant::now();
        (patient.ping(bob.local.id()).await, start.elapsed())
    };
    let ((silent_first, gave_up), (other, other_took)) = tokio::join!(first, meanwhile);
    let known_down = until_known_down(&client, &silent, &transport).await;
    let start = Instant::now();
    let refused = patient.ping(&closed).await;
    let refused_took = start.elapsed();
    for id in [&silent, &closed] {
        client.registry().unregister(id);
    }
    // What happened decides; how long it took is for the reader, since a busy machine may take any time.
    let failed_fast = silent_first.as_ref().is_err_and(|error| error.is_timeout());
    let ok = failed_fast
        && known_down.is_some()
        && other.is_ok()
        && refused.is_err_and(|error| error.is_unreachable());
    let KnownDown {
        calls,
        took: instantly,
    } = known_down.unwrap_or_default();
    let mut lines = vec![format!("silent peer    given up after {}", human(gave_up))];
    if let Err(error) = &silent_first {
        let text = error.to_string();
        lines.extend(text.split("; ").map(|part| format!("               {part}")));
    }
    lines.push(format!(
        "               call {calls} failed after {}, without dialling: the peer is down",
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

/// A peer that is known to be down.
#[derive(Clone, Copy, Debug, Default)]
struct KnownDown {
    /// The first call that failed because of that.
    calls: usize,
    /// How long such a call takes: the quickest of a few, since the others may have waited for a core.
    took: Duration,
}

/// Calls a peer, which was called once, until it is known to be down: its breaker is open, and nothing is
/// dialled.
async fn until_known_down(
    client: &MeshClient,
    peer: &NaraId,
    transport: &CountingTransport,
) -> Option<KnownDown> {
    const FEW: usize = 5;
    let mut known_down: Option<KnownDown> = None;
    let mut more = FEW;
    for calls in 2..=MOST_CALLS {
        let dials = transport.dials();
        let start = Instant::now();
        let outcome = client.ping(peer).await;
        let took = start.elapsed();
        if outcome.is_err_and(|error| error.is_circuit_open()) && transport.dials() == dials {
            let first = known_down.get_or_insert(KnownDown { calls, took });
            first.took = first.took.min(took);
            more -= 1;
        }
        if more == 0 {
            break;
        }
    }
    known_down
}

/// Counts how often it dials.
#[derive(Debug, Default)]
struct CountingTransport {
    tcp: TcpTransport,
    dials: AtomicUsize,
}

impl CountingTransport {
    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

impl Transport for CountingTransport {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        self.tcp.dial(peer)
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        self.tcp.listen(local)
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
        tls: None,
    };
    client.registry().register(entry.to_info())?;
    Ok(id)
}

async fn closed_port() -> io::Result<SocketAddr> {
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
    async fn open() -> io::Result<Self> {
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
