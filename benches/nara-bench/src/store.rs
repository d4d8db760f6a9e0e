//! Ledger pages, registry lookups and the replay cache.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, ReadLimit, RetentionPolicy, SqliteLedger};
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey};
use nara_proto::event::{Payload, SeenPayload, SocialPayload, SyncEvent};
use nara_proto::identity::{KeyPair, NaraId, Soul};
use nara_proto::replay::ReplayCache;
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::RequestAuth;
use serde_json::{Value, json};

const PAGE: usize = 1000;
const SMALL_LEDGER: usize = 10_000;

pub(crate) fn measure(large: usize) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (small_us, _) = runtime.block_on(ledger(SMALL_LEDGER))?;
    let (large_us, insert_per_s) = runtime.block_on(ledger(large))?;
    let _guard = runtime.enter();
    let (lookup_small_ns, _) = registry(10)?;
    let (lookup_large_ns, bytes_per_peer) = registry(100_000)?;
    Ok(json!({
        "ledger_small_events": SMALL_LEDGER,
        "ledger_large_events": large,
        "ledger_page_small_us": small_us,
        "ledger_page_large_us": large_us,
        "ledger_insert_per_s": insert_per_s,
        "registry_lookup_10_ns": lookup_small_ns,
        "registry_lookup_100000_ns": lookup_large_ns,
        "registry_bytes_per_peer": bytes_per_peer,
        "replay_insert_ns": replay(100_000)?,
    }))
}

/// Measures a page from the middle of a ledger of `len` events, in microseconds, and insertions per second.
async fn ledger(len: usize) -> Result<(f64, f64), Box<dyn std::error::Error + Send + Sync>> {
    let folder = tempfile::tempdir()?;
    let ledger =
        SqliteLedger::open(folder.path().join("ledger.db"))?.with_retention(RetentionPolicy::UNLIMITED);
    let start = Instant::now();
    for first in (0..len).step_by(5000) {
        ledger
            .insert_verified((first..len.min(first + 5000)).map(event).collect())
            .await?;
    }
    let insert_per_s = len as f64 / start.elapsed().as_secs_f64();

    let middle = Cursor::after_time(UnixNanos::new(1 + len as i64 / 2));
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        let page = ledger
            .page(EventFilter::default(), middle.clone(), ReadLimit::events(PAGE))
            .await?;
        best = best.min(start.elapsed());
        assert_eq!(page.len(), PAGE, "a page from the middle is full");
    }
    Ok((best.as_secs_f64() * 1e6, insert_per_s))
}

/// Creates a ledger of `len` events in a file.
pub(crate) fn fill(len: usize, file: &Path) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    if file.exists() {
        return Err(format!("{} exists", file.display()).into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = SqliteLedger::open(file)?.with_retention(RetentionPolicy::UNLIMITED);
        for first in (0..len).step_by(5000) {
            let events = (first..len.min(first + 5000)).map(event);
            ledger.insert_verified(events.collect()).await?;
        }
        Ok(json!({ "events": ledger.count().await? }))
    })
}

fn event(n: usize) -> SyncEvent {
    let name = |n: usize| format!("nara-{:03}", n % 500);
    let payload = if n.is_multiple_of(2) {
        Payload::Seen(SeenPayload {
            observer: name(n),
            subject: name(n / 7),
            via: "zine".to_owned(),
            ..SeenPayload::default()
        })
    } else {
        Payload::Social(SocialPayload {
            kind: "tease".to_owned(),
            actor: name(n),
            target: name(n / 3),
            reason: "comeback".to_owned(),
            ..SocialPayload::default()
        })
    };
    SyncEvent::new(UnixNanos::new(1 + n as i64), payload)
}

/// Measures a lookup by id among `len` peers, in nanoseconds, and the resident memory per peer.
fn registry(len: u32) -> Result<(f64, f64), Box<dyn std::error::Error + Send + Sync>> {
    let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "bench"));
    let ids: Vec<NaraId> = (0..len)
        .map(|n| NaraId::derive(&Soul::bond([0; 32], "x"), &n.to_string()))
        .collect();
    let before = resident_bytes()?;
    let registry = PeerRegistry::default();
    for (n, id) in ids.iter().enumerate() {
        let name: nara_proto::identity::NaraName = format!("nara-{n}").parse()?;
        let ip = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + u32::try_from(n)?);
        registry.register(PeerInfo {
            id: Some(id.clone()),
            name: Some(name.clone()),
            address: Some(SocketAddr::from((ip, 9632))),
            key: Some(PinnedKey {
                name,
                id: Some(id.clone()),
                key: keypair.public_key(),
                source: KeySource::Configured,
                learned_at: UnixMillis::new(0),
            }),
            ..PeerInfo::default()
        })?;
    }
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / f64::from(len);

    const LOOKUPS: usize = 1_000_000;
    let start = Instant::now();
    for n in 0..LOOKUPS {
        // A prime stride visits the peers in an order that caches cannot predict.
        let id = &ids[n * 7919 % ids.len()];
        black_box(registry.by_id(black_box(id)));
    }
    Ok((start.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64, bytes))
}

/// Returns the key of a nara as a configured one.
pub(crate) fn configured(nara: &LocalNara) -> PinnedKey {
    PinnedKey {
        name: nara.name().clone(),
        id: Some(nara.id().clone()),
        key: nara.public_key(),
        source: KeySource::Configured,
        learned_at: UnixMillis::new(0),
    }
}

/// Returns the resident memory of this process (Linux: second field of `/proc/self/statm`, in pages of 4
/// KiB).
pub(crate) fn resident_bytes() -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .ok_or("statm has no second field")?
        .parse()?;
    Ok(pages * 4096)
}

/// Measures an insertion into a replay cache of up to `len` requests, in nanoseconds.
fn replay(len: i64) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "bench"));
    let name = "bench".parse()?;
    let now = UnixMillis::new(1_769_100_000_000);
    let requests: Vec<_> = (0..len)
        .map(|n| {
            RequestAuth::sign(
                &keypair,
                &name,
                UnixMillis::new(now.get() + n / 4),
                &n.to_string(),
                "/dm",
            )
        })
        .collect();
    let mut cache = ReplayCache::new(usize::try_from(len)?);
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let start = Instant::now();
    for request in &requests {
        cache.insert(request, source, now)?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / len as f64)
}
