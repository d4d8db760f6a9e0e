use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nara_local_api::model::Counts;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::Insertion;
use nara_proto::event::{
    HeyTherePayload, ObservationPayload, Payload, SeenPayload, SocialPayload, SyncEvent,
};
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixNanos;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::listing;
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "sync",
    title: "bob fetches all events of alice, page by page, and verifies every signature",
};

/// Events per page.
const PAGE: usize = 500;

/// How many events share one timestamp: the v1 cursor would lose some at the end of each page.
const SAME_TIME: usize = 7;

pub(super) async fn run(mesh: &Mesh, events: u32) -> Report {
    or_failed(try_run(mesh, events as usize).await)
}

async fn try_run(mesh: &Mesh, events: usize) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let seeded = alice
        .ledger
        .insert_verified(history(mesh.naras(), events))
        .await?;
    let seeded = seeded
        .iter()
        .filter(|outcome| **outcome == Insertion::Stored)
        .count();
    let remembered = alice.ledger.count().await?;

    let start = Instant::now();
    let mut counts = Counts::default();
    let mut lines = Vec::new();
    let mut pages = bob
        .client
        .peer(alice.local.id())
        .sync_pages(EventFilter::default(), PAGE, None);
    let mut number = 0;
    while let Some(page) = pages.next().await {
        number += 1;
        counts += listing::take(page?.events, Some(&bob.ledger))
            .await
            .map_err(|failure| failure.message)?;
        lines.push(format!(
            "page {number:>2}  {:>6} events, {} refused",
            counts.received,
            counts.refused.len()
        ));
    }
    let elapsed = start.elapsed();
    let stored = bob.ledger.count().await?;
    let per_second = (counts.received as f64 / elapsed.as_secs_f64()).round();
    // Print the first pages only.
    if lines.len() > 3 {
        let last = lines.pop();
        lines.truncate(2);
        lines.push("   …".to_owned());
        lines.extend(last);
    }
    let ok = seeded == events
        && counts.verified == remembered
        && stored == remembered
        && counts.refused.is_empty();
    let summary = format!(
        "{} of {remembered} events verified and stored in {} ({per_second:.0} per second)",
        counts.stored,
        human(elapsed)
    );
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("remembered", remembered)
        .figure("received", counts.received)
        .figure("verified", counts.verified)
        .figure("stored", counts.stored)
        .figure("refused", counts.refused.len())
        .figure("pages", number)
        .figure("elapsed_us", micros(elapsed))
        .figure("events_per_s", per_second))
}

/// Returns events of several services and of every nara, oldest first.
fn history(naras: &[DemoNara], count: usize) -> Vec<SyncEvent> {
    let start = SystemClock
        .now_nanos()
        .saturating_sub(Duration::from_secs(30 * 86_400));
    (0..count)
        .map(|number| {
            let emitter = &naras[number % naras.len()];
            let other = &naras[(number + 1 + number / naras.len() % (naras.len() - 1)) % naras.len()];
            let ts = start.saturating_add(Duration::from_secs(600) * (number / SAME_TIME) as u32);
            let payload = payload(number, emitter, other, ts);
            SyncEvent::signed(ts, payload, emitter.name(), emitter.local.keypair())
        })
        .collect()
}

fn payload(number: usize, emitter: &DemoNara, other: &DemoNara, ts: UnixNanos) -> Payload {
    // A nara keeps a limited number of observations per pair, so only the first events are observations.
    let early = number < 4 * 5;
    match number % 4 {
        0 if early => Payload::HeyThere(HeyTherePayload {
            from: emitter.name().to_owned(),
            public_key: emitter.local.public_key().to_base64(),
            mesh_ip: format!("127.0.0.1#{number}"),
            id: emitter.local.id().to_string(),
            ..HeyTherePayload::default()
        }),
        1 if early => Payload::Observation(ObservationPayload {
            observer: emitter.name().to_owned(),
            subject: other.name().to_owned(),
            kind: "restart".to_owned(),
            importance: 3,
            start_time: ts.to_seconds(),
            restart_num: number as i64,
            ..ObservationPayload::default()
        }),
        2 => Payload::Seen(SeenPayload {
            observer: emitter.name().to_owned(),
            subject: other.name().to_owned(),
            via: format!("mesh-{number}"),
            ..SeenPayload::default()
        }),
        _ => Payload::Social(SocialPayload {
            kind: if number.is_multiple_of(3) {
                "tease"
            } else {
                "gossip"
            }
            .to_owned(),
            actor: emitter.name().to_owned(),
            target: other.name().to_owned(),
            reason: format!("story number {number}"),
            ..SocialPayload::default()
        }),
    }
}
