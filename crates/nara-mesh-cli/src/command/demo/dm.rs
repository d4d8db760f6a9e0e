use std::time::Instant;

use nara_local_api::model::trust_word;
use nara_mesh::ledger::ReadLimit;
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::sync::EventFilter;

use super::nara::Mesh;
use super::step::{Report, Step, StepResult, or_failed};
use crate::listing::event_line;
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "dm",
    title: "alice sends bob a direct message: one signed event",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let event = alice.event(Payload::Social(SocialPayload {
        kind: "tease".to_owned(),
        actor: alice.name().to_owned(),
        target: bob.name().to_owned(),
        reason: "nice-number".to_owned(),
        ..SocialPayload::default()
    }));
    let id = event.id.clone();
    let start = Instant::now();
    let receipt = alice.client.send_dm(bob.local.id(), event).await?;
    let elapsed = start.elapsed();
    let newest = bob
        .ledger
        .recent(EventFilter::default(), ReadLimit::events(20))
        .await?;
    let stored = newest.iter().find(|checked| checked.event.id == id);
    let ok = receipt.success && receipt.is_verified() && stored.is_some();
    Ok(Report::new(
        ok,
        format!(
            "stored by {}, receipt verified, in {}",
            receipt.from,
            human(elapsed)
        ),
    )
    .lines(stored.map(|checked| {
        let line = event_line(&checked.event, trust_word(checked.trust));
        format!("bob has    {line}")
    }))
    .figure("stored", usize::from(stored.is_some()))
    .figure("elapsed_us", micros(elapsed)))
}
