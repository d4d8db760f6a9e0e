//! Live streams over loopback: the latency from appending an event to its delivery, and the cost of a
//! subscriber.
//!
//! The subscribers run in another process, so that memory is that of the server alone. Verifying every event
//! at each of 1,000 subscribers would mostly measure the shared machine, so some verify, as library
//! subscribers do, and the others only count. The ledger is SQLite: an append is a committed transaction.

mod raw;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nara_mesh::client::{StreamState, SubscribeOptions};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{EventStore as _, Ledger};
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::MeshServer;
use nara_proto::event::{EventTrust, Payload, SocialPayload, SyncEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::mesh::{Error, Naras, open};
use crate::resources::Resources;

/// Events per second.
const RATE: u32 = 100;

/// Ticks per second in which Linux reports CPU time in `/proc`.
const TICKS: u32 = 100;

/// The parameters.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) subscribers: usize,
    pub(crate) verifying: usize,
    /// Events at [`RATE`].
    pub(crate) paced: usize,
    /// Events at full speed.
    pub(crate) burst: usize,
}

/// Measures one subscriber, and many.
pub(crate) fn measure(plan: &Plan) -> Result<Value, Error> {
    let one = run(&Plan {
        subscribers: 1,
        verifying: 1,
        ..*plan
    })?;
    let many = run(plan)?;
    Ok(json!({
        "one": one,
        "many": many,
        "stream_p50_ms_1": one["verified_p50_ms"],
        "stream_p99_ms_1": one["verified_p99_ms"],
        "stream_p50_ms": many["verified_p50_ms"],
        "stream_p99_ms": many["verified_p99_ms"],
        "stream_raw_p99_ms": many["raw_p99_ms"],
        "stream_deliveries_per_s": many["deliveries_per_s"],
        "stream_bytes_per_subscriber": many["bytes_per_subscriber"],
        "stream_server_us_per_delivery": many["server_us_per_delivery"],
        "stream_readers_us_per_delivery": many["readers_us_per_delivery"],
        "stream_processors_to_spare": many["processors_to_spare"],
    }))
}

fn run(plan: &Plan) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(plan))
}

async fn serve(plan: &Plan) -> Result<Value, Error> {
    let naras = Naras::new()?;
    let folder = tempfile::tempdir()?;
    let ledger = Arc::new(open(folder.path(), "ledger.db")?);
    let registry = PeerRegistry::default();
    registry.pin(crate::store::configured(&naras.alice))?;
    let mut limits = crate::mesh::tireless();
    limits.connections_per_address = usize::MAX;
    limits.streams_per_peer = usize::MAX;
    // All of them connect at once.
    limits.requests_in_flight = 4 * plan.subscribers.max(256);
    limits.requests_in_flight_per_peer = limits.requests_in_flight;
    let running = MeshServer::builder(naras.bob.clone(), ledger.clone())
        .registry(registry)
        .limits(limits)
        .serve(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await?;

    // One subscriber and some events beforehand, to allocate what all subscribers share.
    let mut warm_up = Readers::start(running.local_addr(), 1, 1, RATE as usize, 0)?;
    append(&naras, &*ledger, RATE as usize).await?;
    warm_up.result()?;
    let before = crate::store::resident_bytes()?;

    let mut readers = Readers::start(
        running.local_addr(),
        plan.subscribers,
        plan.verifying,
        plan.paced,
        plan.burst,
    )?;
    let (of_server, of_readers) = (Resources::now(), readers.processor()?);
    let began = Instant::now();
    let appended = append(&naras, &*ledger, plan.paced).await?;
    let seconds = began.elapsed().as_secs_f64();
    // Deliveries still in flight cost little of this.
    let server = of_server.processor_since().as_secs_f64();
    let reading = (readers.processor()? - of_readers).as_secs_f64();
    let after = crate::store::resident_bytes()?;
    // The paced events have arrived long before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in (0..plan.burst).step_by(10) {
        let events = (0..10).map(|_| event(&naras)).collect();
        ledger.insert_verified(events).await?;
    }
    let mut figures = readers.result()?;
    figures["subscribers"] = json!(plan.subscribers);
    figures["verifying"] = json!(plan.verifying);
    figures["bytes_per_subscriber"] = json!(after.saturating_sub(before) as f64 / plan.subscribers as f64);
    let us = |seconds: f64| seconds * 1e6 / (plan.paced * plan.subscribers) as f64;
    figures["append_p99_ms"] = json!(appended.value_at_quantile(0.99) as f64 / 1e3);
    figures["server_us_per_delivery"] = json!(us(server));
    figures["readers_us_per_delivery"] = json!(us(reading));
    let processors = std::thread::available_parallelism()?.get() as f64;
    figures["processors_to_spare"] = json!(processors - (server + reading) / seconds);
    running.shutdown(Duration::from_secs(1)).await;
    Ok(figures)
}

/// Appends events at the rate. Returns the duration of each append, in microseconds.
async fn append(naras: &Naras, ledger: &dyn Ledger, count: usize) -> Result<Histogram<u64>, Error> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut taken = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    for _ in 0..count {
        ticks.tick().await;
        let began = Instant::now();
        ledger.insert_verified(vec![event(naras)]).await?;
        taken.saturating_record(u64::try_from(began.elapsed().as_micros())?.max(1));
    }
    Ok(taken)
}

/// Returns a signed event with the current time.
fn event(naras: &Naras) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: naras.bob.name().to_string(),
        target: naras.alice.name().to_string(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    let now = SystemClock.now_nanos();
    SyncEvent::signed(
        now,
        Payload::Social(payload),
        naras.bob.name().as_str(),
        naras.bob.keypair(),
    )
}

