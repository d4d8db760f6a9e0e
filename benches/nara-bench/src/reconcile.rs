//! Compares two ledgers over loopback: bytes of the frames, rounds, time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nara_mesh::client::SyncOptions;
use nara_mesh::ledger::{EventStore as _, SqliteLedger, TransferStore as _};
use nara_proto::reconcile::Scope;
use nara_proto::sync::Cursor;
use serde_json::{Value, json};

use crate::mesh::{Error, Naras, open};

/// How long newly filled ledgers may settle.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn measure(events: usize, rounds: usize) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let naras = Arc::new(Naras::new()?);
        let folder = tempfile::tempdir()?;
        let all = Arc::new(open(folder.path(), "all.db")?);
        let open_each = |name: &str| -> Result<Vec<_>, Error> {
            (0..rounds)
                .map(|round| open(folder.path(), &format!("{name}-{round}.db")))
                .collect()
        };
        let (newest, random) = (open_each("newest")?, open_each("random")?);
        // A stride coprime to the number of events is random enough.
        let missing: HashSet<_> = (0..100).map(|n| (n * 7919 + 17) % events).collect();
        type Has<'a> = &'a (dyn Fn(usize) -> bool + Sync);
        let has_newest: Has<'_> = &|n| n + 10 < events;
        let has_random: Has<'_> = &|n| !missing.contains(&n);
        let mut ledgers: Vec<(&SqliteLedger, Has<'_>)> = vec![(&all, &|_| true)];
        ledgers.extend(newest.iter().map(|ledger| (ledger, has_newest)));
        ledgers.extend(random.iter().map(|ledger| (ledger, has_random)));
        naras.fill(events, &ledgers).await?;

        let start = Instant::now();
        all.items(Scope::all()).await?;
        let build_ms = start.elapsed().as_secs_f64() * 1e3;
        for ledger in newest.iter().chain(&random) {
            ledger.items(Scope::all()).await?;
        }
        // Reach the state of a nara that has run for a while: the write-ahead log of the insertions is
        // checkpointed, its memory is freed, and a new log has begun.
        for wait in [SETTLE, Duration::ZERO] {
            for ledger in newest.iter().chain(&random).chain([&*all]) {
                ledger.store_cursor("nobody".to_owned(), Cursor::START).await?;
                ledger.insert_verified(vec![naras.event(0, events)]).await?;
            }
            tokio::time::sleep(wait).await;
        }

        let running = naras.serve(all.clone()).await?;
        let (client, bob) = naras.client(running.local_addr())?;
        let start = Instant::now();
        let check = client.peer(&bob).check_in_sync(&*all, Scope::all()).await?;
        let check_ms = start.elapsed().as_secs_f64() * 1e3;
        if !check.in_sync {
            return Err("equal ledgers are not in sync".into());
        }
        let mut figures = json!({
            "events": events,
            "build_ms": build_ms,
            "equal_bytes": check.bytes_sent + check.bytes_received,
            "equal_rounds": 1,
            "equal_ms": check_ms,
        });
        let client = &client;
        let case = async |ledger: &SqliteLedger, missing: usize| {
            let start = Instant::now();
            let report = client
                .peer(&bob)
                .reconcile(ledger, Scope::all(), SyncOptions::default())
                .await?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            if report.progress.stored != missing || ledger.count().await? != events {
                return Err(format!("{missing} were missing: {report:?}").into());
            }
            Ok::<_, Error>((report, ms))
        };
        for (name, ledgers, count) in [("newest10", &newest, 10), ("random100", &random, missing.len())] {
            let mut times = Vec::new();
            for ledger in ledgers {
                let (report, ms) = case(ledger, count).await?;
                times.push(ms);
                figures[format!("{name}_bytes")] = json!(report.bytes_sent + report.bytes_received);
                figures[format!("{name}_rounds")] = json!(report.rounds);
                figures[format!("{name}_fetch_bytes")] = json!(report.progress.bytes);
            }
            times.sort_by(f64::total_cmp);
            figures[format!("{name}_ms")] = json!(times.get(rounds / 2));
        }
        Ok(figures)
    })
}
