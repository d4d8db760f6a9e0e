//! A fake `tailscaled`: a LocalAPI on a unix socket with the answers of version 1.92.4, and injected faults.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

type Body = BoxBody<Bytes, Infallible>;

/// A peer of the fake node.
#[derive(Clone, Debug)]
pub(crate) struct FakePeer {
    pub(crate) host_name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) online: bool,
    /// Whether the control server reports when it last saw an offline peer.
    pub(crate) last_seen: bool,
    pub(crate) cur_addr: String,
    pub(crate) relay: String,
    pub(crate) active: bool,
}

impl FakePeer {
    pub(crate) fn new(host_name: &str, address: &str) -> Self {
        Self {
            host_name: host_name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            online: true,
            last_seen: true,
            cur_addr: String::new(),
            relay: "lab".to_owned(),
            active: true,
        }
    }

    fn node_key(&self) -> String {
        let bytes: String = self.host_name.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("nodekey:{bytes:0>64}")
    }

    fn status(&self) -> Value {
        let last_seen = match !self.online && self.last_seen {
            true => "2026-11-24T12:00:00Z",
            false => "0001-01-01T00:00:00Z",
        };
        json!({
            "ID": "TESTCTRL00000002", "PublicKey": self.node_key(), "HostName": self.host_name,
            "DNSName": format!("{}.lab.internal.", self.host_name), "OS": "linux", "UserID": 123,
            "TailscaleIPs": self.addresses, "Addrs": null, "CurAddr": self.cur_addr, "Relay": self.relay,
            "PeerRelay": "", "RxBytes": 1492, "TxBytes": 1436, "Created": "0001-01-01T00:00:00Z",
            "LastWrite": "2026-11-24T12:24:36.716447107Z", "LastSeen": last_seen,
            "LastHandshake": "2026-11-24T12:24:35.016048537Z", "Online": self.online, "ExitNode": false,
            "Active": self.active, "PeerAPIURL": ["http://100.64.0.2:46590"], "TaildropTarget": 5,
            "Capabilities": ["https"], "CapMap": {"https": []}, "InNetworkMap": true
        })
    }

    fn whois(&self) -> Value {
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))
            .collect();
        json!({
            "Node": {
                "ID": 2, "StableID": "TESTCTRL00000002", "Name": format!("{}.lab.internal.", self.host_name),
                "User": 123, "Key": self.node_key(), "Addresses": addresses, "Endpoints": ["10.77.0.1:50645"],
                "HomeDERP": 900, "Hostinfo": {"OS": "linux", "Hostname": self.host_name}, "Cap": 131
            },
            "UserProfile": {"ID": 123, "LoginName": "user-123@fake-control.example.net"},
            "CapMap": {"https://tailscale.com/cap/ingress": null}
        })
    }
}

/// An injected fault of a call.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status and text.
    Status(u16, &'static str),
    /// Answers with more JSON than the limit.
    Oversized,
    /// Answers with truncated JSON.
    HalfJson,
    /// Does not answer.
    Silent,
}

/// The state of the fake, and the calls that it received.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) backend_state: &'static str,
    pub(crate) auth_url: &'static str,
    pub(crate) health: Vec<String>,
    pub(crate) tun: bool,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) dns_name: &'static str,
    pub(crate) control_url: &'static str,
    pub(crate) peers: Vec<FakePeer>,
    /// The owners of loopback connections, by source address.
    pub(crate) forwarded: HashMap<SocketAddr, IpAddr>,
    /// The real addresses behind addresses of the tailnet.
    pub(crate) reachable: HashMap<SocketAddr, SocketAddr>,
    pub(crate) faults: HashMap<&'static str, Fault>,
    /// The state that a login leads to.
    pub(crate) state_after_login: Option<&'static str>,
    /// Every call with its body, in order.
    pub(crate) calls: Vec<(String, String)>,
}

