//! Port mapping (PCP, NAT-PMP, UPnP): makes this node reachable behind a NAT with endpoint-dependent mapping.
//!
//! | file | content |
//! |---|---|
//! | `route` | the default gateway and its changes |
//! | `lease` | one mapping at one gateway, and the checks of its answers |
//! | `upnp` | a client for UPnP, for which there is no small crate |
//!
//! Nothing waits for a mapping. Only IPv4 is mapped.

mod lease;
mod route;
mod upnp;

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::time::Duration;

use nara_mesh::proto::backoff::Backoff;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::lease::Lease;
use self::route::Route;
use crate::embedded::interfaces::Addresses;
use crate::embedded::sleep::{Sleeps, slept};
use crate::random::random;
use crate::status::PortMapping;

/// The minimum and the maximum pause after a refusal: port mapping may be enabled on the router later.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const ASK_SELDOM: Duration = Duration::from_secs(15 * 60);
/// The remaining lifetime below which a mapping is not renewed any more.
const LAST_MOMENT: Duration = Duration::from_secs(20);

/// The task that maintains a port mapping.
#[derive(Debug)]
pub(super) struct Mapper {
    /// Our local port.
    port: NonZeroU16,
    state: watch::Sender<PortMapping>,
    release: mpsc::Receiver<oneshot::Sender<()>>,
}

/// A handle that releases the mapping and ends the task.
#[derive(Debug)]
pub(in crate::embedded) struct Release(mpsc::Sender<oneshot::Sender<()>>);

impl Release {
    /// Releases the mapping at the router, in bounded time.
    pub(in crate::embedded) async fn release(&self) {
        let (done, released) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            let _ = released.await;
        }
    }
}

impl Mapper {
    pub(super) fn new(port: NonZeroU16, state: watch::Sender<PortMapping>) -> (Self, Release) {
        let (sender, release) = mpsc::channel(1);
        let mapper = Self { port, state, release };
        (mapper, Release(sender))
    }

    /// Runs until the mapping is released.
    pub(super) async fn run(self, addresses: Addresses, sleeps: Sleeps) {
        let routes = watch::Sender::default();
        let watched = routes.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(route::run(routes, addresses));
        self.follow(watched, sleeps).await;
    }

    /// Holds a mapping at the gateway of the current route. After a sleep the mapping may have expired, so it is
    /// requested
    /// again.
    async fn follow(mut self, mut routes: watch::Receiver<Option<Route>>, mut sleeps: Sleeps) {
        let mut lease = None;
        loop {
            let route = *routes.borrow_and_update();
            let held = hold(route, self.port, &self.state, &mut lease);
            let done = tokio::select! {
                never = held => match never {},
                Ok(()) = routes.changed() => None,
                () = slept(&mut sleeps) => None,
                done = self.release.recv() => Some(done),
            };
            // Withdraws the endpoint before the mapping is released.
            self.state.send_replace(PortMapping::Off);
            if let Some(lease) = lease.take() {
                lease.release().await;
            }
            match done {
                Some(Some(done)) => return done.send(()).unwrap_or_default(),
                // The node was dropped.
                Some(None) => return,
                None => {}
            }
        }
    }
}

/// Requests a mapping until one is granted, and renews it.
async fn hold(
    route: Option<Route>,
    port: NonZeroU16,
    state: &watch::Sender<PortMapping>,
    held: &mut Option<Lease>,
) -> Infallible {
    let Some(route) = route else {
        state.send_replace(PortMapping::NoRouter);
        return std::future::pending().await;
    };
    let router = route.gateway.into();
    let mut unanswered = Backoff::new(ASK_AGAIN, ASK_SELDOM);
    state.send_replace(PortMapping::Asking { router });
    loop {
        match Lease::ask(route, port).await {
            Ok(granted) => {
                unanswered.reset();
                keep(held.insert(granted), state, route).await;
                *held = None;
                tracing::info!(%router, "the port mapping expired: the router did not renew it");
                state.send_replace(PortMapping::Asking { router });
            }
            Err(refusals) => {
                let detail = refusals.to_string();
                tracing::debug!(%router, detail, "the router does not map a port");
                state.send_replace(PortMapping::Refused { router, detail });
                sleep(unanswered.after_failure(random())).await;
            }
        }
    }
}

/// Renews a mapping after half of its remaining lifetime, until it expires.
async fn keep(lease: &mut Lease, state: &watch::Sender<PortMapping>, route: Route) {
    loop {
        let mapped = PortMapping::Mapped {
            router: route.gateway.into(),
            protocol: lease.protocol().name(),
            external: lease.external,
        };
        state.send_if_modified(|old| {
            let differs = *old != mapped;
            if differs {
                tracing::info!(external = %lease.external, protocol = lease.protocol().name(), "the router maps a port to this node");
                *old = mapped;
            }
            differs
        });
        loop {
            let left = lease.ends.saturating_duration_since(Instant::now());
            if left <= LAST_MOMENT {
                return sleep_until(lease.ends).await;
            }
            sleep(left / 2).await;
            match lease.renew().await {
                Ok(()) => break,
                Err(refusal) => tracing::debug!(%refusal, "the port mapping was not renewed"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
