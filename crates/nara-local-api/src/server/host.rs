use std::net::IpAddr;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::model::{Check, Reloaded, Way};

/// The program around a nara: what the library does not know. Every method has a default, "not offered".
pub trait Host: Send + Sync + 'static {
    /// How the nara joined the mesh, such as `embedded`.
    fn network(&self) -> Option<String> {
        None
    }

    /// Which way packets to an address of the mesh take.
    fn way(&self, _: IpAddr) -> BoxFuture<'_, Option<Way>> {
        ready(None).boxed()
    }

    /// Metrics in the text format of Prometheus.
    fn metrics(&self) -> BoxFuture<'_, Option<String>> {
        ready(None).boxed()
    }

    /// Looks for what keeps the nara from talking to others.
    fn doctor(&self) -> BoxFuture<'_, Option<Vec<Check>>> {
        ready(None).boxed()
    }

    /// Reads configuration and peers again, and applies them with the decisions in the ledger.
    fn reload(&self) -> BoxFuture<'_, Option<Reloaded>> {
        ready(None).boxed()
    }

    /// Begins to end the nara; returns whether it will end.
    fn end(&self) -> bool {
        false
    }
}

/// No program around the nara.
pub(super) struct NoHost;

impl Host for NoHost {}
