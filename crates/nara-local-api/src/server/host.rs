use std::net::IpAddr;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::model::{Check, Reloaded, Way};

/// The program around a nara, which knows what the library does not. Every method defaults to "not offered".
pub trait Host: Send + Sync + 'static {
    /// Returns how the nara joined the mesh, such as `embedded`.
    fn network(&self) -> Option<String> {
        None
    }

    /// Returns the path of packets to an address of the mesh.
    fn way(&self, _: IpAddr) -> BoxFuture<'_, Option<Way>> {
        ready(None).boxed()
    }

    /// Returns the metrics in the Prometheus text format.
    fn metrics(&self) -> BoxFuture<'_, Option<String>> {
        ready(None).boxed()
    }

    /// Runs the checks of the doctor.
    fn doctor(&self) -> BoxFuture<'_, Option<Vec<Check>>> {
        ready(None).boxed()
    }

    /// Reads configuration and peers again, and applies them with the decisions in the ledger.
    fn reload(&self) -> BoxFuture<'_, Option<Reloaded>> {
        ready(None).boxed()
    }

    /// Starts the shutdown of the nara; returns whether it will shut down.
    fn end(&self) -> bool {
        false
    }
}

/// Stands for no program around the nara.
pub(super) struct NoHost;

impl Host for NoHost {}
