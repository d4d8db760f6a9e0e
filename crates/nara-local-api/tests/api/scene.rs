//! Two naras; the first one has a local API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nara_local_api::client::LocalClient;
use nara_local_api::server::{Journeys, LocalApi, LocalApiBuilder};
use nara_mesh::server::MeshHandler;
use nara_mesh::server::expose::Services;
use nara_mesh::{LocalNara, Nara};
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
struct Mailbox(Journeys);

impl MeshHandler for Mailbox {
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        if complete {
            self.0.came_home(message);
        }
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
        let journeys = Journeys::default();
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
            .handler(Mailbox(journeys.clone()))
            .configure_server(move |server| server.services(exposed));
        let alice = Arc::new(alice.start().await.unwrap());
        bob.registry().register(alice.as_peer()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nara.sock");
        let builder = LocalApi::builder(alice.clone());
        let api = adjust(builder.services(services).journeys(journeys)).start();
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

    /// Ends everything. Nothing of the API holds the nara afterwards.
    pub(crate) async fn end(self) {
        self.api.shutdown().await;
        let alice = Arc::into_inner(self.alice).unwrap();
        alice.shutdown(Duration::ZERO).await;
        self.bob.shutdown(Duration::ZERO).await;
    }
}
