//! Exposed programs: until their leases end, or for as long as the nara runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use nara_mesh::server::expose::{Backend, InvalidBackend, Services};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::model::{LastingService, Lease, Service, ServiceList};
use crate::{Problem, ProblemClass};

/// The longest lease, in seconds.
const LONGEST: u32 = 86_400;

/// The most programs at once.
const MOST: usize = 64;

/// Exposed programs. Those without a lease come from the settings of the nara and cannot be replaced or
/// removed here. Clones share one list.
#[derive(Clone)]
pub(super) struct Leases {
    services: Services,
    held: Arc<Mutex<BTreeMap<String, Held>>>,
}

struct Held {
    backend: Backend,
    until: Instant,
    _expiry: AbortOnDropHandle<()>,
}

impl Leases {
    pub(super) fn new(services: Services) -> Self {
        Self {
            services,
            held: Arc::default(),
        }
    }

    /// Exposes a program, or renews its lease.
    pub(super) fn put(&self, prefix: &str, lease: &Lease) -> Result<Service, Problem> {
        let backend: Backend = lease.backend.parse().map_err(|error: InvalidBackend| {
            let problem = Problem::invalid(format!("the backend {:?}: {error}", lease.backend));
            problem.hint("use http://127.0.0.1:PORT or unix:/PATH")
        })?;
        if !(1..=LONGEST).contains(&lease.lease_s) {
            return Err(Problem::invalid(format!(
                "a lease lasts 1 to {LONGEST} seconds, not {}",
                lease.lease_s
            )));
        }
        let until = Instant::now() + Duration::from_secs(lease.lease_s.into());
        let mut held = self.lock();
        self.check_not_set(prefix, &held)?;
        if let Some(known) = held.get_mut(prefix) {
            if known.backend != backend {
                let detail = format!("{prefix} leads to {} until its lease ends", known.backend);
                let conflict =
                    Problem::new("prefix_taken", StatusCode::CONFLICT, ProblemClass::Failed, detail);
                return Err(conflict.hint("delete that service first, or choose another prefix"));
            }
            known.until = until;
            return Ok(self.service(prefix, &known.backend, until));
        }
        if held.len() >= MOST {
            let detail = format!("{MOST} programs are already exposed");
            let (status, class) = (StatusCode::SERVICE_UNAVAILABLE, ProblemClass::Failed);
            return Err(Problem::new("too_many_services", status, class, detail));
        }
        let put = self
            .services
            .put(prefix, backend.clone(), Backend::ANSWER_TIMEOUT);
        put.map_err(|error| Problem::new("prefix_taken", StatusCode::CONFLICT, ProblemClass::Usage, &error))?;
        let expiry = tokio::spawn(self.clone().expire(prefix.to_owned(), until));
        let exposed = self.service(prefix, &backend, until);
        let new = Held {
            backend,
            until,
            _expiry: AbortOnDropHandle::new(expiry),
        };
        held.insert(prefix.to_owned(), new);
        Ok(exposed)
    }

    /// Ends a lease. Returns whether there was one.
    pub(super) fn remove(&self, prefix: &str) -> Result<bool, Problem> {
        let mut held = self.lock();
        self.check_not_set(prefix, &held)?;
        Ok(held.remove(prefix).is_some() && self.services.remove(prefix))
    }

    /// Refuses a prefix that the settings expose.
    fn check_not_set(&self, prefix: &str, held: &BTreeMap<String, Held>) -> Result<(), Problem> {
        let is_known = self.services.programs().iter().any(|(known, _)| known == prefix);
        if !is_known || held.contains_key(prefix) {
            return Ok(());
        }
        let detail = format!("{prefix} is exposed by the settings of this nara and has no lease");
        let problem = Problem::new(
            "service_is_set",
            StatusCode::CONFLICT,
            ProblemClass::Usage,
            detail,
        );
        Err(problem.hint("choose another prefix, or remove it from `serve --expose` (the table `expose`) and restart the nara"))
    }

