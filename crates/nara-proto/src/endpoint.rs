//! The endpoints of the mesh: each is one type, from which both client and server are built.

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::event::SyncEvent;
use crate::go_json::{self, JsonError, Merge};
use crate::import::{ImportRequest, ImportResponse};
use crate::peer::{CheckpointsResponse, CoordinatesResponse, PeerQueryResponse, PingResponse, Receipt};
use crate::reconcile::{FetchRequest, MAX_FRAME, Scope};
use crate::runtime_message::RuntimeMessage;
use crate::stream::StreamRequest;
use crate::sync::{SyncRequest, SyncResponse};
use crate::world::WorldMessage;
use crate::zine::Zine;

/// The proof that each side of an endpoint must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication {
    /// Neither side signs: the answer is only as trustworthy as the network.
    Open,
    /// The body of the request contains a signature that was made with the receiver's own key.
    OwnSoul,
    /// The request is signed by the sender, the response by the responder.
    Signed,
}

/// Returns the name of the endpoint of this request, such as `GET /ping`, if its answers are never signed.
pub fn never_signed(method: &Method, path: &str) -> Option<&'static str> {
    fn is<E: Endpoint>(method: &Method, path: &str) -> bool {
        E::AUTHENTICATION != Authentication::Signed && E::METHOD == *method && E::PATH == path
    }
    let found = if is::<Ping>(method, path) {
        "GET /ping"
    } else if is::<GetCoordinates>(method, path) {
        "GET /coordinates"
    } else if is::<PeerQuery>(method, path) {
        "GET /peer/query"
    } else if is::<AllCheckpoints>(method, path) {
        "GET /api/checkpoints/all"
    } else if is::<EventsImport>(method, path) {
        "POST /api/events/import"
    } else {
        return None;
    };
    Some(found)
}

/// How a server treats a second request with the same signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repetition {
    /// Accepted as another message if it comes from the same source address and has another body: the sender has signed
    /// the body itself. The same body again is a replay. A v1 signature covers the millisecond only, so two messages of
    /// one peer may share one.
    OtherBody,
    /// Refused as a replay.
    Refused,
    /// Accepted from the same source address: v1 peers may send two equal requests in one millisecond.
    SameSource,
}

/// An endpoint of the mesh.
pub trait Endpoint: Send + Sync + 'static {
    /// The request type.
    type Request: Send + Sync;
    /// The type of a response with status 200.
    type Response: Send + Sync;

    /// The HTTP method.
    const METHOD: Method;
    /// The path, plain ASCII.
    const PATH: &'static str;
    /// The proof that each side must give.
    const AUTHENTICATION: Authentication;
    /// How a repeated signature is treated; only for [`Authentication::Signed`].
    const REPETITION: Repetition = Repetition::Refused;
    /// Whether a client may safely retry the request with a new signature.
    const IDEMPOTENT: bool;
    /// The content type of a request body.
    const CONTENT_TYPE: &'static str = "application/json";
    /// The maximum size of a request body in bytes.
    const MAX_REQUEST: usize = 1 << 20;
    /// The maximum size of a response body in bytes.
    const MAX_RESPONSE: usize = 1 << 20;

    /// Returns the query of the request, without `?`.
    fn query(_: &Self::Request) -> Option<String> {
        None
    }

    /// Encodes the body of the request; `None` for a request without a body.
    fn encode(request: &Self::Request) -> Option<Vec<u8>>;

    /// Decodes the body of a response with status 200.
    ///
    /// # Errors
    /// [`JsonError`] if the body is not a response of this endpoint.
    fn decode(body: &[u8]) -> Result<Self::Response, JsonError>;
}

