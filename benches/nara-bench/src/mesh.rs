//! Shared by the measurements between two naras: signed events, a server, a client.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, Ledger, RetentionPolicy, SqliteLedger};
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_proto::event::{Payload, PingPayload, SeenPayload, SocialPayload, SyncEvent};
use nara_proto::identity::{NaraId, Soul};
use nara_proto::time::UnixNanos;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The number of event emitters.
pub(crate) const EMITTERS: usize = 50;

/// Events are spread over a week, in nanoseconds.
const WEEK: i64 = 604_800 * 1_000_000_000;
const BEGIN: i64 = 1_769_100_000_000_000_000;

/// The naras of a measurement, the same in every process.
pub(crate) struct Naras {
    pub(crate) alice: LocalNara,
    pub(crate) bob: LocalNara,
    emitters: Vec<LocalNara>,
}

impl Naras {
    pub(crate) fn new() -> Result<Self, Error> {
        let nara = |name: String| {
            let mut seed = [0; 32];
            for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
                *byte = of_name;
            }
            Ok::<_, Error>(LocalNara::new(&Soul::bond(seed, &name), name.parse()?)?)
        };
        Ok(Self {
            alice: nara("alice".to_owned())?,
            bob: nara("bob".to_owned())?,
            emitters: (0..EMITTERS)
                .map(|n| nara(format!("nara-{n:03}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns the signed event with this number out of `of`.
    pub(crate) fn event(&self, n: usize, of: usize) -> SyncEvent {
        let emitter = &self.emitters[n % EMITTERS];
        let name = |n: usize| format!("nara-{:03}", n % 500);
        let payload = match n % 10 {
            0..=3 => Payload::Social(SocialPayload {
                kind: "tease".to_owned(),
                actor: emitter.name().to_string(),
                target: name(n / 3),
                reason: "comeback".to_owned(),
                ..SocialPayload::default()
            }),
            4..=6 => Payload::Ping(PingPayload {
                observer: emitter.name().to_string(),
                target: name(n / 5),
                rtt: 12.5 + (n % 100) as f64,
                ..PingPayload::default()
            }),
            _ => Payload::Seen(SeenPayload {
                observer: emitter.name().to_string(),
                subject: name(n / 7),
                via: "zine".to_owned(),
                ..SeenPayload::default()
            }),
        };
        let ts = UnixNanos::new(BEGIN + WEEK / of as i64 * n as i64);
        SyncEvent::signed(ts, payload, emitter.name().as_str(), emitter.keypair())
    }

    /// Signs this many events on all cores, and stores each in the ledgers that shall have it.
    pub(crate) async fn fill(
        self: &Arc<Self>,
        count: usize,
        ledgers: &[(&SqliteLedger, &(dyn Fn(usize) -> bool + Sync))],
    ) -> Result<(), Error> {
        let threads = std::thread::available_parallelism()?.get();
        for first in (0..count).step_by(20_000) {
            let last = count.min(first + 20_000);
            let parts = (0..threads).map(|thread| {
                let naras = self.clone();
                tokio::task::spawn_blocking(move || -> Vec<_> {
                    let numbers = (first + thread..last).step_by(threads);
                    numbers.map(|n| (n, naras.event(n, count))).collect()
                })
            });
            for part in parts.collect::<Vec<_>>() {
                let part = part.await?;
                for (ledger, has) in ledgers {
                    let events = part.iter().filter(|(n, _)| has(*n));
                    ledger
                        .insert_verified(events.map(|(_, event)| event.clone()).collect())
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Starts the server of bob on a free port.
    pub(crate) async fn serve(&self, ledger: Arc<dyn Ledger>) -> Result<RunningServer, Error> {
        let registry = PeerRegistry::default();
        registry.pin(crate::store::configured(&self.alice))?;
        let server = MeshServer::builder(self.bob.clone(), ledger)
            .registry(registry)
            .limits(tireless());
        Ok(server.serve(SocketAddr::from(([127, 0, 0, 1], 0))).await?)
    }

    /// Creates the client of alice, which knows bob's address and all keys.
    pub(crate) fn client(&self, bob: SocketAddr) -> Result<(MeshClient, NaraId), Error> {
        // A deadline must not cut off a slow measurement.
        let client = MeshClient::builder(self.alice.clone())
            .call_timeout(std::time::Duration::from_secs(60))
            .build();
        for nara in self.emitters.iter().chain([&self.bob]) {
            client.registry().pin(crate::store::configured(nara))?;
        }
        client.register_peer(self.bob.id(), bob)?;
        Ok((client, self.bob.id().clone()))
    }
}

/// Returns server limits for a benchmark: one peer at one address sends requests without pause.
pub(crate) fn tireless() -> ServerLimits {
    let mut limits = ServerLimits::default();
    limits.requests_per_address = None;
    limits.requests_per_peer = None;
    limits
}

/// Opens a ledger in a folder that keeps everything.
pub(crate) fn open(folder: &std::path::Path, name: &str) -> Result<SqliteLedger, Error> {
    Ok(SqliteLedger::open(folder.join(name))?.with_retention(RetentionPolicy::UNLIMITED))
}

/// Returns the peak resident memory of this process (Linux: `VmHWM`), in bytes.
pub(crate) fn peak_bytes() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no VmHWM")?;
    Ok(kib.parse::<u64>()? << 10)
}
