//! The path from alice to bob, with an attacker on it.

use std::sync::Arc;

use http::Method;
use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_proto::endpoint::{Authentication, Endpoint};
use nara_proto::go_json::JsonError;
use nara_proto::sync::SyncRequest;

use crate::fake_peer::FakePeer;
use crate::legacy;
use crate::proxy::Proxy;
use crate::support::{NOW, known, nara};

/// Our client alice, who reaches the v1-only bob through `attacker`, which she believes to be bob.
pub(crate) struct LegacyRoad {
    pub(crate) alice: MeshClient,
    pub(crate) attacker: Proxy,
    pub(crate) bob: LocalNara,
    pub(crate) peer: FakePeer,
    pub(crate) clock: ManualClock,
}

impl LegacyRoad {
    pub(crate) async fn start() -> Self {
        let (alice, bob) = (nara("alice"), nara("bob"));
        let clock = ManualClock::new(NOW.to_nanos());
        let peer = legacy::start(&bob, &alice, &clock).await;
        let attacker = Proxy::before(peer.address).await;
        let alice = MeshClient::builder(alice).clock(Arc::new(clock.clone())).build();
        alice
            .registry()
            .register(known(&bob, Some(attacker.address)))
            .unwrap();
        Self {
            alice,
            attacker,
            bob,
            peer,
            clock,
        }
    }

    /// Sends a sync request with this limit; returns the limit that is repeated in the answer.
    pub(crate) async fn sync(&self, limit: usize) -> Result<String, ClientError> {
        let request = SyncRequest::recent(limit);
        let answer = self.alice.fetch_sync_events(self.bob.id(), request).await?;
        assert!(answer.is_verified());
        Ok(answer.into_inner().next_cursor)
    }

    /// Sends a request with a query, to an endpoint of an application.
    pub(crate) async fn ask(&self, query: &str) -> Result<String, ClientError> {
        let answer = self
            .alice
            .peer(self.bob.id())
            .call::<Asked>(&query.to_owned())
            .await?;
        Ok(answer.into_inner())
    }
}

/// A signed endpoint whose request is its query.
pub(crate) struct Asked;

impl Endpoint for Asked {
    type Request = String;
    type Response = String;

    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/asked";
    const AUTHENTICATION: Authentication = Authentication::Signed;
    const IDEMPOTENT: bool = true;

    fn query(request: &String) -> Option<String> {
        Some(request.clone())
    }

    fn encode(_: &String) -> Option<Vec<u8>> {
        None
    }

    fn decode(body: &[u8]) -> Result<String, JsonError> {
        Ok(String::from_utf8_lossy(body).into_owned())
    }
}
