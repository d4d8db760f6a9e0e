//! A connection to a relay: TCP, TLS, the HTTP upgrade, and the handshake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use crypto_box::SalsaBox;
use crypto_box::aead::{Aead, AeadCore, OsRng};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use ts_http_util::Client as _;
use ts_keys::NodeKeyPair;

use super::frame::{self, Frame, MalformedFrame};
use super::region::Server;
use crate::embedded::tcp;
use crate::embedded::tls::Tls;

/// The timeout of the whole connection setup.
const CONNECT: Duration = Duration::from_secs(10);
/// The timeout of the TCP connection: a region has several servers.
const DIAL: Duration = Duration::from_secs(4);
/// The length of a nonce, in bytes.
const NONCE: usize = 24;
/// The size of the read buffer in bytes.
const READ: usize = 64 * 1024;

/// The reasons why a relay cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::embedded) enum RelayError {
    #[error("no answer from {server}")]
    Dial { server: String, source: io::Error },
    #[error("{server} does not speak TLS as expected")]
    Tls { server: String, source: io::Error },
    #[error("{server} is not a relay: {detail}")]
    NoRelay { server: String, detail: String },
    #[error("the relay sent a malformed message")]
    Malformed(#[from] MalformedFrame),
    #[error("the connection to the relay ended")]
    Io(#[from] io::Error),
    #[error("the relay did not answer within {0:?}")]
    Silent(Duration),
    #[error("the relay restarts")]
    Restarting,
    #[error("the region has no servers")]
    NoServers,
    #[error("the relay connection was replaced shortly after it opened")]
    Short,
}

/// The connection after the HTTP upgrade.
type Upgraded = ts_http_util::Upgraded;

/// An authenticated connection to a relay.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: WriteHalf<Upgraded>,
    /// The local address of the connection, with IPv4-mapped addresses converted to IPv4.
    pub(super) local: IpAddr,
}

/// A reader of frames.
pub(super) struct Reader {
    io: ReadHalf<Upgraded>,
    bytes: BytesMut,
    /// Opens the server information.
    sealer: SalsaBox,
    server: String,
}

impl Reader {
    /// Returns the next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Frame, RelayError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            fill(&mut self.io, &mut self.bytes).await?;
        }
    }

    /// Returns the next frame if it has arrived completely. Server information is verified.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, RelayError> {
        let frame = frame::take(&mut self.bytes)?;
        if let Some(Frame::ServerInfo(info)) = &frame {
            self.verify(info)?;
        }
        Ok(frame)
    }

    fn verify(&self, info: &[u8]) -> Result<(), RelayError> {
        let failed = |detail: &str| RelayError::NoRelay {
            server: self.server.clone(),
            detail: detail.to_owned(),
        };
        let (nonce, sealed) = info
            .split_first_chunk::<NONCE>()
            .ok_or_else(|| failed("its server information is missing or malformed"))?;
        let info = self
            .sealer
            .decrypt(nonce.into(), sealed)
            .map_err(|_| failed("it does not own the key that it sent"))?;
        let info: ServerInfo = serde_json::from_slice(&info)
            .map_err(|_| failed("its server information is missing or malformed"))?;
        if info.version != VERSION {
            return Err(failed("its protocol version is unknown"));
        }
        Ok(())
    }
}

async fn fill(io: &mut ReadHalf<Upgraded>, bytes: &mut BytesMut) -> io::Result<()> {
    bytes.reserve(READ);
    match io.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Connects to the first server of a region that works.
pub(super) async fn connect(
    servers: &[Server],
    tls: &Tls,
    keys: &NodeKeyPair,
) -> Result<Connection, RelayError> {
    let mut last = RelayError::NoServers;
    for server in servers {
        match timeout(CONNECT, connect_to(server, tls, keys)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_) => last = RelayError::Silent(CONNECT),
        }
    }
    Err(last)
}

