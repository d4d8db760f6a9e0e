//! The hook of the application into a server: the [`MeshHandler`].

use std::collections::BTreeMap;
use std::fmt::Debug;

use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;

use super::auth::sender::VerifiedSender;

/// A handler of messages of peers, called after the server has verified them.
///
/// Every method has a default that does nothing. The methods are called on the task of the request, before it is
/// answered: return quickly, and pass longer work to a task or channel. A panic only fails its request (status 500).
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
    /// Returns whether this nara accepts a direct message; if not, the sender gets `success: false`
    /// (docs/protocol/v1.md, section 7.5). Called after the message was verified and before it is stored.
    fn accepts(&self, event: &SyncEvent) -> bool {
        let _ = event;
        true
    }

    /// Handles a verified direct message that is new in the ledger.
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        let _ = (sender, event);
    }

    /// Handles a verified zine; `events` are its accepted events. Some may have been known before.
    fn on_zine(&self, sender: &VerifiedSender, events: &[SyncEvent]) {
        let _ = (sender, events);
    }

    /// Handles a verified world message to which our hop was added; `complete` if this nara is its originator.
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        let _ = (message, complete);
    }

    /// Handles a runtime message whose signature by the nara `from_id` was verified. Replies to a pending call of the
    /// client go to that call instead.
    fn on_runtime_message(&self, message: &RuntimeMessage) {
        let _ = message;
    }

    /// Returns the naras that are probably online, for relaying world messages and for hints in answers of
    /// `/peer/query`. `None` selects the peers of the registry that have an address and are not down.
    fn online_names(&self) -> Option<Vec<NaraName>> {
        None
    }

    /// Returns the clout of other naras: a world message goes to the nara with the highest clout. Naras that are not
    /// listed have 0.
    fn clout(&self) -> BTreeMap<NaraName, f64> {
        BTreeMap::new()
    }
}

/// A handler that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoHandler;

impl MeshHandler for NoHandler {}
