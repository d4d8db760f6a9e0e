//! Runs of cuts, delays, crashes and restarts, each from a seed.
//!
//! `NARA_SOAK_RUNS` is the number of runs, `NARA_SOAK_SEED` the first seed: to repeat a failed run, set it to the seed
//! of that run and the number to 1. `cargo xtask soak` makes many runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{StreamError, SubscribeOptions, Subscription};
use nara_mesh::ledger::{EventStore as _, Insertion, MemoryLedger};
use nara_mesh::server::{RunningServer, ServerLimits};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::{Mesh, address, crash, event, ids, ledger};

const RUNS: u64 = 200;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn with_any_faults_of_a_stream_every_event_arrives_exactly_once() {
    let first = setting("NARA_SOAK_SEED", 1);
    let mut faults = 0;
    for seed in first..first + setting("NARA_SOAK_RUNS", RUNS) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        faults += runtime.block_on(Run::new(seed).run());
    }
    assert!(faults > 0, "the runs had faults");
}

/// One run: bob's ledger grows while faults occur, followed by time to recover.
struct Run {
    seed: u64,
    random: Xoshiro256PlusPlus,
    mesh: Mesh,
    bobs: Arc<MemoryLedger>,
    alices: Arc<MemoryLedger>,
    server: Option<RunningServer>,
    reader: Option<tokio::task::JoinHandle<()>>,
    /// How often each event was stored, in all incarnations of alice.
    stored: Arc<Mutex<BTreeMap<String, usize>>>,
    written: i64,
    faults: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            mesh: Mesh::new(),
            bobs: ledger(),
            alices: ledger(),
            server: None,
            reader: None,
            stored: Arc::default(),
            written: 0,
            faults: 0,
        }
    }

    async fn run(mut self) -> usize {
        let latency = Duration::from_millis(self.random.random_range(0..50));
        self.mesh.network.set_latency(latency);
        self.start_server().await;
        self.start_reader();
        for _ in 0..self.random.random_range(5..25) {
            self.step().await;
            let pause = self.random.random_range(0..2_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.heal().await;
        self.faults
    }

    async fn step(&mut self) {
        match self.random.random_range(0..10) {
            0..=4 => self.write().await,
            5 => self.mesh.network.cut(address(2).ip()),
            6 => {
                // The next connections have another delay, so that old bytes may arrive after new ones.
                let latency = Duration::from_millis(self.random.random_range(0..200));
                self.mesh.network.set_latency(latency);
                self.mesh.network.cut(address(2).ip());
            }
            7 => {
                if let Some(server) = self.server.take() {
                    if self.random.random() {
                        server.shutdown(Duration::from_secs(1)).await;
                    } else {
                        crash(server).await;
                        // A host's open connections end with it.
                        self.mesh.network.cut(address(2).ip());
                    }
                } else {
                    self.start_server().await;
                }
                self.faults += 1;
                return;
            }
            8 => {
                match self.reader.take() {
                    Some(reader) => {
                        reader.abort();
                        self.mesh.network.cut(address(1).ip());
                    }
                    None => self.start_reader(),
                }
                self.faults += 1;
                return;
            }
            _ => {
                self.mesh.network.silence(address(2).ip());
                tokio::time::sleep(Duration::from_millis(self.random.random_range(0..8_000))).await;
                self.mesh.network.restore(address(2).ip());
            }
        }
        self.faults += 1;
    }

    /// Adds events to bob's ledger, out of time order, whether or not his server runs.
    async fn write(&mut self) {
        let count = self.random.random_range(1..20);
        let mut batch = Vec::new();
        for _ in 0..count {
            self.written += 1;
            let early = self.random.random_range(0..2) * 1_000_000;
            batch.push(event(&self.mesh.carol, self.written - early));
        }
        self.bobs.insert_verified(batch).await.unwrap();
    }

    async fn start_server(&mut self) {
        let mut limits = ServerLimits::default();
        // So that a silent network is detected within a run.
        limits.stream_keep_alive = Duration::from_secs(1);
        self.server = Some(self.mesh.serve_with(self.bobs.clone(), limits).await);
    }

    /// Starts a new incarnation of alice, with her ledger only.
    fn start_reader(&mut self) {
        let options = SubscribeOptions::default()
            .oldest()
            .into_ledger(self.alices.clone());
        let events = self.mesh.client().peer(self.mesh.bob.id()).subscribe(options);
        self.reader = Some(tokio::spawn(read(events, self.stored.clone(), self.seed)));
    }

    /// Everything works again: both ledgers become equal.
    async fn heal(&mut self) {
        if self.server.is_none() {
            self.start_server().await;
        }
        if self
            .reader
            .as_ref()
            .is_none_or(tokio::task::JoinHandle::is_finished)
        {
            self.start_reader();
        }
        self.write().await;
        let expected = ids(&*self.bobs).await;
        let equal = async {
            while self.alices.count().await.unwrap() < expected.len() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let healed = tokio::time::timeout(Duration::from_secs(600), equal).await;
        assert!(healed.is_ok(), "seed {}: not equal after ten minutes", self.seed);
        // Time for late events that should not arrive.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(ids(&*self.alices).await, expected, "seed {}", self.seed);
        let stored = self.stored.lock().unwrap();
        assert!(
            stored.values().all(|times| *times == 1),
            "seed {}: stored twice",
            self.seed
        );
        assert!(stored.len() <= expected.len(), "seed {}", self.seed);
        if let Some(reader) = &self.reader {
            assert!(!reader.is_finished(), "seed {}: the reader ended", self.seed);
        }
    }
}

async fn read(mut events: Subscription, stored: Arc<Mutex<BTreeMap<String, usize>>>, seed: u64) {
    let mut last = 0;
    while let Some(item) = events.next().await {
        match item {
            Ok(verified) => {
                assert!(
                    verified.cursor.unwrap().seq > last,
                    "seed {seed}: places rise within a life"
                );
                last = verified.cursor.unwrap().seq;
                if verified.insertion == Some(Insertion::Stored) {
                    *stored.lock().unwrap().entry(verified.event.id).or_default() += 1;
                }
            }
            // Requests that took too long are refused as stale.
            Err(StreamError::Unauthenticated(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}