impl State {
    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls.iter().filter(|(path, _)| path == call).count()
    }

    fn status(&self) -> Value {
        let joined = !self.addresses.is_empty();
        let peers: serde_json::Map<String, Value> = self
            .peers
            .iter()
            .map(|peer| (peer.node_key(), peer.status()))
            .collect();
        json!({
            "Version": "1.92.4-ERR-BuildInfo", "TUN": self.tun, "BackendState": self.backend_state,
            "HaveNodeKey": joined, "AuthURL": self.auth_url,
            "TailscaleIPs": joined.then_some(&self.addresses),
            "Self": {
                "PublicKey": "nodekey:24145b", "HostName": "vm", "DNSName": self.dns_name,
                "TailscaleIPs": joined.then_some(&self.addresses), "Online": joined, "Relay": "lab", "LastSeen": "0001-01-01T00:00:00Z"
            },
            "Health": self.health, "MagicDNSSuffix": "lab.internal",
            "CurrentTailnet": {"Name": "fake-control.example.net", "MagicDNSSuffix": "lab.internal"},
            "CertDomains": null, "Peer": peers, "User": {"123": {"ID": 123}}, "ClientVersion": null
        })
    }

    fn peer(&self, address: IpAddr) -> Option<&FakePeer> {
        self.peers.iter().find(|peer| peer.addresses.contains(&address))
    }
}

/// The fake daemon.
#[derive(Debug)]
pub(crate) struct FakeDaemon {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    bus: broadcast::Sender<Bytes>,
    running: CancellationToken,
}

impl FakeDaemon {
    /// Starts a daemon that is on a tailnet without peers, in userspace mode.
    pub(crate) fn start(folder: &Path) -> Self {
        let state = State {
            backend_state: "Running",
            auth_url: "",
            health: Vec::new(),
            tun: false,
            addresses: vec![
                "100.64.0.1".parse().unwrap(),
                "fd7a:115c:a1e0::1".parse().unwrap(),
            ],
            dns_name: "own-1.lab.internal.",
            control_url: "http://127.0.0.1:18090",
            peers: Vec::new(),
            forwarded: HashMap::new(),
            reachable: HashMap::new(),
            faults: HashMap::new(),
            state_after_login: None,
            calls: Vec::new(),
        };
        let mut daemon = Self {
            socket: folder.join("tailscaled.sock"),
            state: Arc::new(Mutex::new(state)),
            bus: broadcast::channel(4096).0,
            running: CancellationToken::new(),
        };
        daemon.listen();
        daemon
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state and announces the change on the bus.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.say(
            r#"{"Version":"1.92.4-ERR-BuildInfo","ErrMessage":null,"State":null,"NetMap":{"Peers":[]}}"#,
        );
    }

    /// Sends a line on the bus.
    pub(crate) fn say(&self, message: &str) {
        self.say_raw(format!("{message}\n"));
    }

    pub(crate) fn say_raw(&self, bytes: impl Into<Bytes>) {
        // An error means that there is no subscriber.
        let _ = self.bus.send(bytes.into());
    }

