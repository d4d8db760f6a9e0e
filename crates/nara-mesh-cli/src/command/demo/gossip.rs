use std::time::{Duration, Instant};

use nara_mesh::client::StreamState;
use nara_mesh::gossip::{GossipConfig, GossipLink, GossipService, GossipStatus};
use nara_mesh::ledger::ReadLimit;
use nara_proto::event::{Payload, SocialPayload, SyncEvent};

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "gossip",
    title: "alice publishes an event; gossip spreads it over the mesh, with few links for each nara",
};

/// Peers that each nara subscribes to.
const DEGREE: usize = 2;

/// How often a ledger is checked for the event.
const LOOK: Duration = Duration::from_millis(1);

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let services: Vec<GossipService> = mesh
        .naras()
        .iter()
        .map(|nara| {
            let config = GossipConfig::with_degree(DEGREE);
            GossipService::start(nara.client.clone(), nara.ledger.clone(), config, Duration::ZERO)
        })
        .collect();
    for service in &services {
        service.status().wait_for(is_listening).await?;
    }

    let [alice, ..] = mesh.trio();
    let news = alice.event(Payload::Social(SocialPayload {
        kind: "gossip".to_owned(),
        actor: alice.name().to_owned(),
        target: "everybody".to_owned(),
        reason: "nice-number".to_owned(),
        ..SocialPayload::default()
    }));
    let told = Instant::now();
    alice.ledger.insert_verified(vec![news.clone()]).await?;
    let hearing = mesh.naras()[1..].iter().map(|nara| hears(nara, &news, told));
    let mut heard = futures_util::future::try_join_all(hearing).await?;
    heard.sort_by_key(|(_, after)| *after);

    let subscriptions: usize = services
        .iter()
        .map(|service| service.status().borrow().peers.len())
        .sum();
    for service in services {
        service.stop().await;
    }
    let last = heard.last().map(|(_, after)| *after).unwrap_or_default();
    let lines: Vec<String> = heard
        .iter()
        .map(|(name, after)| format!("{name:<8} has it after {}", human(*after)))
        .collect();
    Ok(Report::new(
        heard.len() + 1 == mesh.naras().len(),
        format!(
            "all {} naras had the event after {}",
            mesh.naras().len(),
            human(last)
        ),
    )
    .lines(lines)
    .figure("naras", mesh.naras().len())
    .figure("subscriptions", subscriptions)
    .figure("everybody_us", micros(last)))
}

fn is_listening(status: &GossipStatus) -> bool {
    !status.peers.is_empty()
        && status
            .peers
            .iter()
            .all(|peer| matches!(peer.link, GossipLink::Stream(StreamState::Live)))
}

/// Waits until a nara has the event.
async fn hears(
    nara: &DemoNara,
    news: &SyncEvent,
    told: Instant,
) -> Result<(String, Duration), nara_mesh::ledger::LedgerError> {
    while !nara
        .ledger
        .since(news.ts, ReadLimit::events(10))
        .await?
        .iter()
        .any(|event| event.id == news.id)
    {
        tokio::time::sleep(LOOK).await;
    }
    Ok((nara.name().to_owned(), told.elapsed()))
}
