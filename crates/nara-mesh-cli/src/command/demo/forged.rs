use nara_proto::event::{EventProblem, Payload, SocialPayload, SyncEvent};
use nara_proto::sync::SyncRequest;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::harmless;

pub(super) const STEP: Step = Step {
    name: "forged",
    title: "an event with the id of another is refused, whether it is sent or fetched",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, carol] = mesh.trio();
    let sent = forged(alice, "sent");
    let told = alice.client.send_dm(bob.local.id(), sent).await;
    let (status, text) = match &told {
        Ok(_) => (200, "accepted".to_owned()),
        Err(error) => (
            error.status().map_or(0, |status| status.as_u16()),
            error
                .text()
                .map_or_else(|| error.to_string(), |text| harmless(text.trim())),
        ),
    };
    // A nara that does not check what it passes on.
    let kept = forged(carol, "kept");
    let id = kept.id.clone();
    carol.ledger.insert_verified(vec![kept]).await?;
    let answer = bob
        .client
        .fetch_sync_events(carol.local.id(), SyncRequest::recent(50))
        .await?;
    let refused = answer.events.refused.iter().find(|event| event.id == id);
    let caught = refused.is_some_and(|event| event.problem == EventProblem::ForgedId);
    let others = answer.events.accepted.len();
    let ok = status == 400 && caught && others > 0;
    let mut parts = text.split(": ");
    let mut lines = vec![format!(
        "sent to bob        {status}  {}",
        parts.next().unwrap_or_default()
    )];
    lines.extend(parts.map(|part| format!("                        {part}")));
    if let Some(event) = refused {
        lines.push(format!(
            "fetched by bob     {}; the {others} others were taken",
            event.problem
        ));
    }
    let summary = if ok {
        format!("refused by the receiver ({status}) and by the fetcher")
    } else {
        "a forged event was taken".to_owned()
    };
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("status", status)
        .figure("refused_when_fetched", usize::from(caught))
        .figure("others_taken", others))
}

/// An event, properly signed, that carries the id of another: in a ledger it would take that one's place.
fn forged(by: &DemoNara, reason: &str) -> SyncEvent {
    let payload = |reason: &str| {
        Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: by.name().to_owned(),
            target: by.name().to_owned(),
            reason: reason.to_owned(),
            ..SocialPayload::default()
        })
    };
    let victim = by.event(payload("the truth"));
    let mut event = by.event(payload(reason));
    event.id = victim.id;
    event.sign(by.name(), by.local.keypair());
    event
}
