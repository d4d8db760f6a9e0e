use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use nara_mesh::client::PeerHandle;
use nara_mesh::ledger::{Ledger, ReadLimit};
use nara_proto::event::{SocialPayload, SyncEvent};
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixMillis;
use nara_proto::world::WorldMessage;

use crate::model::{Journey, JourneyList, OutboxEntry, Postcard, PostcardReceipt};
use crate::server::extract::{Body, CallParams, Path, Query};
use crate::server::outbox::keep::{self, Addressee};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The number of events that are searched for reports of forwarded postcards.
const PASSES: usize = 500;

/// Send a postcard, which travels from nara to nara and back home
///
/// With `later` and `to`, a postcard whose first peer is unreachable now is kept, and sent once that peer is
/// seen.
#[utoipa::path(
    post,
    path = "/v1/postcards",
    tag = "messages",
    params(CallParams),
    request_body = Postcard,
    responses(
        (status = 200, body = PostcardReceipt),
        (status = 202, body = OutboxEntry, description = "It waits in the outbox"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn send(
    State(shared): State<Arc<Shared>>,
    Query(call): Query<CallParams>,
    Body(postcard): Body<Postcard>,
) -> Result<Response, Problem> {
    let nara = &shared.nara;
    let now = nara.client().clock().now_nanos();
    let message = WorldMessage::new(nara.name().as_str(), &postcard.message, now);
    if let Some(later) = postcard.later {
        let Some(to) = &postcard.to else {
            let problem = Problem::invalid("a postcard that may be sent later needs its first peer");
            return Err(problem.hint("name the first peer (`to`)"));
        };
        let draft = Addressee::of(to, &shared.peer(to, call.timeout())?)?.postcard(&message);
        return keep::keep(&shared, draft, later, call.timeout()).await;
    }
    let candidates = match &postcard.to {
        Some(to) => vec![(to.clone(), shared.peer(to, call.timeout())?)],
        None => {
            let peers = nara.registry().peers().into_iter();
            let reachable = peers.filter(|peer| peer.info().address.is_some() && !peer.is_untrusted());
            let handle = |peer: Arc<nara_mesh::registry::Peer>| {
                let label = peer.info().label();
                let handle = nara.peer(peer);
                (
                    label,
                    match call.timeout() {
                        Some(timeout) => handle.with_timeout(timeout),
                        None => handle,
                    },
                )
            };
            reachable.map(handle).collect()
        }
    };
    // Recorded before it is sent: it may be home before the first peer answers.
    shared.journeys.begin(&message);
    match hand_over(&message, candidates, postcard.to.is_none()).await {
        Ok(receipt) => {
            shared
                .journeys
                .taken(&message.id, &receipt.first, receipt.told.as_deref());
            Ok(Json(receipt).into_response())
        }
        Err(problem) => {
            shared.journeys.forget(&message.id);
            Err(problem)
        }
    }
}

/// Sends a postcard to the first candidate that accepts it. `any`: later candidates may be tried.
async fn hand_over(
    message: &WorldMessage,
    candidates: Vec<(String, PeerHandle)>,
    any: bool,
) -> Result<PostcardReceipt, Problem> {
    let mut skipped = Vec::new();
    let mut last = None;
    for (first, handle) in candidates {
        let told = match handle.relay_world_message(message).await {
            Ok(_) => None,
            Err(error) if error.is_stuck_journey() => {
                Some(error.text().unwrap_or_default().trim_end().to_owned())
            }
            Err(error) if any && (error.is_unreachable() || error.is_rate_limited()) => {
                skipped.push(error.to_string());
                last = Some(error);
                continue;
            }
            Err(error) => return Err(if any { error.into() } else { keep::advised(error) }),
        };
        return Ok(PostcardReceipt {
            message_id: message.id.clone(),
            first,
            passed_on: told.is_none(),
            told,
            skipped,
        });
    }
    Err(last.map_or_else(
        || {
            let detail = "there is no peer to send the postcard to";
            let problem = Problem::new("no_peer", StatusCode::NOT_FOUND, ProblemClass::Usage, detail);
            problem.hint("name the first peer (`to`), or add peers")
        },
        Problem::from,
    ))
}

/// The postcards that this nara sent, and their state
#[utoipa::path(
    get,
    path = "/v1/postcards",
    tag = "messages",
    responses((status = 200, body = JourneyList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<JourneyList> {
    let postcards = journeys(&shared).await?;
    Ok(Json(JourneyList { postcards }))
}

/// The journey of a postcard
#[utoipa::path(
    get,
    path = "/v1/postcards/{id}",
    tag = "messages",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Journey), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Journey> {
    let mut journeys = journeys(&shared).await?.into_iter();
    let found = journeys.find(|journey| journey.message_id == id);
    found.map(Json).ok_or_else(|| {
        let detail = "this nara did not send this postcard, or has sent 256 others since";
        Problem::new(
            "unknown_postcard",
            StatusCode::NOT_FOUND,
            ProblemClass::Usage,
            detail,
        )
    })
}

async fn journeys(shared: &Shared) -> Result<Vec<Journey>, Problem> {
    let passed = if shared.journeys.are_under_way() {
        passes(&**shared.nara.ledger(), shared.nara.name().as_str()).await?
    } else {
        Vec::new()
    };
    let last = |since: UnixMillis| {
        let mut later = passed.iter().filter(|event| event.ts >= since.to_nanos());
        later.next().map(|event| event.actor().to_owned())
    };
    Ok(shared.journeys.list(last))
}

/// Returns the events in which others report that they forwarded a postcard of ours, newest first. Unverified
/// ones are claims of the peers that sent them.
async fn passes(ledger: &dyn Ledger, own: &str) -> Result<Vec<SyncEvent>, Problem> {
    let filter = EventFilter {
        services: vec!["social".to_owned()],
        subjects: vec![own.to_owned()],
    };
    let mut events = ledger.recent(filter, ReadLimit::events(PASSES)).await?;
    events.retain(|checked| {
        let passed = |social: &SocialPayload| {
            social.reason == "journey-pass" && social.target == own && social.actor != own
        };
        checked.is_verified() && checked.event.social.as_deref().is_some_and(passed)
    });
    Ok(events.into_iter().map(|checked| checked.event).collect())
}