/// The subscriber process.
struct Readers {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Readers {
    /// Starts the process, and waits until every stream is open.
    fn start(
        address: SocketAddr,
        subscribers: usize,
        verifying: usize,
        paced: usize,
        burst: usize,
    ) -> Result<Self, Error> {
        let numbers = [subscribers, verifying, paced, burst].map(|number| number.to_string());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["stream-read", "--address", &address.to_string()])
            .args(["--subscribers", &numbers[0], "--verifying", &numbers[1]])
            .args(["--paced", &numbers[2], "--burst", &numbers[3]])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        match lines.next() {
            Some(Ok(line)) if line == "ready" => Ok(Self { child, lines }),
            other => Err(format!("the subscribers did not start: {other:?}").into()),
        }
    }

    /// Returns the CPU time that the process has used, to a hundredth of a second.
    fn processor(&self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("no name in stat")?;
        let mut times = fields.split(' ').skip(11);
        let mut next = || Ok::<u64, Error>(times.next().ok_or("stat is short")?.parse()?);
        let ticks = next()? + next()?;
        Ok(Duration::from_secs(ticks) / TICKS)
    }

    fn result(&mut self) -> Result<Value, Error> {
        let line = self.lines.next().ok_or("the subscribers ended early")??;
        self.child.wait()?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Runs the subscriber process: prints `ready` when all streams are open, and the results at the end.
pub(crate) fn read(address: SocketAddr, plan: &Plan) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let naras = Arc::new(Naras::new()?);
        let (client, bob) = naras.client(address)?;
        let (ready, mut readies) = mpsc::unbounded_channel::<()>();
        let mut verifying = Vec::new();
        for _ in 0..plan.verifying {
            let mut events = client.peer(&bob).subscribe(SubscribeOptions::default());
            let (ready, plan) = (ready.clone(), *plan);
            verifying.push(tokio::spawn(async move {
                events
                    .state()
                    .wait_for(|state| *state == StreamState::Live)
                    .await?;
                let _ = ready.send(());
                let mut measured = Measured::new(&plan)?;
                let mut seen = 0;
                while !measured.is_complete(seen) {
                    let next = futures_util::StreamExt::next(&mut events).await;
                    let verified = next.ok_or("the subscription ended")??;
                    if verified.trust != EventTrust::Verified {
                        return Err(Error::from("an event was not verified"));
                    }
                    seen += 1;
                    measured.take(seen, verified.event.ts.get());
                }
                Ok::<_, Error>(measured)
            }));
        }
        let raw = tokio::task::spawn_blocking({
            let (naras, ready, plan) = (naras.clone(), ready.clone(), *plan);
            move || raw::read(address, &naras, plan.subscribers - plan.verifying, &plan, &ready)
        });
        drop(ready);
        for _ in 0..plan.subscribers {
            readies.recv().await.ok_or("a subscriber failed")?;
        }
        writeln!(std::io::stdout(), "ready")?;

        let mut of_verifying = Measured::new(plan)?;
        for subscriber in verifying {
            of_verifying.add(&subscriber.await??)?;
        }
        let (of_raw, means) = raw.await??;
        let began = of_verifying.burst_began.min(of_raw.burst_began);
        let ended = of_verifying.burst_ended.max(of_raw.burst_ended);
        let seconds = ended.saturating_sub(began) as f64 / 1e9;
        let ms = |histogram: &Histogram<u64>, quantile| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        let figures = json!({
            "verified_p50_ms": ms(&of_verifying.latency, 0.5),
            "verified_p99_ms": ms(&of_verifying.latency, 0.99),
            "raw_p50_ms": ms(&of_raw.latency, 0.5),
            "raw_p99_ms": ms(&of_raw.latency, 0.99),
            "raw_mean_ms_of_first": means.first(),
            "raw_mean_ms_of_last": means.last(),
            "burst_seconds": seconds,
            "deliveries_per_s": (plan.burst > 0)
                .then(|| (plan.burst * plan.subscribers) as f64 / seconds),
        });
        writeln!(std::io::stdout(), "{figures}")?;
        Ok(())
    })
}

/// The results of one or several subscribers.
struct Measured {
    /// Latencies of the paced events, in microseconds.
    latency: Histogram<u64>,
    paced: usize,
    burst: usize,
    burst_began: i64,
    burst_ended: i64,
}

impl Measured {
    fn new(plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            paced: plan.paced,
            burst: plan.burst,
            burst_began: i64::MAX,
            burst_ended: i64::MIN,
        })
    }

    /// Returns whether a subscriber has received all events.
    fn is_complete(&self, seen: usize) -> bool {
        seen >= self.paced + self.burst
    }

    /// Records the event with this number, which was appended at this time, in nanoseconds. Returns the
    /// latency of a paced event.
    fn take(&mut self, number: usize, appended: i64) -> u64 {
        let now = SystemClock.now_nanos().get();
        if number > self.paced {
            self.burst_began = self.burst_began.min(appended);
            self.burst_ended = self.burst_ended.max(now);
            return 0;
        }
        let us = u64::try_from((now - appended) / 1000).unwrap_or(0).max(1);
        self.latency.saturating_record(us);
        us
    }

    fn add(&mut self, other: &Self) -> Result<(), Error> {
        self.latency.add(&other.latency)?;
        self.burst_began = self.burst_began.min(other.burst_began);
        self.burst_ended = self.burst_ended.max(other.burst_ended);
        Ok(())
    }
}
