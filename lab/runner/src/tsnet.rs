//! A tsnet node in a Go program, for a nara in the lab's process; see `lab/go/peer`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use nara_mesh::transport::{BoxMeshStream, Candidate, MeshListener, PeerSource, Transport};
use nara_proto::identity::NaraName;
use nara_tailnet::status::{NodeState, NodeStatus, NotReady, PathKind};
use nara_tailnet::{MeshNode, NodeIdentity};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

use crate::process::Process;
use crate::settings::Settings;

/// The mesh port in the tailnet.
pub(crate) const MESH_PORT: u16 = 9632;

/// A tsnet node in a Go program; see the module.
#[derive(Debug)]
pub(crate) struct Tsnet {
    process: Mutex<Option<Process>>,
    door: SocketAddr,
    forwarded: Mutex<Option<TcpListener>>,
    status: watch::Sender<NodeStatus>,
}

#[derive(Deserialize)]
struct Ready {
    door: SocketAddr,
    addresses: Vec<IpAddr>,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    peers: Vec<PeerStatus>,
}

#[derive(Deserialize)]
struct PeerStatus {
    name: String,
    #[serde(default)]
    addresses: Option<Vec<IpAddr>>,
    /// The address of the direct path; empty if packets use a relay.
    endpoint: String,
}

impl Tsnet {
    /// Starts the program, and waits until its node is up.
    pub(crate) async fn start(programs: &Path, folder: &Path, settings: &Settings) -> Result<Self, String> {
        let forwarded = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|error| error.to_string())?;
        let forward = forwarded
            .local_addr()
            .map_err(|error| error.to_string())?
            .to_string();
        let mut process = Process::start(
            &programs.join("peer"),
            &[
                "-name",
                &settings.name,
                "-control",
                &settings.control_url,
                "-auth-key",
                &settings.auth_key,
                "-folder",
                &folder.to_string_lossy(),
                "-forward",
                &forward,
            ],
        )?;
        let ready: Ready = process.ready_json().await?;
        let mut status = NodeStatus::default();
        status.state = NodeState::Running;
        status.addresses = ready.addresses;
        status.granted_name = Some(ready.name);
        Ok(Self {
            process: Mutex::new(Some(process)),
            door: ready.door,
            forwarded: Mutex::new(Some(forwarded)),
            status: watch::Sender::new(status),
        })
    }

    /// Sends a command line, and returns the connection and the first line of the answer.
    async fn ask(&self, question: &str) -> io::Result<(BufReader<TcpStream>, String)> {
        let mut stream = TcpStream::connect(self.door).await?;
        stream.set_nodelay(true)?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        match answer.trim_end().strip_prefix("ERR ") {
            Some(reason) => Err(io::Error::other(reason.to_owned())),
            None if answer.is_empty() => Err(io::ErrorKind::ConnectionAborted.into()),
            None => Ok((stream, answer)),
        }
    }

    async fn peers(&self) -> io::Result<Vec<PeerStatus>> {
        let (_, answer) = self.ask("STATUS").await?;
        let status: Status = serde_json::from_str(&answer)?;
        Ok(status.peers)
    }
}

impl Transport for Tsnet {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            let (stream, _) = self.ask(&format!("DIAL {peer}")).await?;
            Ok(Box::new(stream) as BoxMeshStream)
        })
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let forwarded = self.forwarded.lock().await.take();
            match forwarded {
                Some(listener) if local.port() == MESH_PORT => {
                    Ok(Box::new(Forwarded { listener, local }) as Box<dyn MeshListener>)
                }
                _ => Err(io::ErrorKind::AddrInUse.into()),
            }
        })
    }
}

/// Connections from the tailnet, each with a first line that contains its source address.
#[derive(Debug)]
struct Forwarded {
    listener: TcpListener,
    local: SocketAddr,
}

impl MeshListener for Forwarded {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async {
            let (mut stream, _) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            // Read byte by byte: the bytes after the line belong to the stream.
            let mut line = Vec::new();
            loop {
                match stream.read_u8().await? {
                    b'\n' => break,
                    byte if line.len() < 100 => line.push(byte),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            let peer = String::from_utf8(line)
                .ok()
                .and_then(|line| line.parse().ok())
                .ok_or(io::ErrorKind::InvalidData)?;
            Ok((Box::new(stream) as BoxMeshStream, peer))
        })
    }
}

impl PeerSource for Tsnet {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        Box::pin(async {
            let peers = self.peers().await?.into_iter();
            Ok(peers
                .map(|peer| Candidate::new(peer.name, peer.addresses.unwrap_or_default()))
                .collect())
        })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        // Not supported: the lab polls instead.
        stream::pending().boxed()
    }

    fn owner_of(&self, _address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(std::future::ready(None))
    }
}

impl MeshNode for Tsnet {
    fn ready(&self, _within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>> {
        // [`start`](Self::start) has waited already.
        Box::pin(async { Ok(self.status.borrow().clone()) })
    }

    fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.status.subscribe()
    }

    fn whois(&self, _source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind> {
        Box::pin(async move {
            let peers = self.peers().await.unwrap_or_default();
            let is_meant = |known: &PeerStatus| known.addresses.iter().flatten().any(|ip| *ip == peer);
            match peers.into_iter().find(is_meant) {
                Some(known) if !known.endpoint.is_empty() => PathKind::Direct {
                    endpoint: known.endpoint.parse().ok(),
                },
                _ => PathKind::Unknown,
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            match self.process.lock().await.take() {
                Some(process) => process.kill().await.map_err(io::Error::other),
                None => Ok(()),
            }
        })
    }
}