macro_rules! json_endpoints {
    ($($(#[$doc:meta])* $name:ident: $path:literal, $auth:ident, $idempotent:literal,
        $request:ty => $response:ty { $($extra:item)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[non_exhaustive]
        pub struct $name;

        impl Endpoint for $name {
            type Request = $request;
            type Response = $response;

            const METHOD: Method = Method::POST;
            const PATH: &'static str = $path;
            const AUTHENTICATION: Authentication = Authentication::$auth;
            const IDEMPOTENT: bool = $idempotent;
            $($extra)*

            fn encode(request: &Self::Request) -> Option<Vec<u8>> {
                Some(go_json::to_vec(request))
            }

            fn decode(body: &[u8]) -> Result<Self::Response, JsonError> {
                go_json::from_slice(body)
            }
        }
    )*};
}

json_endpoints! {
    /// `POST /events/sync`: events of the ledger (docs/protocol/v1.md, section 7.3).
    EventsSync: "/events/sync", Signed, true, SyncRequest => SyncResponse {
        const REPETITION: Repetition = Repetition::SameSource;
        const MAX_RESPONSE: usize = 16 << 20;
    }
    /// `POST /events/fetch`: events of the ledger by id; an extension.
    EventsFetch: "/events/fetch", Signed, true, FetchRequest => SyncResponse {
        const MAX_RESPONSE: usize = 16 << 20;
    }
    /// `POST /gossip/zine`: exchange of recent events (section 7.4).
    GossipZine: "/gossip/zine", Signed, false, Zine => Zine {
        const REPETITION: Repetition = Repetition::OtherBody;
        const MAX_REQUEST: usize = 16 << 20;
        const MAX_RESPONSE: usize = 16 << 20;
    }
    /// `POST /dm`: delivers one event directly (section 7.5).
    DirectMessage: "/dm", Signed, false, SyncEvent => Receipt {
        const REPETITION: Repetition = Repetition::OtherBody;
    }
    /// `POST /world/relay`: forwards a postcard (section 7.6).
    WorldRelay: "/world/relay", Signed, false, WorldMessage => Receipt {}
    /// `POST /api/events/import`: imports a backup (section 7.10).
    EventsImport: "/api/events/import", OwnSoul, false, ImportRequest => ImportResponse {
        const MAX_REQUEST: usize = 16 << 20;
    }
}

/// `POST /mesh/message`: a runtime message (section 7.7). The answer is always empty.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MeshMessage;

impl Endpoint for MeshMessage {
    type Request = RuntimeMessage;
    type Response = ();

    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/mesh/message";
    const AUTHENTICATION: Authentication = Authentication::Signed;
    const REPETITION: Repetition = Repetition::OtherBody;
    const IDEMPOTENT: bool = false;

    fn encode(request: &Self::Request) -> Option<Vec<u8>> {
        Some(request.to_json())
    }

    fn decode(_: &[u8]) -> Result<(), JsonError> {
        Ok(())
    }
}

/// `POST /events/reconcile`: one round of a [reconciliation](crate::reconcile); an extension. The bodies are frames.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EventsReconcile;

/// The request of [`EventsReconcile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconcileRequest {
    /// The events that are compared.
    pub scope: Scope,
    /// The initiator's frame.
    pub frame: Vec<u8>,
}

impl Endpoint for EventsReconcile {
    type Request = ReconcileRequest;
    type Response = Vec<u8>;

    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/events/reconcile";
    const AUTHENTICATION: Authentication = Authentication::Signed;
    const IDEMPOTENT: bool = true;
    const CONTENT_TYPE: &'static str = "application/octet-stream";
    const MAX_REQUEST: usize = MAX_FRAME;
    const MAX_RESPONSE: usize = MAX_FRAME;

    fn query(request: &Self::Request) -> Option<String> {
        request.scope.to_query()
    }

    fn encode(request: &Self::Request) -> Option<Vec<u8>> {
        Some(request.frame.clone())
    }

    fn decode(body: &[u8]) -> Result<Self::Response, JsonError> {
        Ok(body.to_vec())
    }
}

/// `GET /events/stream`: events as they arrive, an extension (see [`stream`](crate::stream)). The answer is endless, so
/// it is read message by message and never decoded as a whole.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EventsStream;

impl Endpoint for EventsStream {
    type Request = StreamRequest;
    type Response = ();

    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/events/stream";
    const AUTHENTICATION: Authentication = Authentication::Signed;
    const IDEMPOTENT: bool = true;

    fn query(request: &StreamRequest) -> Option<String> {
        Some(request.to_query()).filter(|query| !query.is_empty())
    }

    fn encode(_: &StreamRequest) -> Option<Vec<u8>> {
        None
    }

    fn decode(_: &[u8]) -> Result<(), JsonError> {
        Ok(())
    }
}

macro_rules! get_endpoints {
    ($($(#[$doc:meta])* $name:ident: $path:literal, $request:ty => $response:ty { $($extra:item)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[non_exhaustive]
        pub struct $name;

        impl Endpoint for $name {
            type Request = $request;
            type Response = $response;

            const METHOD: Method = Method::GET;
            const PATH: &'static str = $path;
            const AUTHENTICATION: Authentication = Authentication::Open;
            const IDEMPOTENT: bool = true;
            $($extra)*

            fn encode(_: &Self::Request) -> Option<Vec<u8>> {
                None
            }

            fn decode(body: &[u8]) -> Result<Self::Response, JsonError> {
                decode_json(body)
            }
        }
    )*};
}

fn decode_json<T: Merge>(body: &[u8]) -> Result<T, JsonError> {
    go_json::from_slice(body)
}

get_endpoints! {
    /// `GET /ping`: name, key and clock of a nara (section 7.1).
    Ping: "/ping", () => PingResponse {
        const MAX_RESPONSE: usize = 4 << 10;
    }
    /// `GET /coordinates`: network coordinates of a nara (section 7.2).
    GetCoordinates: "/coordinates", () => CoordinatesResponse {
        const MAX_RESPONSE: usize = 4 << 10;
    }
    /// `GET /peer/query`: searches for the key of a nara (section 7.8).
    PeerQuery: "/peer/query", PeerQueryRequest => PeerQueryResponse {
        const MAX_RESPONSE: usize = 4 << 10;

        fn query(request: &PeerQueryRequest) -> Option<String> {
            let asked: Vec<_> = request.asked.iter().map(|name| query_escape(name)).collect();
            Some(format!("target={}&asked={}", query_escape(&request.target), asked.join(",")))
        }
    }
    /// `GET /api/checkpoints/all`: checkpoints by offset, for peers whose sync returns no checkpoints (section 7.9).
    AllCheckpoints: "/api/checkpoints/all", CheckpointsRequest => CheckpointsResponse {
        const MAX_RESPONSE: usize = 16 << 20;

        fn query(request: &CheckpointsRequest) -> Option<String> {
            Some(format!("limit={}&offset={}", request.limit, request.offset))
        }
    }
}

/// The request of [`PeerQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerQueryRequest {
    /// The name of the nara whose key is searched.
    pub target: String,
    /// The naras that were asked already. The wire cannot carry names with commas.
    pub asked: Vec<String>,
}

/// The request of [`AllCheckpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointsRequest {
    /// The number of checkpoints, at most 10,000.
    pub limit: u32,
    /// The number of checkpoints to skip.
    pub offset: u32,
}

/// The paths of all endpoints.
pub const PATHS: [&str; 13] = [
    AllCheckpoints::PATH,
    DirectMessage::PATH,
    EventsFetch::PATH,
    EventsImport::PATH,
    EventsReconcile::PATH,
    EventsStream::PATH,
    EventsSync::PATH,
    GetCoordinates::PATH,
    GossipZine::PATH,
    MeshMessage::PATH,
    PeerQuery::PATH,
    Ping::PATH,
    WorldRelay::PATH,
];

/// The maximum number of naras that one `/peer/query` search asks (section 7.8).
pub const MAX_QUERY_HOPS: usize = 9;

/// All bytes except the unreserved characters of RFC 3986, section 2.3.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(crate) fn query_escape(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_queries() {
        let request = PeerQueryRequest {
            target: "a b&c=d".to_owned(),
            asked: vec!["é".to_owned(), "o'b".to_owned()],
        };
        assert_eq!(
            PeerQuery::query(&request).unwrap(),
            "target=a%20b%26c%3Dd&asked=%C3%A9,o%27b"
        );
    }
}
