//! The LocalAPI of `tailscaled`: HTTP/1.1 over its unix socket.
//!
//! What is used of it was seen with version 1.92.4. Every call has a deadline, every body a limit: the daemon is
//! trusted to say who is who, not to be free of mistakes.

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

/// The only host for which the daemon answers, so that no web page can reach it.
const HOST: &str = "local-tailscaled.sock";

/// How long an answer may take. The daemon answers within milliseconds, but a machine may be busy.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of an answer: a status takes about 1.5 KiB for each peer.
pub(crate) const MAX_BODY: usize = 32 << 20;

/// The most bytes of an error that are read: they are one line.
const MAX_ERROR_BODY: usize = 4 << 10;

/// A daemon's LocalAPI.
#[derive(Clone, Debug)]
pub(crate) struct LocalApi {
    socket: PathBuf,
}

impl LocalApi {
    /// The LocalAPI at a unix socket. Every call opens it anew, so a daemon that restarts is found again.
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The state of the node and of all its peers.
    pub(crate) async fn status(&self) -> Result<Status, LocalApiError> {
        self.read("status").await
    }

    /// The node to which a source address belongs; `None`: it is none of this tailnet.
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

    /// The settings of the node, as far as they are needed.
    pub(crate) async fn prefs(&self) -> Result<Prefs, LocalApiError> {
        self.read("prefs").await
    }

    /// Starts the node with settings, and with an auth key in case it has to log in.
    pub(crate) async fn start(&self, options: &StartOptions<'_>) -> Result<(), LocalApiError> {
        self.write("start", options).await
    }

    /// Logs in: with the auth key that was given to `start`, else through a page that the status names then.
    pub(crate) async fn login(&self) -> Result<(), LocalApiError> {
        self.write("login-interactive", &()).await
    }

    /// Logs out: the control server forgets an ephemeral node at once, others need a new login.
    pub(crate) async fn logout(&self) -> Result<(), LocalApiError> {
        self.write("logout", &()).await
    }

    /// Sets what the daemon does with connections to ports of the node.
    pub(crate) async fn forward(&self, forwarding: &Forwarding) -> Result<(), LocalApiError> {
        self.write("serve-config", forwarding).await
    }

    /// Follows the changes of the node and of its peers, beginning with a message about how things are.
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

    /// A connection for one request.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, LocalApiError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| LocalApiError::connect(&self.socket, source))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the request, or when the answer is dropped.
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

/// Turns an answer that is no success into an error with what the daemon said.
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
