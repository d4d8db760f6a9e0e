//! Tracks the postcards that this nara sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::time::UnixMillis;
use nara_proto::world::WorldMessage;

use crate::model::{Journey, JourneyState};

/// How long a postcard may be under way before it counts as lost (docs/protocol/v1.md, section 9.2).
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// The number of postcards that are remembered.
const REMEMBERED: usize = 256;

/// The newest 256 postcards that this nara sent. Clones share the same list.
///
/// The API starts a journey when it sends a postcard; the [`MeshHandler`](nara_mesh::server::MeshHandler) of
/// the nara reports the postcards that come home.
#[derive(Clone, Debug, Default)]
pub struct Journeys(Arc<Mutex<VecDeque<Sent>>>);

#[derive(Clone, Debug)]
struct Sent {
    id: String,
    message: String,
    began: UnixMillis,
    /// The first peer; empty until one accepted it.
    first: String,
    /// The first peer's reason for not forwarding it.
    told: Option<String>,
    /// When it came home, and the naras that stamped it.
    home: Option<(UnixMillis, Vec<String>)>,
}

impl Journeys {
    /// Starts the journey of a postcard.
    pub(super) fn begin(&self, message: &WorldMessage) {
        let mut journeys = self.lock();
        if journeys.len() == REMEMBERED {
            journeys.pop_front();
        }
        journeys.push_back(Sent {
            id: message.id.clone(),
            message: message.message.clone(),
            began: SystemClock.now_millis(),
            first: String::new(),
            told: None,
            home: None,
        });
    }

    /// Records that the first peer accepted the postcard, with its reason if it was not forwarded.
    pub(super) fn taken(&self, id: &str, first: &str, told: Option<&str>) {
        self.change(id, |journey| {
            first.clone_into(&mut journey.first);
            journey.told = told.map(ToOwned::to_owned);
        });
    }

    /// Removes a postcard that no peer accepted.
    pub(super) fn forget(&self, id: &str) {
        self.lock().retain(|journey| journey.id != id);
    }

    /// Records that a postcard came home. Its chain of hops was verified.
    pub fn came_home(&self, message: &WorldMessage) {
        let hops = message.hops().iter().map(|hop| hop.nara.clone()).collect();
        let now = SystemClock.now_millis();
        self.change(&message.id, |journey| {
            // Reporting it twice changes nothing.
            journey.home.get_or_insert((now, hops));
        });
    }

    /// Returns whether a postcard is still under way.
    pub(super) fn are_under_way(&self) -> bool {
        let now = SystemClock.now_millis();
        let state = |sent: &Sent| sent.state(now);
        self.lock().iter().any(|sent| state(sent) != JourneyState::Home)
    }

    /// Returns all journeys, oldest first. `seen` returns the last nara that reported forwarding one of our
    /// postcards since a time.
    pub(super) fn list(&self, seen: impl Fn(UnixMillis) -> Option<String>) -> Vec<Journey> {
        let now = SystemClock.now_millis();
        self.lock().iter().map(|sent| sent.describe(now, &seen)).collect()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Sent)) {
        if let Some(journey) = self.lock().iter_mut().find(|journey| journey.id == id) {
            change(journey);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sent>> {
        // No method leaves the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    fn state(&self, now: UnixMillis) -> JourneyState {
        match self {
            Self { home: Some(_), .. } => JourneyState::Home,
            _ if now.abs_diff(self.began) > LIMIT => JourneyState::TimedOut,
            Self { told: Some(_), .. } => JourneyState::Stuck,
            _ => JourneyState::UnderWay,
        }
    }

    fn describe(&self, now: UnixMillis, seen: impl Fn(UnixMillis) -> Option<String>) -> Journey {
        let last_seen = match &self.home {
            Some(_) => None,
            // Each nara that forwards a postcard publishes that in an event, but not which postcard it was.
            None => seen(self.began).or_else(|| (!self.first.is_empty()).then(|| self.first.clone())),
        };
        let took =
            |(at, _): &(UnixMillis, Vec<String>)| u64::try_from(at.get() - self.began.get()).unwrap_or(0);
        Journey {
            message_id: self.id.clone(),
            message: self.message.clone(),
            sent_at_ms: self.began.get(),
            state: self.state(now),
            first: self.first.clone(),
            told: self.told.clone(),
            last_seen,
            hops: self.home.as_ref().map(|(_, hops)| hops.clone()),
            took_ms: self.home.as_ref().map(took),
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_mesh::LocalNara;
    use nara_proto::time::UnixNanos;

    use super::*;

    fn postcard(number: i64) -> WorldMessage {
        WorldMessage::new("alice", "hello", UnixNanos::new(number))
    }

    fn listed(journeys: &Journeys) -> Vec<Journey> {
        journeys.list(|_| None)
    }

    #[test]
    fn a_journey_ends_at_home_and_the_list_is_bounded() {
        let journeys = Journeys::default();
        let mut message = postcard(1);
        journeys.begin(&message);
        assert_eq!(listed(&journeys)[0].state, JourneyState::UnderWay);
        journeys.taken(&message.id, "bob", Some("journey stuck"));
        assert_eq!(listed(&journeys)[0].state, JourneyState::Stuck);
        assert_eq!(listed(&journeys)[0].last_seen.as_deref(), Some("bob"));
        for name in ["bob", "alice"] {
            let nara = LocalNara::generate(name).unwrap();
            message
                .add_hop(name, UnixMillis::new(0).to_seconds(), nara.keypair())
                .unwrap();
        }
        assert!(journeys.are_under_way());
        journeys.came_home(&message);
        let home = listed(&journeys)[0].clone();
        assert_eq!((home.state, home.last_seen), (JourneyState::Home, None));
        assert_eq!(home.hops.unwrap(), ["bob", "alice"]);
        assert!(!journeys.are_under_way());
        for number in 2..1000 {
            journeys.begin(&postcard(number));
        }
        assert_eq!(listed(&journeys).len(), REMEMBERED);
    }

    #[test]
    fn a_journey_has_five_minutes() {
        let journeys = Journeys::default();
        journeys.begin(&postcard(1));
        let sent = journeys.lock()[0].clone();
        assert_eq!(
            sent.state(sent.began.saturating_add(LIMIT)),
            JourneyState::UnderWay
        );
        let late = sent.began.saturating_add(LIMIT + Duration::from_millis(1));
        assert_eq!(sent.state(late), JourneyState::TimedOut);
        let seen = sent.describe(late, |_| Some("carol".to_owned())).last_seen;
        assert_eq!(seen.as_deref(), Some("carol"));
    }
}
