//! What the application adds to a server: the [`MeshHandler`].

use std::collections::BTreeMap;
use std::fmt::Debug;

use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;

use super::auth::sender::VerifiedSender;

/// What an application does with what its peers send, after the server has verified it.
///
/// Every method has a default that does nothing, so an application names only what it cares about. The
/// methods are called on the task of the request, before it is answered: they must return quickly and hand
/// longer work to a task or channel of their own. A panic in one costs its request (status 500), no more.
///
/// ```
/// use nara_mesh::proto::event::SyncEvent;
/// use nara_mesh::server::{MeshHandler, VerifiedSender};
///
/// #[derive(Debug)]
/// struct Printer;
///
/// impl MeshHandler for Printer {
///     fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
///         println!("{} sent {}", sender.name(), event.id);
///     }
/// }
/// ```
pub trait MeshHandler: Debug + Send + Sync + 'static {
    /// Whether a direct message is to this nara's taste; if not, its sender is told `success: false` (docs/protocol/v1.md, section 7.5). Called after the message was verified and before it is stored.
    fn accepts(&self, event: &SyncEvent) -> bool {
        let _ = event;
        true
    }

    /// A direct message was verified and is new in the ledger.
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        let _ = (sender, event);
    }

    /// A zine was verified; `events` are those of its events that were not refused. Some may have been known.
    fn on_zine(&self, sender: &VerifiedSender, events: &[SyncEvent]) {
        let _ = (sender, events);
    }

    /// A world message was verified and has our hop now; `complete`: this is its originator's own nara and it
    /// is home.
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        let _ = (message, complete);
    }

    /// A runtime message was verified: its signature is that of the nara `from_id`. Replies for which a call of
    /// the client waits go there instead.
    fn on_runtime_message(&self, message: &RuntimeMessage) {
        let _ = message;
    }

    /// The naras that are believed to be online, for relaying world messages and for hints in answers of
    /// `/peer/query`. `None`: those peers of the registry that have an address and are not known to be down.
    fn online_names(&self) -> Option<Vec<NaraName>> {
        None
    }

    /// How much this nara thinks of others: a world message goes to the one with the highest clout. Who is
    /// not listed has 0.
    fn clout(&self) -> BTreeMap<NaraName, f64> {
        BTreeMap::new()
    }
}

/// The handler of a server that needs none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHandler;

impl MeshHandler for NoHandler {}
