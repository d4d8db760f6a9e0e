//! Repeats a round trip and measures it, as `nara-bench` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Error, Plan};

pub(crate) async fn repeat<F, Fut>(plan: &Plan, once: F) -> Result<Value, Error>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    many(plan.warmup, plan.in_flight, once.clone()).await?;
    let (start, processor) = (Instant::now(), processor_time());
    let latencies = many(plan.requests, plan.in_flight, once).await?;
    let seconds = start.elapsed().as_secs_f64();
    let processor = processor_time().saturating_sub(processor);
    Ok(json!({
        "requests": plan.requests,
        "seconds": seconds,
        "rps": plan.requests as f64 / seconds,
        "p50_us": latencies.value_at_quantile(0.5) as f64 / 1e3,
        "p99_us": latencies.value_at_quantile(0.99) as f64 / 1e3,
        "cpu_us_per_round_trip": processor.as_secs_f64() * 1e6 / plan.requests as f64,
    }))
}

/// Returns the CPU time of this process so far.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Makes `count` round trips, `in_flight` concurrently; the histogram is in nanoseconds.
async fn many<F, Fut>(count: u64, in_flight: u64, once: F) -> Result<Histogram<u64>, Error>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    let left = Arc::new(AtomicU64::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight {
        let (left, once) = (left.clone(), once.clone());
        workers.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3)?;
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                let start = Instant::now();
                once().await?;
                latencies.record(u64::try_from(start.elapsed().as_nanos())?)?;
            }
            Ok::<_, Error>(latencies)
        });
    }
    let mut all = Histogram::new(3)?;
    while let Some(latencies) = workers.join_next().await {
        all.add(latencies??)?;
    }
    Ok(all)
}
