//! The hook of the application into a server: the [`MeshHandler`].

use std::collections::BTreeMap;
use std::fmt::Debug;

use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;

use super::auth::sender::VerifiedSender;

/// Handles what peers send, after the server has verified it.
///
/// Every method has a default that does nothing. The methods are called on the task of the request, before it is
/// answered: return quickly, and hand longer work to a task or channel. A panic fails its request (status 500) and
/// nothing else.
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
    /// Whether this nara accepts a direct message; if not, the sender gets `success: false` (docs/protocol/v1.md,
    /// section 7.5). Called after the message was verified and before it is stored.
    fn accepts(&self, event: &SyncEvent) -> bool {
        let _ = event;
        true
    }

    /// A direct message was verified and is new in the ledger.
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        let _ = (sender, event);
    }

    /// A zine was verified; `events` are its accepted events. Some may have been known before.
    fn on_zine(&self, sender: &VerifiedSender, events: &[SyncEvent]) {
        let _ = (sender, events);
    }

    /// A world message was verified and has our hop now; `complete`: this nara is its originator, and it is home.
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        let _ = (message, complete);
    }

    /// A runtime message was verified: the nara `from_id` signed it. Replies that a call of the client waits for go
    /// to that call instead.
    fn on_runtime_message(&self, message: &RuntimeMessage) {
        let _ = message;
    }

    /// The naras that are probably online, for relaying world messages and for hints in answers of `/peer/query`.
    /// `None`: the peers of the registry that have an address and are not down.
    fn online_names(&self) -> Option<Vec<NaraName>> {
        None
    }

    /// The clout of others: a world message goes to the nara with the highest clout. Naras that are not listed have
    /// 0.
    fn clout(&self) -> BTreeMap<NaraName, f64> {
        BTreeMap::new()
    }
}

/// A handler that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoHandler;

impl MeshHandler for NoHandler {}
