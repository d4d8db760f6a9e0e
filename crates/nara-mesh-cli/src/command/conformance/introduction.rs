//! Lets a peer learn the keys of the checking naras: an unknown sender is asked at `/ping` of the address
//! that its requests come from (docs/protocol/v1.md, section 4.4), so this endpoint is served while the
//! checks run.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::defaults;
use nara_mesh::identity::LocalNara;
use nara_proto::go_json;
use nara_proto::peer::PingResponse;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::peer::{Peer, recent};
use super::signing;

/// Answers `/ping` as one nara at a time, until dropped.
#[derive(Debug)]
pub(super) struct Introduction {
    speaker: Arc<Mutex<Option<LocalNara>>>,
    _servers: JoinSet<()>,
}

impl Introduction {
    /// Listens at the address from which the peer is called. If the port is taken, there is no introduction.
    pub(super) async fn begin(peer: SocketAddr) -> Self {
        let speaker = Arc::default();
        let mut servers = JoinSet::new();
        if let Some(ip) = source_of(peer) {
            for port in [defaults::MESH_PORT, defaults::LEGACY_MESH_PORT] {
                if let Ok(listener) = TcpListener::bind((ip, port)).await {
                    servers.spawn(serve(listener, Arc::clone(&speaker), ip));
                }
            }
        }
        Self {
            speaker,
            _servers: servers,
        }
    }

    /// Sends one request as each nara, which makes the peer ask for its key.
    pub(super) async fn introduce(&self, peer: &Peer) {
        for nara in [&peer.v1, &peer.v2] {
            *self.speaker.lock().unwrap_or_else(PoisonError::into_inner) = Some(nara.clone());
            // Later requests show whether it worked. v1 is used because it proves no capability that would
            // affect the checks.
            let _ = peer.send(&signing::v1(recent(nara), nara, peer.now())).await;
        }
        peer.take_exchanges();
    }
}

/// Returns the source address of packets to a peer.
fn source_of(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // `connect` on a UDP socket sends no packet.
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

async fn serve(listener: TcpListener, speaker: Arc<Mutex<Option<LocalNara>>>, ip: IpAddr) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A peer asks once for each of the two naras; more connections are dropped.
        if connections.len() >= 16 {
            connections.shutdown().await;
        }
        let speaker = Arc::clone(&speaker);
        let service = service_fn(move |request: Request<Incoming>| {
            let nara = speaker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { Ok::<_, Infallible>(answer(&request, nara, ip)) }
        });
        connections.spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, nara: Option<LocalNara>, ip: IpAddr) -> Response<Full<Bytes>> {
    let Some(nara) = nara.filter(|_| request.uri().path() == "/ping") else {
        let mut nothing = Response::default();
        *nothing.status_mut() = http::StatusCode::NOT_FOUND;
        return nothing;
    };
    let ping = PingResponse {
        from: nara.name().as_str().to_owned(),
        mesh_ip: ip.to_string(),
        public_key: nara.public_key().to_base64(),
        t: SystemClock.now_nanos(),
    };
    let mut response = Response::new(Full::from(go_json::to_vec(&ping)));
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