    /// Waits until a client follows the bus.
    pub(crate) async fn followed(&self) {
        while self.bus.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Stops the daemon: every connection breaks, and the socket is removed.
    pub(crate) fn stop(&self) {
        self.running.cancel();
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// Starts the daemon, with its state unchanged.
    pub(crate) fn listen(&mut self) {
        self.running = CancellationToken::new();
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (state, bus, running) = (self.state.clone(), self.bus.clone(), self.running.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = running.cancelled() => return,
                };
                let (state, bus, ended) = (state.clone(), bus.clone(), running.clone());
                let service = {
                    let running = running.clone();
                    service_fn(move |request| {
                        let (state, bus, running) = (state.clone(), bus.clone(), running.clone());
                        async move { Ok::<_, Infallible>(answer(request, state, bus, running).await) }
                    })
                };
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(async move {
                    tokio::select! {
                        // A client may disconnect at any time.
                        _ = connection => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
    }

    /// Connects to a port as the daemon does for a connection of a peer. `announce` is when its owner becomes known.
    pub(crate) async fn forward_from(&self, peer: IpAddr, port: u16, announce: Announce) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let source = socket.local_addr().unwrap();
        if announce == Announce::AtOnce {
            self.state().forwarded.insert(source, peer);
        }
        let stream = socket
            .connect(SocketAddr::from(([127, 0, 0, 1], port)))
            .await
            .unwrap();
        if announce == Announce::WhenAsked {
            let asked = self.state().count("whois");
            while self.state().count("whois") == asked {
                tokio::task::yield_now().await;
            }
            self.state().forwarded.insert(source, peer);
        }
        stream
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

/// When the daemon knows the owner of a connection that it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announce {
    AtOnce,
    /// After the first look-up: the daemon opens the connection first.
    WhenAsked,
}

async fn answer(
    mut request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    bus: broadcast::Sender<Bytes>,
    running: CancellationToken,
) -> Response<Body> {
    if request
        .headers()
        .get(header::HOST)
        .is_none_or(|host| host != "local-tailscaled.sock")
    {
        return text(StatusCode::FORBIDDEN, "invalid localapi request\n");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let call = parts.uri.path().trim_start_matches("/localapi/v0/").to_owned();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let fault = {
        let mut state = state.lock().unwrap();
        state
            .calls
            .push((call.clone(), String::from_utf8(body.to_vec()).unwrap()));
        state.faults.get(call.as_str()).cloned()
    };
    match fault {
        Some(Fault::Status(status, message)) => {
            return text(StatusCode::from_u16(status).unwrap(), message);
        }
        Some(Fault::Oversized) => {
            let block = Bytes::from(vec![b' '; 1 << 20]);
            let blocks = futures_util::stream::repeat(block).map(|block| Ok(Frame::data(block)));
            return Response::new(BodyExt::boxed(StreamBody::new(blocks)));
        }
        Some(Fault::HalfJson) => return text(StatusCode::OK, "{\"Version\":\"1.92.4\",\"Peer\":{\"nodekey:"),
        Some(Fault::Silent) => std::future::pending().await,
        None => {}
    }
    let query: HashMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    match (parts.method.as_str(), call.as_str()) {
        ("GET", "status") => json_answer(&state.lock().unwrap().status()),
        ("GET", "prefs") => {
            json_answer(&json!({"ControlURL": state.lock().unwrap().control_url, "WantRunning": true}))
        }
        ("GET", "whois") => {
            let state = state.lock().unwrap();
            let source = &query["addr"];
            let address = source.parse::<SocketAddr>().ok();
            let node = address.map(|source| {
                state
                    .forwarded
                    .get(&source)
                    .copied()
                    .unwrap_or_else(|| source.ip())
            });
            match node.and_then(|node| state.peer(node)) {
                Some(peer) => json_answer(&peer.whois()),
                None => text(StatusCode::NOT_FOUND, "no match for IP:port\n"),
            }
        }
        ("GET", "watch-ipn-bus") => {
            let first = Bytes::from_static(
                b"{\"Version\":\"1.92.4-ERR-BuildInfo\",\"SessionID\":\"744ed5f03de4e203\",\"ErrMessage\":null,\"State\":6}\n",
            );
            let first = futures_util::stream::once(async { first });
            let later = BroadcastStream::new(bus.subscribe()).filter_map(|message| async { message.ok() });
            let messages = first.chain(later).map(|message| Ok(Frame::data(message)));
            Response::new(BodyExt::boxed(StreamBody::new(messages)))
        }
        ("POST", "dial") => {
            let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
            assert_eq!(header("upgrade"), "ts-dial");
            assert_eq!(header("dial-network"), "tcp");
            let to = SocketAddr::new(
                header("dial-host").parse().unwrap(),
                header("dial-port").parse().unwrap(),
            );
            let real = state.lock().unwrap().reachable.get(&to).copied();
            let Some(Ok(mut target)) = (match real {
                Some(real) => Some(TcpStream::connect(real).await),
                None => None,
            }) else {
                let message = format!("dial failure: connect tcp {to}: connection was refused\n");
                return text(StatusCode::BAD_GATEWAY, message);
            };
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                tokio::select! {
                    // The outcome of the copy does not matter.
                    _ = tokio::io::copy_bidirectional(&mut stream, &mut target) => {}
                    () = running.cancelled() => {}
                }
            });
            let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, "ts-dial".parse().unwrap());
            headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
            response
        }
        ("POST", "login-interactive") => {
            let mut state = state.lock().unwrap();
            if let Some(after) = state.state_after_login {
                state.backend_state = after;
            }
            drop(state);
            let _ = bus.send(Bytes::from_static(b"{\"LoginFinished\":{}}\n"));
            text(StatusCode::NO_CONTENT, "")
        }
        ("POST", "start" | "logout") => text(StatusCode::NO_CONTENT, ""),
        ("POST", "serve-config") => text(StatusCode::OK, ""),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn json_answer(value: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, serde_json::to_string_pretty(value).unwrap());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
}
