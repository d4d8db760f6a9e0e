//! A port of the router that leads to ours (PCP, NAT-PMP, UPnP): the way in where a NAT gives every destination another port.
//!
//! | file | is |
//! |---|---|
//! | `route` | which gateway is asked, and when that changes |
//! | `lease` | asking one gateway once, and what of its answer is believed |
//! | `upnp` | the last of the three protocols, for which there is no small crate |
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

/// The first pause after a gateway that grants nothing, and the longest one: somebody may switch it on.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const ASK_SELDOM: Duration = Duration::from_secs(15 * 60);
/// A mapping with less left is not renewed any more.
const LAST_MOMENT: Duration = Duration::from_secs(20);

/// The task that keeps a port mapped.
#[derive(Debug)]
pub(super) struct Mapper {
    /// Ours.
    port: NonZeroU16,
    state: watch::Sender<PortMapping>,
    release: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Ends the task, in an order that leaves nothing behind.
#[derive(Debug)]
pub(in crate::embedded) struct Release(mpsc::Sender<oneshot::Sender<()>>);

impl Release {
    /// Gives the port back to the router, in bounded time.
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

    /// Runs until the port is given back.
    pub(super) async fn run(self, addresses: Addresses, sleeps: Sleeps) {
        let routes = watch::Sender::default();
        let watched = routes.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(route::run(routes, addresses));
        self.follow(watched, sleeps).await;
    }

    /// Asks the gateway of each route for as long as it is the one. Where the node has slept, the mapping may have ended.
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
            // Before peers are told anything else: it leads nowhere now.
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

/// Asks until there is a mapping, and keeps it.
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
                tracing::info!(%router, "the router does not renew our port mapping");
                state.send_replace(PortMapping::Asking { router });
            }
            Err(refusals) => {
                let detail = refusals.to_string();
                tracing::debug!(%router, detail, "the router maps no port");
                state.send_replace(PortMapping::Refused { router, detail });
                sleep(unanswered.after_failure(random())).await;
            }
        }
    }
}

/// Renews a mapping at half of what is left of its life, until it ends all the same.
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
                tracing::info!(external = %lease.external, protocol = lease.protocol().name(), "the router maps a port to us");
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
                Err(refusal) => tracing::debug!(%refusal, "our port mapping was not renewed"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