async fn connect_to(server: &Server, tls: &Tls, keys: &NodeKeyPair) -> Result<Connection, RelayError> {
    let stream = dial(server).await.map_err(|source| RelayError::Dial {
        server: server.to_string(),
        source,
    })?;
    let local = stream.local_addr()?.ip().to_canonical();
    let stream = tls
        .connect(&server.certificate_name, server.pin, stream)
        .await
        .map_err(|source| RelayError::Tls {
            server: server.to_string(),
            source,
        })?;
    let upgraded = upgrade(server, stream).await?;
    let (reader, writer) = greet(server, upgraded, keys).await?;
    Ok(Connection {
        reader,
        writer,
        local,
    })
}

/// Opens a TCP connection to a server. The latency measurement uses it too.
pub(super) async fn dial(server: &Server) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = if server.addresses.is_empty() {
        tokio::net::lookup_host((server.host_name.as_str(), server.port))
            .await?
            .collect()
    } else {
        let at = |ip: &IpAddr| (*ip, server.port).into();
        server.addresses.iter().map(at).collect()
    };
    timeout(DIAL, tcp::connect(addresses)).await?
}

async fn upgrade(server: &Server, stream: TlsStream<TcpStream>) -> Result<Upgraded, RelayError> {
    let failed = |detail: String| RelayError::NoRelay {
        server: server.to_string(),
        detail,
    };
    let url = format!("https://{}/derp", server.host_name)
        .parse()
        .map_err(|error: url::ParseError| failed(error.to_string()))?;
    let http = ts_http_util::http1::connect(stream)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let request =
        ts_http_util::make_upgrade_req(&url, "DERP", None).map_err(|error| failed(error.to_string()))?;
    let response = http
        .send(request)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if response.status() != ts_http_util::StatusCode::SWITCHING_PROTOCOLS {
        return Err(failed(format!("it answers {}", response.status())));
    }
    ts_http_util::do_upgrade(response)
        .await
        .map_err(|error| failed(error.to_string()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientInfo {
    version: u32,
}

#[derive(Deserialize)]
struct ServerInfo {
    #[serde(default)]
    version: u32,
}

/// The only existing version of the protocol.
const VERSION: u32 = 2;

/// Exchanges keys: the relay sends its public key, and we prove that we own ours. The relay does so with its server
/// information, but accepts packets before that arrives: waiting for it would cost a round trip.
async fn greet(
    server: &Server,
    io: Upgraded,
    keys: &NodeKeyPair,
) -> Result<(Reader, WriteHalf<Upgraded>), RelayError> {
    let failed = |detail: &str| RelayError::NoRelay {
        server: server.to_string(),
        detail: detail.to_owned(),
    };
    let (mut io, mut writer) = tokio::io::split(io);
    let mut bytes = BytesMut::new();
    let first = loop {
        match frame::take(&mut bytes)? {
            Some(frame) => break frame,
            None => fill(&mut io, &mut bytes).await?,
        }
    };
    let Frame::ServerKey(theirs) = first else {
        return Err(failed("its first frame is not its key"));
    };
    let sealer = SalsaBox::new(
        &crypto_box::PublicKey::from(theirs),
        &keys.private.to_crypto_box(),
    );
    let nonce = SalsaBox::generate_nonce(&mut OsRng);
    let info = serde_json::to_vec(&ClientInfo { version: VERSION }).map_err(io::Error::from)?;
    let sealed = sealer
        .encrypt(&nonce, &info[..])
        .map_err(|_| failed("its key is invalid"))?;
    let mut hello = BytesMut::new();
    frame::put_client_info(
        &mut hello,
        keys.public.to_crypto_box().as_bytes(),
        &nonce,
        &sealed,
    );
    writer.write_all(&hello).await?;
    writer.flush().await?;
    let reader = Reader {
        io,
        bytes,
        sealer,
        server: server.to_string(),
    };
    Ok((reader, writer))
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host_name, self.port)
    }
}
