//! Gossip: every event reaches every nara of a connected mesh within a few hops.
//!
//! A [`GossipService`] subscribes to a few peers, and verifies and stores every new event that they send, with
//! its origin. The server of this nara forwards it to its own subscribers, except to the origin. Peers without
//! streams get a zine now and then. [`nara_proto::gossip`] decides which peers to subscribe to.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use nara_mesh::client::MeshClient;
//! use nara_mesh::gossip::{GossipConfig, GossipService};
//! use nara_mesh::ledger::Ledger;
//!
//! # async fn example(client: MeshClient, ledger: Arc<dyn Ledger>) {
//! let gossip = GossipService::start(client, ledger, GossipConfig::default(), GossipService::CATCH_UP);
//! let mut status = gossip.status();
//! while status.changed().await.is_ok() {
//!     println!("{} new events", status.borrow_and_update().total.new);
//! }
//! gossip.stop().await;
//! # }
//! ```

mod directory;
mod driver;
mod status;
mod zines;

pub(crate) use directory::{Directory, Label};
pub use nara_proto::gossip::GossipConfig;
pub use status::{EventCounts, GossipLink, GossipPeer, GossipStatus};
pub(crate) use zines::exchange_events;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::MeshClient;
use crate::defaults;
use crate::ledger::Ledger;
use driver::Driver;

/// The running gossip of one nara. Stops when dropped.
#[derive(Debug)]
pub struct GossipService {
    status: watch::Receiver<GossipStatus>,
    stopping: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl GossipService {
    /// How far back the first subscription to a peer usually starts: an hour.
    pub const CATCH_UP: Duration = defaults::GOSSIP_CATCH_UP;

    /// Starts gossip for the nara that `client` acts as, among the peers of its registry and by its clock.
    /// Received events go into `ledger`; pass the ledger of this nara's server, so that they spread further. The
    /// first subscription to a peer starts `catch_up` ago, later ones resume where the last one ended. Needs a
    /// tokio runtime.
    pub fn start(
        client: MeshClient,
        ledger: Arc<dyn Ledger>,
        config: GossipConfig,
        catch_up: Duration,
    ) -> Self {
        let stopping = CancellationToken::new();
        let (sender, status) = watch::channel(GossipStatus::default());
        let driver = Driver::new(client, ledger, config, catch_up, sender);
        let task = tokio::spawn(driver.run(stopping.clone()).boxed());
        Self {
            status,
            stopping,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Returns a receiver of the status. It reflects a change of a peer at once, counts within 250 ms.
    pub fn status(&self) -> watch::Receiver<GossipStatus> {
        self.status.clone()
    }

    /// Ends all subscriptions and zine exchanges, and waits until they have ended.
    pub async fn stop(self) {
        self.stopping.cancel();
        // A panic of the task was reported when it happened.
        let _ = self.task.await;
    }
}
