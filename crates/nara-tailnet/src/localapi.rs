//! The LocalAPI of `tailscaled`: HTTP/1.1 over its unix socket.
//!
//! Written against version 1.92.4. Every call has a deadline and every body a limit: the daemon is trusted to
//! identify nodes, not to be free of bugs.

mod bus;
mod dial;
mod error;
mod wire;

pub(crate) use bus::Bus;
pub(crate) use error::LocalApiError;
pub(crate) use wire::{Forwarding, PeerStatus, Prefs, StartOptions, Status, UpdatePrefs, WhoIs};

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The only `Host` that the daemon accepts; this keeps web pages out.
const HOST: &str = "local-tailscaled.sock";

/// The timeout of a call. The daemon answers within milliseconds, but a machine may be busy.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of an answer in bytes: a status takes about 1.5 KiB per peer.
pub(crate) const MAX_BODY: usize = 32 << 20;

/// The maximum number of bytes read of an error, which is one line.
const MAX_ERROR_BODY: usize = 4 << 10;

/// A client of a daemon's LocalAPI.
#[derive(Clone, Debug)]
pub(crate) struct LocalApi {
    socket: PathBuf,
}

impl LocalApi {
    /// Creates a client for a unix socket. Every call opens a new connection, so a restart of the daemon does no harm.
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Returns the path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the state of the node and of all its peers.
    pub(crate) async fn status(&self) -> Result<Status, LocalApiError> {
        self.read("status").await
    }

    /// Returns the node that owns a source address; `None` for an address outside this tailnet.
    pub(crate) async fn whois(&self, source: &str) -> Result<Option<WhoIs>, LocalApiError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("addr", source)
            .finish();
        match self.read(&format!("whois?{query}")).await {
            Ok(found) => Ok(Some(found)),
            Err(LocalApiError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the settings of the node that are needed here.
    pub(crate) async fn prefs(&self) -> Result<Prefs, LocalApiError> {
        self.read("prefs").await
    }

    /// Starts the node with settings, and with an auth key for a login.
    pub(crate) async fn start(&self, options: &StartOptions<'_>) -> Result<(), LocalApiError> {
        self.write("start", options).await
    }

    /// Logs in with the auth key passed to `start`, or else through a page whose URL the status then contains.
    pub(crate) async fn login(&self) -> Result<(), LocalApiError> {
        self.write("login-interactive", &()).await
    }

    /// Logs out: the control server removes an ephemeral node at once; other nodes need a new login.
    pub(crate) async fn logout(&self) -> Result<(), LocalApiError> {
        self.write("logout", &()).await
    }

    /// Configures how the daemon forwards connections to ports of the node.
    pub(crate) async fn forward(&self, forwarding: &Forwarding) -> Result<(), LocalApiError> {
        self.write("serve-config", forwarding).await
    }

    /// Subscribes to changes of the node and of its peers; the first message reports the current state.
    pub(crate) async fn watch(&self) -> Result<Bus, LocalApiError> {
        let open = async {
            let request = request(Method::GET, bus::CALL).body(Full::new(Bytes::new()))?;
            let response = self.connect().await?.send_request(request).await?;
            refuse_errors(response).await
        };
        let response = timeout(CALL_TIMEOUT, open).await??;
        Ok(Bus::new(response.into_body()))
    }

    async fn read<T: DeserializeOwned>(&self, call: &str) -> Result<T, LocalApiError> {
        let body = self.call(Method::GET, call, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| LocalApiError::Malformed {
            detail: format!("the answer to {call}: {error}"),
        })
    }

    async fn write(&self, call: &str, body: &impl Serialize) -> Result<(), LocalApiError> {
        let json = serde_json::to_vec(body).map_err(|error| LocalApiError::Malformed {
            detail: format!("the request of {call}: {error}"),
        })?;
        self.call(Method::POST, call, json.into()).await.map(drop)
    }

    async fn call(&self, method: Method, call: &str, body: Bytes) -> Result<Bytes, LocalApiError> {
        let exchange = async {
            let request = request(method, call).body(Full::new(body))?;
            let mut sender = self.connect().await?;
            let response = sender.send_request(request).await?;
            let response = refuse_errors(response).await?;
            read_body(response, MAX_BODY).await
        };
        timeout(CALL_TIMEOUT, exchange).await?
    }

    /// Opens a connection for one request.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, LocalApiError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| LocalApiError::connect(&self.socket, source))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection closes after the request, or when the answer is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "LocalAPI connection");
            }
        });
        Ok(sender)
    }
}

fn request(method: Method, call: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("/localapi/v0/{call}"))
        .header(header::HOST, HOST)
}

/// Turns an unsuccessful answer into an error with the message of the daemon.
async fn refuse_errors(response: Response<Incoming>) -> Result<Response<Incoming>, LocalApiError> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = read_body(response, MAX_ERROR_BODY).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let line = text.trim().lines().next().unwrap_or_default();
    Err(LocalApiError::Refused {
        status,
        message: line.chars().filter(|character| !character.is_control()).collect(),
    })
}

async fn read_body(response: Response<Incoming>, limit: usize) -> Result<Bytes, LocalApiError> {
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(LocalApiError::TooLarge { limit }),
        Err(error) => Err(LocalApiError::Malformed {
            detail: error.to_string(),
        }),
    }
}
