//! Fetches a whole ledger from another process into an empty one, over loopback, verifying every event.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use nara_mesh::client::SyncOptions;
use nara_mesh::ledger::EventStore as _;
use nara_proto::sync::EventFilter;
use serde_json::{Value, json};

use crate::mesh::{Error, Naras, open, peak_bytes};

/// Fetches from a server in a child process, so that memory is that of the client alone.
pub(crate) fn measure(events: usize, page_size: usize) -> Result<Value, Error> {
    let mut server = Command::new(std::env::current_exe()?)
        .args(["bulk-serve", "--events", &events.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no stdout")?).lines();
    let address = lines.next().ok_or("the server did not start")??.parse()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let (client, bob) = Naras::new()?.client(address)?;
        let folder = tempfile::tempdir()?;
        let ledger = open(folder.path(), "ledger.db")?;
        let options = SyncOptions::default().page_size(page_size);
        let start = Instant::now();
        let report = client
            .peer(&bob)
            .sync_into(&ledger, EventFilter::default(), options)
            .await?;
        let seconds = start.elapsed().as_secs_f64();
        let done = report.progress;
        let stored = ledger.count().await?;
        if done.verified != events || stored != events {
            return Err(format!("{} verified, {stored} stored of {events}", done.verified).into());
        }
        Ok::<_, Error>(json!({
            "events": events,
            "seconds": seconds,
            "events_per_s": events as f64 / seconds,
            "bytes": done.bytes,
            "pages": done.pages,
            "peak_rss_bytes": peak_bytes()?,
        }))
    });
    drop(server.stdin.take());
    let server_peak: Option<u64> = lines.next().transpose()?.and_then(|line| line.parse().ok());
    server.wait()?;
    let mut figures = figures?;
    figures["server_peak_rss_bytes"] = json!(server_peak);
    Ok(figures)
}

/// Runs the server: prints its address, serves until standard input ends, prints its peak memory.
pub(crate) fn serve(events: usize) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let naras = Arc::new(Naras::new()?);
        let folder = tempfile::tempdir()?;
        let ledger = open(folder.path(), "ledger.db")?;
        naras.fill(events, &[(&ledger, &|_| true)]).await?;
        let running = naras.serve(Arc::new(ledger)).await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", running.local_addr())?;
        stdout.flush()?;
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
        writeln!(stdout, "{}", peak_bytes()?)?;
        Ok(())
    })
}
