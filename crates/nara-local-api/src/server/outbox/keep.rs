//! Keeps a message that may wait: its recipient, its expiry, and the answer to its sender.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use nara_mesh::client::{ClientError, PeerHandle};
use nara_mesh::registry::PeerInfo;
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::KeyId;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;

use super::FirstAttempt;
use crate::model::{Event, Later, OutboxEntry, OutboxKind, OutboxState};
use crate::server::state::Shared;
use crate::{Problem, ProblemClass};

/// How long a sender waits for the first attempt.
const FIRST_ATTEMPT: Duration = Duration::from_secs(10);

/// The minimum, maximum and default expiry of a message, in seconds.
const EXPIRES: (u64, u64, u64) = (1, 30 * 86_400, 7 * 86_400);

/// The known nara to which a message is addressed.
pub(in crate::server) struct Addressee {
    name: String,
    info: PeerInfo,
}

impl Addressee {
    /// # Errors
    /// [`Problem`] if the peer is not known yet: another nara may have its address by the time the message is
    /// sent.
    pub(in crate::server) fn of(peer: &str, handle: &PeerHandle) -> Result<Self, Problem> {
        let info = handle.known().map(|peer| peer.info());
        let known = info.and_then(|info| {
            let name = info.name.as_ref()?.to_string();
            Some(Self { name, info })
        });
        known.ok_or_else(|| Problem::unknown_peer(peer))
    }

    pub(in crate::server) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::server) fn direct_message(self, event: &SyncEvent) -> OutboxEntry {
        self.draft(OutboxKind::DirectMessage, &event.id, Event::of(event))
    }

    pub(in crate::server) fn postcard(self, message: &WorldMessage) -> OutboxEntry {
        let json = Event::from_json(go_json::to_string(message));
        self.draft(OutboxKind::Postcard, &message.id, json)
    }

    pub(in crate::server) fn runtime_message(self, message: &RuntimeMessage) -> OutboxEntry {
        let json = Event::from_json(String::from_utf8(message.to_json()).unwrap_or_default());
        self.draft(OutboxKind::RuntimeMessage, &message.id, json)
    }

    fn draft(self, kind: OutboxKind, id: &str, event: Event) -> OutboxEntry {
        let key = self.info.key.as_ref();
        OutboxEntry {
            id: 0,
            kind,
            peer: self.name,
            peer_id: self.info.id.as_ref().map(ToString::to_string),
            key_id: key.map(|key| KeyId::from(&key.key).to_string()),
            event_id: id.to_owned(),
            event,
            state: OutboxState::Waiting,
            queued_at_ms: 0,
            expires_at_ms: 0,
            attempts: 0,
            last_attempt_at_ms: None,
            may_have_arrived: false,
            finished_at_ms: None,
            stored: None,
            problem: None,
            is_durable: false,
        }
    }
}

/// Adds a message to the outbox, which tries to deliver it at once.
pub(in crate::server) async fn keep(
    shared: &Shared,
    draft: OutboxEntry,
    later: Later,
    timeout: Option<Duration>,
) -> Result<Response, Problem> {
    let (least, most, default) = EXPIRES;
    let expires = later.expires_s.unwrap_or(default);
    if !(least..=most).contains(&expires) {
        return Err(Problem::invalid(format!(
            "expires_s: {least} to {most}, not {expires}"
        )));
    }
    let now = shared.nara.client().clock().now_millis();
    let draft = OutboxEntry {
        queued_at_ms: now.get(),
        expires_at_ms: now.saturating_add(Duration::from_secs(expires)).get(),
        ..draft
    };
    let (entry, first) = shared.outbox.put(draft).await?;
    match tokio::time::timeout(timeout.unwrap_or(FIRST_ATTEMPT), first).await {
        Ok(Ok(FirstAttempt::Delivered(delivered))) => Ok(Json(delivered).into_response()),
        Ok(Ok(FirstAttempt::Refused(problem))) => Err(*problem),
        _ => {
            let waits = shared.outbox.one(entry.id).unwrap_or(entry);
            Ok((StatusCode::ACCEPTED, Json(waits)).into_response())
        }
    }
}

/// Explains why a message was not delivered, with the hint to use the outbox where that helps.
pub(in crate::server) fn advised(error: ClientError) -> Problem {
    let problem = Problem::from(error);
    match problem.class {
        ProblemClass::Unreachable => {
            problem.hint("send it with `later` to have it delivered once the peer is seen")
        }
        _ => problem,
    }
}
