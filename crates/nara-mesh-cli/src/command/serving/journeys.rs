//! The postcards that this nara sent, and what became of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::time::UnixMillis;
use nara_proto::world::WorldMessage;
use serde_json::{Value, json};

/// How long a postcard may be under way before it counts as lost (docs/protocol/v1.md, section 9.2).
pub(in crate::command) const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Postcards that are remembered, the newest ones.
const REMEMBERED: usize = 256;

/// The postcards that this nara sent. Cloning gives another handle to the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Journeys(Arc<Mutex<VecDeque<Journey>>>);

#[derive(Clone, Debug)]
struct Journey {
    id: String,
    message: String,
    began: UnixMillis,
    /// The first peer; empty until one took it.
    first: String,
    /// What the first peer told, if it was not passed on.
    told: Option<String>,
    /// The naras that stamped it, once it is home.
    home: Option<(UnixMillis, Vec<String>)>,
}

impl Journeys {
    /// A postcard begins its journey.
    pub(super) fn begin(&self, message: &WorldMessage) {
        let mut journeys = self.lock();
        if journeys.len() == REMEMBERED {
            journeys.pop_front();
        }
        journeys.push_back(Journey {
            id: message.id.clone(),
            message: message.message.clone(),
            began: SystemClock.now_millis(),
            first: String::new(),
            told: None,
            home: None,
        });
    }

    /// The first peer took it, and told why it did not go on, if it did not.
    pub(super) fn taken(&self, id: &str, first: &str, told: Option<&str>) {
        self.change(id, |journey| {
            first.clone_into(&mut journey.first);
            journey.told = told.map(ToOwned::to_owned);
        });
    }

    /// Nobody took it.
    pub(super) fn forget(&self, id: &str) {
        self.lock().retain(|journey| journey.id != id);
    }

    /// It is home. The chain of its hops was verified.
    pub(super) fn came_home(&self, message: &WorldMessage) {
        let hops = message.hops().iter().map(|hop| hop.nara.clone()).collect();
        let now = SystemClock.now_millis();
        self.change(&message.id, |journey| {
            // A second time changes nothing.
            journey.home.get_or_insert((now, hops));
        });
    }

    /// When the oldest postcard began that is still under way.
    pub(super) fn oldest_under_way(&self) -> Option<UnixMillis> {
        let now = SystemClock.now_millis();
        let journeys = self.lock();
        let mut open = journeys.iter().filter(|journey| journey.state(now) != "home");
        open.next().map(|journey| journey.began)
    }

    /// All of them, oldest first. `seen` says who last told of a postcard of ours, from a time on.
    pub(super) fn to_json(&self, seen: impl Fn(UnixMillis) -> Option<String>) -> Value {
        let now = SystemClock.now_millis();
        let journeys = self.lock();
        journeys
            .iter()
            .map(|journey| journey.to_json(now, &seen))
            .collect()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Journey)) {
        if let Some(journey) = self.lock().iter_mut().find(|journey| journey.id == id) {
            change(journey);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Journey>> {
        // No method leaves the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journey {
    fn state(&self, now: UnixMillis) -> &'static str {
        match self {
            Self { home: Some(_), .. } => "home",
            _ if now.abs_diff(self.began) > LIMIT => "timed-out",
            Self { told: Some(_), .. } => "stuck",
            _ => "under-way",
        }
    }

    fn to_json(&self, now: UnixMillis, seen: impl Fn(UnixMillis) -> Option<String>) -> Value {
        let last_seen = match &self.home {
            Some(_) => None,
            // Whoever passes a postcard on says so in an event, though not which one it was.
            None => seen(self.began).or_else(|| (!self.first.is_empty()).then(|| self.first.clone())),
        };
        json!({
            "message_id": self.id,
            "message": self.message,
            "sent_at_ms": self.began.get(),
            "state": self.state(now),
            "first": self.first,
            "told": self.told,
            "last_seen": last_seen,
            "hops": self.home.as_ref().map(|(_, hops)| hops),
            "took_ms": self.home.as_ref().map(|(at, _)| at.get() - self.began.get()),
        })
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

    fn listed(journeys: &Journeys) -> Value {
        journeys.to_json(|_| None)
    }

    #[test]
    fn a_journey_ends_at_home_and_the_list_is_bounded() {
        let journeys = Journeys::default();
        let mut message = postcard(1);
        journeys.begin(&message);
        assert_eq!(listed(&journeys)[0]["state"], "under-way");
        journeys.taken(&message.id, "bob", Some("journey stuck"));
        assert_eq!(listed(&journeys)[0]["state"], "stuck");
        assert_eq!(listed(&journeys)[0]["last_seen"], "bob");
        for name in ["bob", "alice"] {
            let nara = LocalNara::generate(name).unwrap();
            message
                .add_hop(name, UnixMillis::new(0).to_seconds(), nara.keypair())
                .unwrap();
        }
        journeys.came_home(&message);
        let home = listed(&journeys)[0].clone();
        assert_eq!(
            (&home["state"], &home["last_seen"]),
            (&json!("home"), &Value::Null)
        );
        assert_eq!(home["hops"], json!(["bob", "alice"]));
        assert_eq!(journeys.oldest_under_way(), None);
        for number in 2..1000 {
            journeys.begin(&postcard(number));
        }
        assert_eq!(listed(&journeys).as_array().unwrap().len(), REMEMBERED);
    }

    #[test]
    fn a_journey_has_five_minutes() {
        let journeys = Journeys::default();
        journeys.begin(&postcard(1));
        let began = journeys.oldest_under_way().unwrap();
        let journey = journeys.lock()[0].clone();
        assert_eq!(journey.state(began.saturating_add(LIMIT)), "under-way");
        let late = began.saturating_add(LIMIT + Duration::from_millis(1));
        assert_eq!(journey.state(late), "timed-out");
        assert_eq!(
            journey.to_json(late, |_| Some("carol".to_owned()))["last_seen"],
            "carol"
        );
    }
}
