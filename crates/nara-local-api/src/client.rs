//! The client of the local API.

mod access;
mod events;
mod outbox;

pub use events::{Events, ServerEvent};
pub use outbox::Sent;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::Problem;
use crate::model::{
    Acknowledged, Acknowledgement, Check, ClockStatus, Coordinates, Decision, DirectMessage,
    DirectMessageReceipt, Dropped, Hearsay, InboxPage, Journey, JourneyList, MessageReceipt, OutgoingMessage,
    Peer, PeerList, Pong, Postcard, PostcardReceipt, Reloaded, StashList, Stashed, Status, Trust, Zine,
};

/// The JSON of `()`: the request has no body.
const NOTHING: &[u8] = b"null";

/// The type-erased body of a request.
type AnyBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// The characters to percent-encode in a path segment.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A client of one running nara, through its socket. Each call opens a new connection.
#[derive(Clone, Debug)]
pub struct LocalClient {
    socket: PathBuf,
    timeout: Option<Duration>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection broke, or the server does not speak HTTP.
    #[error("the nara behind {} does not answer", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: hyper::Error,
    },
    /// The answer broke off before its end.
    #[error("the answer of the nara behind {} broke off: it stopped, or it cut off a slow reader", path.display())]
    BrokenOff {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No process listens on the socket.
    #[error("no nara listens on {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The answer has an unexpected form.
    #[error("the answer of the nara behind {} is incompatible with this version", path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The nara reported a problem.
    #[error(transparent)]
    Problem(Box<Problem>),
}

impl CallError {
    /// Returns whether the nara was stopped before or while it answered: a retry may succeed once it runs
    /// again.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::BrokenOff { .. }) || self.is_not_running()
    }

    /// Returns whether no process listens on the socket.
    pub fn is_not_running(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Connect { source, .. } if matches!(source.kind(), ConnectionRefused | NotFound))
    }
}

