//! Decodes and verifies a sync page, on one core and on all.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Instant;

use nara_proto::event::{EventReception, EventTrust, SyncEvent, verify_events};
use nara_proto::go_json;
use nara_proto::identity::PublicKey;
use nara_proto::sync::SyncResponse;
use nara_proto::time::UnixNanos;
use serde_json::{Value, json};

type Keys = BTreeMap<String, PublicKey>;

pub(crate) fn measure(
    page: &Path,
    rounds: u32,
    cores: &str,
) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let json = std::fs::read(page)?;
    let mut keys_file = page.as_os_str().to_owned();
    keys_file.push(".keys");
    let keys: BTreeMap<String, String> = serde_json::from_slice(&std::fs::read(keys_file)?)?;
    let keys: Keys = keys
        .into_iter()
        .map(|(name, key)| Ok((name, PublicKey::from_base64(&key)?)))
        .collect::<Result<_, Box<dyn std::error::Error + Send + Sync>>>()?;
    let threads = match cores {
        "all" => thread::available_parallelism()?.get(),
        number => number.parse()?,
    };

    let (mut events, mut verified) = (0, 0);
    let start = Instant::now();
    for _ in 0..rounds {
        let response: SyncResponse = go_json::from_slice(&json)?;
        events += response.events().len();
        verified += verify(response.events.unwrap_or_default(), &keys, threads);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "events": events,
        "rounds": rounds,
        "seconds": seconds,
        "events_per_s": events as f64 / seconds,
        "cores": threads,
        "verified": verified,
        "bad": events - verified,
    }))
}

/// Returns how many events verify.
fn verify(mut events: Vec<SyncEvent>, keys: &Keys, threads: usize) -> usize {
    let verified = |events: &mut [SyncEvent]| {
        let reception = EventReception {
            now: UnixNanos::new(i64::MAX),
            random: random(),
        };
        let verdicts = verify_events(events, keys, reception);
        verdicts
            .iter()
            .filter(|verdict| **verdict == Ok(EventTrust::Verified))
            .count()
    };
    if threads == 1 {
        return verified(&mut events);
    }
    let part = events.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = events
            .chunks_mut(part)
            .map(|part| scope.spawn(move || verified(part)))
            .collect();
        parts.into_iter().map(|part| part.join().unwrap_or(0)).sum()
    })
}

/// A counter suffices as randomness, because a benchmark has no attacker.
fn random() -> [u8; 32] {
    [7; 32]
}
