//! Comparing two ledgers over loopback: bytes of the frames, rounds, time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use nara_mesh::client::SyncOptions;
use nara_mesh::ledger::{EventStore as _, SqliteLedger};
use nara_proto::reconcile::Scope;
use serde_json::{Value, json};

use crate::mesh::{Error, Naras, open};

pub(crate) fn measure(events: usize) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let naras = Arc::new(Naras::new()?);
        let folder = tempfile::tempdir()?;
        let all = Arc::new(open(folder.path(), "all.db")?);
        let newest = open(folder.path(), "newest.db")?;
        let random = open(folder.path(), "random.db")?;
        // A stride that is prime to the number of events looks random enough.
        let missing: HashSet<_> = (0..100).map(|n| (n * 7919 + 17) % events).collect();
        naras
            .fill(
                events,
                &[
                    (&all, &|_| true),
                    (&newest, &|n| n + 10 < events),
                    (&random, &|n| !missing.contains(&n)),
                ],
            )
            .await?;

        let start = Instant::now();
        all.items(Scope::all()).await?;
        let build_ms = start.elapsed().as_secs_f64() * 1e3;
        newest.items(Scope::all()).await?;
        random.items(Scope::all()).await?;

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
        for (name, ledger, count) in [("newest10", &newest, 10), ("random100", &random, missing.len())] {
            let (report, ms) = case(ledger, count).await?;
            figures[format!("{name}_bytes")] = json!(report.bytes_sent + report.bytes_received);
            figures[format!("{name}_rounds")] = json!(report.rounds);
            figures[format!("{name}_ms")] = json!(ms);
            figures[format!("{name}_fetch_bytes")] = json!(report.progress.bytes);
        }
        Ok(figures)
    })
}
