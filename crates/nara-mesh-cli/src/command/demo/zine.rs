use nara_mesh::ledger::ReadLimit;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::defaults;
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::sync::MAX_EVENTS;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::listing::{Counts, event_line};

pub(super) const STEP: Step = Step {
    name: "zine",
    title: "bob and carol hand each other what happened in the last five minutes",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, carol] = mesh.trio();
    for (author, reader) in [(bob, alice), (carol, alice), (carol, bob)] {
        author.ledger.insert_verified(vec![news(author, reader)]).await?;
    }
    let since = SystemClock.now_nanos().saturating_sub(defaults::ZINE_WINDOW);
    let ours = bob.ledger.since(since, ReadLimit::events(MAX_EVENTS)).await?;
    let ids: Vec<String> = ours.iter().map(|event| event.id.clone()).collect();
    let zine = bob
        .client
        .exchange_zine(carol.local.id(), ours)
        .await?
        .into_inner();
    let lines: Vec<String> = zine
        .events
        .accepted
        .iter()
        .map(|checked| format!("bob got    {}", event_line(&checked.event)))
        .collect();
    let mut counts = Counts::default();
    counts
        .take(zine.events, Some(&bob.ledger))
        .await
        .map_err(|failure| failure.message)?;
    let arrived = carol.ledger.since(since, ReadLimit::events(MAX_EVENTS)).await?;
    let arrived: Vec<_> = arrived.iter().filter(|event| ids.contains(&event.id)).collect();
    let ok = !ids.is_empty() && arrived.len() == ids.len() && counts.stored == 2 && counts.refused.is_empty();
    let carols = arrived
        .iter()
        .map(|event| format!("carol got  {}", event_line(event)));
    Ok(Report::new(
        ok,
        format!(
            "bob gave {} and got {} events, all verified",
            ids.len(),
            counts.verified
        ),
    )
    .lines(carols.chain(lines))
    .figure("given", ids.len())
    .figure("arrived", arrived.len())
    .figure("received", counts.received)
    .figure("verified", counts.verified)
    .figure("stored", counts.stored))
}

fn news(author: &DemoNara, about: &DemoNara) -> nara_proto::event::SyncEvent {
    author.event(Payload::Social(SocialPayload {
        kind: "gossip".to_owned(),
        actor: author.name().to_owned(),
        target: about.name().to_owned(),
        reason: "just came by".to_owned(),
        ..SocialPayload::default()
    }))
}