    /// Ends all leases.
    pub(super) fn end(&self) {
        let held = std::mem::take(&mut *self.lock());
        for prefix in held.keys() {
            self.services.remove(prefix);
        }
    }

    /// Returns the number of leases and their maximum.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.lock().len(), MOST)
    }

    pub(super) fn list(&self) -> ServiceList {
        // Locked first: otherwise a lease that ends meanwhile would appear as a program of the settings.
        let held = self.lock();
        let mut list = ServiceList::default();
        for (prefix, backend) in self.services.programs() {
            if let Some(leased) = held.get(&prefix) {
                list.services.push(self.service(&prefix, &backend, leased.until));
                continue;
            }
            let (requests, last_sender) = self.usage(&prefix);
            list.lasting.push(LastingService {
                prefix,
                backend: backend.to_string(),
                requests,
                last_sender,
            });
        }
        list
    }

    /// Waits for the end of a lease, which may have been renewed meanwhile.
    async fn expire(self, prefix: String, mut until: Instant) {
        loop {
            tokio::time::sleep_until(until).await;
            let mut held = self.lock();
            match held.get(&prefix) {
                Some(renewed) if renewed.until > Instant::now() => until = renewed.until,
                Some(_) => {
                    held.remove(&prefix);
                    self.services.remove(&prefix);
                    tracing::info!(%prefix, "the lease of a service ended");
                    return;
                }
                None => return,
            }
        }
    }

    /// `until`: the end of its lease.
    fn service(&self, prefix: &str, backend: &Backend, until: Instant) -> Service {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let (requests, last_sender) = self.usage(prefix);
        Service {
            prefix: prefix.to_owned(),
            backend: backend.to_string(),
            expires_in_ms: u64::try_from(left).unwrap_or(u64::MAX),
            requests,
            last_sender,
        }
    }

    /// Returns how many requests a program was sent, and the sender of the last one.
    fn usage(&self, prefix: &str) -> (u64, Option<String>) {
        let (requests, last_sender) = self.services.requests(prefix).unwrap_or_default();
        (requests, last_sender.map(|name| name.to_string()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_unless_it_is_renewed() {
        let leases = Leases::new(Services::default());
        let lease = Lease {
            backend: "unix:/x".to_owned(),
            lease_s: 10,
        };
        let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        leases.put("/notes", &lease).unwrap();
        wait(6).await;
        assert_eq!(leases.put("/notes", &lease).unwrap().expires_in_ms, 10_000);
        wait(6).await;
        assert_eq!(leases.list().services.len(), 1);
        wait(6).await;
        assert!(leases.list().services.is_empty() && !leases.services.remove("/notes"));
    }

    #[tokio::test]
    async fn programs_are_bounded_and_those_of_the_settings_are_listed_and_stay() {
        let services = Services::default();
        let set: Backend = "unix:/set".parse().unwrap();
        services.put("/set", set, Backend::ANSWER_TIMEOUT).unwrap();
        let leases = Leases::new(services.clone());
        let lease = |backend: &str| Lease {
            backend: backend.to_owned(),
            lease_s: 10,
        };
        for backend in ["unix:/set", "unix:/other"] {
            assert_eq!(
                leases.put("/set", &lease(backend)).unwrap_err().name(),
                "service_is_set"
            );
        }
        assert_eq!(leases.remove("/set").unwrap_err().name(), "service_is_set");
        for number in 0..MOST {
            leases.put(&format!("/{number}"), &lease("unix:/x")).unwrap();
        }
        let refused = leases.put("/more", &lease("unix:/x")).unwrap_err();
        assert_eq!((refused.name(), refused.status), ("too_many_services", 503));
        let ServiceList {
            services: leased,
            lasting,
        } = leases.list();
        let lasting = lasting.iter();
        let lasting: Vec<_> = lasting
            .map(|service| (&*service.prefix, &*service.backend))
            .collect();
        assert_eq!((leased.len(), lasting), (MOST, vec![("/set", "unix:/set")]));
        leases.end();
        assert_eq!(services.programs().len(), 1);
    }
}
