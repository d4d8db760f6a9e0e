//! Builds ledger events from bytes.

use std::sync::Arc;

use nara_mesh::ledger::{CheckedEvent, KnownNames, Standing};
use nara_mesh::proto::event::{
    CheckpointPayload, EventTrust, HeyTherePayload, ObservationPayload, Payload, PingPayload, SeenPayload,
    SocialPayload, SyncEvent,
};
use nara_mesh::proto::identity::NaraName;
use nara_mesh::proto::time::{UnixNanos, UnixSeconds};

/// Bytes of one event.
const EVENT: usize = 7;

/// The most events of one batch.
const BATCH: usize = 16;

const NAMES: [&str; 8] = [
    "conf", "met-1", "met-2", "intro-1", "intro-2", "ghost", "stranger", "",
];

#[derive(Debug)]
struct Known;

impl KnownNames for Known {
    fn standing(&self, name: &str) -> Standing {
        match name.split('-').next() {
            Some("conf") => Standing::Configured,
            Some("met") => Standing::Met,
            Some("intro") => Standing::Introduced,
            _ => Standing::Stranger,
        }
    }
}

/// Returns naras of every standing: see [`Reader`].
pub fn known_naras() -> Arc<dyn KnownNames> {
    Arc::new(Known)
}

/// Returns an event of a configured peer that no input can produce.
pub fn pinned_event(number: usize) -> SyncEvent {
    let payload = SocialPayload {
        kind: "gossip".to_owned(),
        actor: "conf".to_owned(),
        target: "conf".to_owned(),
        ..SocialPayload::default()
    };
    let mut event = SyncEvent::new(
        UnixNanos::new(1_000_000 + number as i64),
        Payload::Social(payload),
    );
    event.emitter = "conf".to_owned();
    event
}

/// Reads batches of events from bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    configured: bool,
}

impl<'a> Reader<'a> {
    /// Creates a reader of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            configured: true,
        }
    }

    /// Makes no verified events of configured naras.
    #[must_use]
    pub fn without_configured_emitters(mut self) -> Self {
        self.configured = false;
        self
    }

    /// Returns the next batch and the peer that sends it; `None` at the end.
    pub fn batch(&mut self) -> Option<(Vec<CheckedEvent>, Option<NaraName>)> {
        let (&head, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        let teller = NAMES[usize::from(head >> 5)].parse().ok();
        let count = usize::from(head & 0x1f) % BATCH + 1;
        let mut events = Vec::new();
        while events.len() < count
            && let Some((bytes, rest)) = self.bytes.split_first_chunk::<EVENT>()
        {
            self.bytes = rest;
            events.push(self.event(*bytes));
        }
        if events.is_empty() {
            self.bytes = &[];
        }
        Some((events, teller))
    }

    fn event(&self, [kind, who, whom, high, low, trust, size]: [u8; EVENT]) -> CheckedEvent {
        let name = |index: u8| NAMES[usize::from(index) % NAMES.len()].to_owned();
        let (actor, target) = (name(who), name(whom));
        let number = i64::from(u16::from_be_bytes([high, low]));
        // Some are in the far future.
        let ts = UnixNanos::new(if trust & 4 == 4 { i64::MAX - number } else { number });
        let long = "x".repeat(usize::from(size) * 8);
        let payload = match kind % 7 {
            0 => Payload::Ping(PingPayload {
                observer: actor.clone(),
                target,
                rtt: 1.5,
                ..PingPayload::default()
            }),
            1 => Payload::Seen(SeenPayload {
                observer: actor.clone(),
                subject: target,
                via: long,
                ..SeenPayload::default()
            }),
            2 => Payload::HeyThere(HeyTherePayload {
                from: actor.clone(),
                public_key: long,
                ..HeyTherePayload::default()
            }),
            3 => Payload::Checkpoint(CheckpointPayload {
                subject: target,
                as_of_time: UnixSeconds::new(number + 1),
                ..CheckpointPayload::default()
            }),
            4 | 5 => Payload::Observation(ObservationPayload {
                observer: actor.clone(),
                subject: target,
                kind: if kind % 7 == 4 { "restart" } else { "first-seen" }.to_owned(),
                importance: 3,
                start_time: UnixSeconds::new(number + 1),
                ..ObservationPayload::default()
            }),
            _ => Payload::Social(SocialPayload {
                kind: "tease".to_owned(),
                actor: actor.clone(),
                target,
                reason: long,
                ..SocialPayload::default()
            }),
        };
        let mut event = SyncEvent::new(ts, payload);
        event.emitter = actor;
        let verified = trust & 1 == 1 && (self.configured || event.emitter != "conf");
        let trust = match (verified, trust & 2 == 2) {
            (true, _) => EventTrust::Verified,
            (false, true) => EventTrust::UnknownKey,
            (false, false) => EventTrust::Unsigned,
        };
        CheckedEvent::new(event, trust)
    }
}
