//! What other commands ask of the nara that runs, beside a reload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nara_mesh::Nara;
use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{Ledger, ReadLimit};
use nara_proto::event::{SocialPayload, SyncEvent};
use nara_proto::identity::NaraId;
use nara_proto::peer::Coordinates;
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixMillis;
use nara_proto::world::WorldMessage;
use serde_json::{Value, json};

use super::journeys::Journeys;
use crate::command::world;
use crate::connect;
use crate::control::{Asked, Question};

/// Answers a question, in the background where that waits for a peer.
pub(super) async fn answer(nara: &Nara, journeys: &Journeys, asked: Asked) {
    match asked.question.clone() {
        // The loop that serves answers this itself: it has the files.
        Question::Reload => {}
        Question::Clock => {
            let step = nara.registry().clock_step();
            let step = step
                .map(|step| json!({ "text": step.to_string(), "nanos": step.nanos, "at_ms": step.at.get() }));
            asked.answer(json!({ "step": step }));
        }
        Question::StashPut { peer, data } => {
            let peer = nara.peer(peer.as_str());
            let Ok(data) = STANDARD.decode(data) else {
                return asked.answer(json!({ "error": "the data is no base64" }));
            };
            tokio::spawn(async move {
                let outcome = peer.put_stash(&data).await;
                asked.answer(outcome.map_or_else(failed, |()| json!({ "bytes": data.len() })));
            });
        }
        Question::StashGet { peer } => {
            let peer = nara.peer(peer.as_str());
            tokio::spawn(async move {
                let outcome = peer.get_stash().await;
                let found = |data: Option<Vec<u8>>| json!({ "data": data.map(|data| STANDARD.encode(data)) });
                asked.answer(outcome.map_or_else(failed, found));
            });
        }
        Question::StashDrop { owner } => {
            let Ok(owner) = owner.parse::<NaraId>() else {
                return asked.answer(json!({ "error": "the owner is no nara id" }));
            };
            asked.answer(match nara.forget_stash(&owner).await {
                Ok(had) => json!({ "dropped": had }),
                Err(error) => json!({ "error": error.to_string() }),
            });
        }
        Question::WorldSend { message, to } => {
            let (client, journeys) = (nara.client().clone(), journeys.clone());
            tokio::spawn(async move {
                let answer = send(&client, &journeys, &message, to.as_deref()).await;
                asked.answer(answer);
            });
        }
        Question::Coordinates => {
            let Coordinates { x, y, height, error } = nara.registry().coordinates();
            asked.answer(json!({ "x": x, "y": y, "height": height, "error": error }));
        }
        Question::WorldList => {
            let (ledger, journeys) = (nara.ledger().clone(), journeys.clone());
            let own = nara.name().as_str().to_owned();
            tokio::spawn(async move {
                let passed = match journeys.oldest_under_way() {
                    Some(_) => passes(&*ledger, own).await,
                    None => Vec::new(),
                };
                let last = |since: UnixMillis| {
                    let mut later = passed.iter().filter(|event| event.ts >= since.to_nanos());
                    later.next().map(|event| event.actor().to_owned())
                };
                asked.answer(json!({ "postcards": journeys.to_json(last) }));
            });
        }
    }
}

/// The events in which others say that they passed a postcard of ours on, newest first.
async fn passes(ledger: &dyn Ledger, own: String) -> Vec<SyncEvent> {
    let filter = EventFilter {
        services: vec!["social".to_owned()],
        subjects: vec![own.clone()],
    };
    let mut events = match ledger.recent(filter, ReadLimit::events(500)).await {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "the ledger cannot say who saw the postcards");
            Vec::new()
        }
    };
    events.retain(|event| {
        let passed = |social: &SocialPayload| {
            social.reason == "journey-pass" && social.target == own && social.actor != own
        };
        event.social.as_deref().is_some_and(passed)
    });
    events
}

async fn send(client: &MeshClient, journeys: &Journeys, text: &str, to: Option<&str>) -> Value {
    let message = WorldMessage::new(client.local().name().as_str(), text, SystemClock.now_nanos());
    // Before it is sent: it may be home before the first peer answers.
    journeys.begin(&message);
    match world::hand_over(client, &message, to).await {
        Ok(handed) => {
            journeys.taken(&message.id, &handed.first, handed.told.as_deref());
            json!({ "message_id": message.id, "first": handed.first, "told": handed.told })
        }
        Err(failure) => {
            journeys.forget(&message.id);
            json!({ "error": failure.message, "hint": failure.hint, "exit": failure.exit as u8 })
        }
    }
}

fn failed(error: ClientError) -> Value {
    json!({
        "error": error.to_string(),
        "hint": connect::hint(&error),
        "exit": connect::exit_of(&error) as u8,
    })
}
