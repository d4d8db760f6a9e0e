//! Two naras; the first one has a local API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nara_local_api::client::LocalClient;
use nara_local_api::server::{Inbox, Journeys, LocalApi, LocalApiBuilder};
use nara_mesh::server::expose::Services;
use nara_mesh::server::{MeshHandler, VerifiedSender};
use nara_mesh::{LocalNara, Nara};
use nara_proto::event::SyncEvent;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use tempfile::TempDir;

pub(crate) struct Scene {
    pub(crate) alice: Arc<Nara>,
    pub(crate) bob: Nara,
    pub(crate) api: LocalApi,
    pub(crate) client: LocalClient,
    pub(crate) socket: PathBuf,
    _folder: TempDir,
}

/// Reports the postcards that come home.
#[derive(Debug)]
struct Mailbox(Journeys, Inbox);

impl MeshHandler for Mailbox {
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        self.1.direct_message(sender, event);
    }

    fn on_runtime_message(&self, message: &RuntimeMessage) {
        self.1.runtime_message(message);
    }

    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        if complete {
            self.0.came_home(message);
        }
        self.1.postcard(message, complete);
    }
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(LocalApiBuilder) -> LocalApiBuilder) -> Self {
        let [alice, bob] = ["alice", "bob"].map(|name| LocalNara::generate(name).unwrap());
        let local = || "127.0.0.1:0".parse().unwrap();
        let services = Services::default();
        let exposed = services.clone();
        let (journeys, inbox) = (Journeys::default(), Inbox::default());
        let bob = Nara::builder(bob)
            .listen(local())
            .know(alice.as_peer(None))
            .without_gossip()
            .routes(axum::Router::new().fallback(crate::services::echo));
        let bob = bob.start().await.unwrap();
        let alice = Nara::builder(alice)
            .listen(local())
            .know(bob.as_peer())
            .without_gossip()
            .handler(Mailbox(journeys.clone(), inbox.clone()))
            .configure_server(move |server| server.services(exposed));
        let alice = Arc::new(alice.start().await.unwrap());
        bob.registry().register(alice.as_peer()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nara.sock");
        let builder = LocalApi::builder(alice.clone());
        let api = adjust(builder.services(services).journeys(journeys).inbox(inbox)).start();
        api.listen(&socket).unwrap();
        Self {
            alice,
            bob,
            api,
            client: LocalClient::new(&socket),
            socket,
            _folder: folder,
        }
    }

    /// Shuts everything down. Nothing of the API holds the nara afterwards.
    pub(crate) async fn end(self) {
        self.api.shutdown().await;
        let alice = Arc::into_inner(self.alice).unwrap();
        alice.shutdown(Duration::ZERO).await;
        self.bob.shutdown(Duration::ZERO).await;
    }
}