impl LocalClient {
    /// Creates a client of the nara that listens on this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: None,
        }
    }

    /// Sets a time limit for the calls of the nara to its peers.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns the path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the status of the running nara.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn status(&self) -> Result<Status, CallError> {
        self.get("/v1/status").await
    }

    /// Returns the known peers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn peers(&self) -> Result<Vec<Peer>, CallError> {
        let list: PeerList = self.get("/v1/peers").await?;
        Ok(list.peers)
    }

    /// Pings a peer. With `whole`, it is also asked for its coordinates, and for a signed answer if the ping
    /// does not prove its clock. With `insist`, it is called even if it did not answer the last calls.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ping(&self, peer: &str, whole: bool, insist: bool) -> Result<Pong, CallError> {
        let word = |is: bool| if is { "true" } else { "false" };
        let whole = word(whole);
        let query = [
            ("prove_clock", whole),
            ("estimate", whole),
            ("insist", word(insist)),
        ];
        let path = self.peer_path(peer, "ping", &query);
        self.send(Method::POST, &path, &()).await
    }

    /// Asks a peer for the key of another nara. The answer is not signed.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask_for_key(&self, peer: &str, nara: &str) -> Result<Hearsay, CallError> {
        self.get(&self.peer_path(peer, "query", &[("target", nara)]))
            .await
    }

    /// Sends a direct message now; [`Self::dm_later`] sends one that may wait.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dm(&self, peer: &str, message: &DirectMessage) -> Result<DirectMessageReceipt, CallError> {
        self.send(Method::POST, &self.peer_path(peer, "dm", &[]), message)
            .await
    }

    /// Exchanges recent events with a peer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn zine(&self, peer: &str) -> Result<Zine, CallError> {
        self.send(Method::POST, &self.peer_path(peer, "zine", &[]), &())
            .await
    }

    /// Sends a postcard now; [`Self::postcard_later`] sends one that may wait.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn postcard(&self, postcard: &Postcard) -> Result<PostcardReceipt, CallError> {
        let path = format!("/v1/postcards{}", self.query(&[]));
        self.send(Method::POST, &path, postcard).await
    }

    /// Sends a runtime message, and waits for its reply if requested.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn message(&self, peer: &str, message: &OutgoingMessage) -> Result<MessageReceipt, CallError> {
        let path = self.peer_path(peer, "messages", &[]);
        self.send(Method::POST, &path, message).await
    }

    /// Returns the postcards that the nara sent, oldest first.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn postcards(&self) -> Result<Vec<Journey>, CallError> {
        let list: JourneyList = self.get("/v1/postcards").await?;
        Ok(list.postcards)
    }

    /// Returns the journey of a postcard.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn journey(&self, id: &str) -> Result<Journey, CallError> {
        self.get(&format!("/v1/postcards/{}", segment(id))).await
    }

    /// Returns unacknowledged messages of peers after a cursor.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn inbox(&self, after: Option<&str>) -> Result<InboxPage, CallError> {
        let query = after.map(|after| format!("?after={}", segment(after)));
        self.get(&format!("/v1/inbox{}", query.unwrap_or_default())).await
    }

    /// Acknowledges all messages up to a cursor. Returns how many were removed from the inbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn acknowledge(&self, through: &str) -> Result<usize, CallError> {
        let done = Acknowledgement {
            through: through.to_owned(),
        };
        let acknowledged: Acknowledged = self.send(Method::POST, "/v1/inbox/acknowledge", &done).await?;
        Ok(acknowledged.acknowledged)
    }

    /// Stores sealed data at a peer, replacing what the nara stored there before.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_stash(&self, peer: &str, data: impl Into<Bytes>) -> Result<Stashed, CallError> {
        let request = Request::put(self.peer_path(peer, "stash", &[]))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(data.into()))
            .map_err(|error| self.malformed(&error))?;
        let answer = self.call(request).await?;
        let body = self.collect(answer.into_body()).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(&error))
    }

    /// Fetches the data that the nara stored at a peer; `None` if the peer has none.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_stash(&self, peer: &str) -> Result<Option<Bytes>, CallError> {
        match self
            .request_bytes(Method::GET, &self.peer_path(peer, "stash", &[]))
            .await
        {
            Err(CallError::Problem(problem)) if problem.name() == "no_stash" => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Returns the stashes that peers store at the nara.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn stashes(&self) -> Result<StashList, CallError> {
        self.get("/v1/stashes").await
    }

    /// Deletes the stash of a peer; returns whether there was one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn drop_stash(&self, owner_id: &str) -> Result<bool, CallError> {
        let path = format!("/v1/stashes/{}", segment(owner_id));
        let dropped: Dropped = self.send(Method::DELETE, &path, &()).await?;
        Ok(dropped.dropped)
    }

    /// Returns the clock of the nara, and the last time it was set.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn clock(&self) -> Result<ClockStatus, CallError> {
        self.get("/v1/clock").await
    }

    /// Returns the network coordinates of the nara.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn coordinates(&self) -> Result<Coordinates, CallError> {
        self.get("/v1/coordinates").await
    }

    /// Trusts a key of a peer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn trust(&self, peer: &str, trust: &Trust) -> Result<Decision, CallError> {
        self.send(Method::PUT, &format!("/v1/peers/{}/trust", segment(peer)), trust)
            .await
    }

    /// Bans a peer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ban(&self, peer: &str) -> Result<Decision, CallError> {
        self.send(Method::PUT, &format!("/v1/peers/{}/ban", segment(peer)), &())
            .await
    }

    /// Forgets a peer: its keys and the decisions about it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn forget(&self, peer: &str) -> Result<Decision, CallError> {
        self.send(Method::DELETE, &format!("/v1/peers/{}", segment(peer)), &())
            .await
    }

    /// Runs the checks of the doctor.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn doctor(&self) -> Result<Vec<Check>, CallError> {
        self.get("/v1/doctor").await
    }

    /// Makes the nara read its files again.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn reload(&self) -> Result<Reloaded, CallError> {
        self.send(Method::POST, "/v1/reload", &()).await
    }

    /// Sends a GET request, and decodes the JSON answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.send(Method::GET, path, &()).await
    }

    /// Sends JSON, or no body for `()`, and decodes the JSON answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, CallError> {
        let json = serde_json::to_vec(body).map_err(|error| self.malformed(&error))?;
        let body = self.exchange(method, path, json).await?;
        serde_json::from_slice(&body).map_err(|error| self.malformed(&error))
    }

    /// Sends a request without a body, and returns the raw body of the answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn request_bytes(&self, method: Method, path: &str) -> Result<Bytes, CallError> {
        self.exchange(method, path, NOTHING.to_vec()).await
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn events(&self, method: Method, path: &str) -> Result<Events, CallError> {
        let answer = self.call(self.request(method, path, NOTHING.to_vec())?).await?;
        Ok(Events::of(answer.into_body(), self.clone()))
    }

    /// Sends a request to a path of a peer, and returns the verified answer. Its `X-Nara-*` headers say what
    /// is proven.
    ///
    /// # Errors
    /// [`CallError`]; an answer of the peer is not an error, whatever its status.
    pub async fn request_peer(
        &self,
        peer: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, CallError> {
        let answer = self.to_peer(peer, request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        Ok(Response::from_parts(head, self.collect(body).await?))
    }

    /// As [`request_peer`](Self::request_peer), with streamed bodies of any size. The body of the answer
    /// breaks off if its end shows that it was altered.
    ///
    /// # Errors
    /// [`CallError`]; an answer of the peer is not an error, whatever its status.
    pub async fn stream_peer<B>(
        &self,
        peer: &str,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let is_stream = HeaderValue::from_static("?1");
        request.headers_mut().insert("x-nara-stream", is_stream);
        self.to_peer(peer, request).await
    }

    async fn to_peer<B>(&self, peer: &str, mut request: Request<B>) -> Result<Response<Incoming>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let target = request
            .uri()
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let path = format!("/v1/peers/{}/http{target}", segment(peer));
        *request.uri_mut() = path.parse::<Uri>().map_err(|error| self.malformed(&error))?;
        if let Some(timeout) = self.timeout {
            request
                .headers_mut()
                .insert("x-nara-timeout-ms", HeaderValue::from(millis(timeout)));
        }
        let answer = self.open(request).await?;
        if !answer.headers().contains_key("x-nara-body-proof") {
            return Err(self.problem(answer).await);
        }
        Ok(answer)
    }

    /// Builds a path of a peer, with a query.
    pub fn peer_path(&self, peer: &str, rest: &str, query: &[(&str, &str)]) -> String {
        format!("/v1/peers/{}/{rest}{}", segment(peer), self.query(query))
    }

    fn query(&self, pairs: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs);
        if let Some(timeout) = self.timeout {
            query.append_pair("timeout_ms", &millis(timeout).to_string());
        }
        match query.finish() {
            query if query.is_empty() => query,
            query => format!("?{query}"),
        }
    }

    fn request(&self, method: Method, path: &str, json: Vec<u8>) -> Result<Request<Full<Bytes>>, CallError> {
        let request = Request::builder().method(method).uri(path);
        let request = if json == NOTHING {
            request.body(Full::default())
        } else {
            let request = request.header(header::CONTENT_TYPE, "application/json");
            request.body(Full::from(json))
        };
        request.map_err(|error| self.malformed(&error))
    }

    /// Sends a request, and reads the whole answer. Boxed, so that it is compiled once here and not for each
    /// type that is sent or received.
    fn exchange<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        json: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            let answer = self.call(self.request(method, path, json)?).await?;
            self.collect(answer.into_body()).await
        })
    }

    /// Sends a request; converts a problem in the answer to an error.
    fn call(&self, request: Request<Full<Bytes>>) -> BoxFuture<'_, Result<Response<Incoming>, CallError>> {
        Box::pin(async move {
            let answer = self.open(request).await?;
            if answer.status().is_success() {
                Ok(answer)
            } else {
                Err(self.problem(answer).await)
            }
        })
    }

    fn open<B>(&self, request: Request<B>) -> BoxFuture<'_, Result<Response<Incoming>, CallError>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let request = request.map(|body| UnsyncBoxBody::new(body.map_err(Into::into)));
        Box::pin(self.open_any(request))
    }

    async fn open_any(&self, mut request: Request<AnyBody>) -> Result<Response<Incoming>, CallError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| CallError::Connect {
                path: self.socket.clone(),
                source,
            })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            let connection = Box::pin(connection);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the local API broke");
            }
        });
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(header::HOST, host);
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error))
    }

    async fn problem(&self, answer: Response<Incoming>) -> CallError {
        let status = answer.status();
        match self.collect(answer.into_body()).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(problem) => CallError::Problem(Box::new(problem)),
                Err(error) => self.malformed(&format_args!("status {}: {error}", status.as_u16())),
            },
            Err(error) => error,
        }
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, CallError> {
        let collected = body.collect().await.map_err(|error| self.broken_off(error))?;
        Ok(collected.to_bytes())
    }

    fn broken(&self, source: hyper::Error) -> CallError {
        CallError::Broken {
            path: self.socket.clone(),
            source,
        }
    }

    fn broken_off(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> CallError {
        CallError::BrokenOff {
            path: self.socket.clone(),
            source: source.into(),
        }
    }

    fn malformed(&self, reason: &dyn std::fmt::Display) -> CallError {
        CallError::Malformed {
            path: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Returns the file name of the socket of a nara in a shared folder, such as `alice.sock`.
pub fn socket_file(name: &str) -> String {
    format!("{}.sock", segment(name))
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
