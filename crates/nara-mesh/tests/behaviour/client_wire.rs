//! `client_wire.json`: the client's requests, and its results for the answers, over a socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Method;
use nara_mesh::client::{ClientError, MeshClient, MeshClientBuilder};
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport};
use nara_proto::endpoint::{
    Authentication, DirectMessage, Endpoint, EventsSync, GetCoordinates, GossipZine, MeshMessage, Ping,
    WorldRelay,
};
use nara_proto::go_json::{self, JsonError, Merge};
use nara_proto::identity::{NaraId, Soul};
use nara_proto::sync::SyncRequest;
use nara_proto::time::UnixMillis;
use nara_proto::zine::Zine;
use serde_json::{Map, Value};

use crate::RUNTIME;
use crate::fake_peer::{FakePeer, Received, plain};
use crate::harness::{Case, Unreadable};

/// The result of a call: its accepted forms, or an error.
type Outcome = Result<Vec<String>, ClientError>;

pub(crate) fn client_wire(case: &Case<'_>) -> Result<(), Unreadable> {
    if case.text("host")?.is_empty() {
        return call_nobody(case);
    }
    let wire = Wire::new(case)?;
    // V1 peers do not verify answers, so this client must reach the same verdict.
    let trusting = wire.client(MeshClientBuilder::danger_accept_unverified_responses);
    let outcome = RUNTIME.block_on(wire.call(case, &trusting))?;
    check_outcome(case, &outcome)?;

    let careful = wire.client(|builder| builder);
    let by_default = RUNTIME.block_on(wire.call(case, &careful))?;
    check_default(case, &by_default)?;

    let received = wire.peer.received();
    case.claim("method", "one request for each call", received.len() == 2);
    for request in &received {
        check_request(case, request)?;
    }
    wire.check_own_zine(case, &trusting)
}

/// Calls an unregistered peer: it fails before anything is sent.
fn call_nobody(case: &Case<'_>) -> Result<(), Unreadable> {
    let soul: Soul = case.parsed("soul")?;
    let local = LocalNara::new(&soul, case.parsed("name")?)
        .map_err(|error| case.fail("soul", "a bonded soul", error.to_string()))?;
    let client = MeshClient::builder(local).build();
    let called = RUNTIME.block_on(client.peer("nobody").coordinates());
    let is_unknown = called.is_err_and(|error| error.is_unknown_peer());
    case.check("expect", if is_unknown { "error" } else { "ok" });
    case.prose(&["error", "result", "server_status", "server_body"]);
    case.prose(&["method", "request_target", "headers", "body"]);
    Ok(())
}

/// A nara at the address of the case, and the parameters of the call.
struct Wire {
    local: LocalNara,
    clock: ManualClock,
    callee: NaraId,
    host: SocketAddr,
    peer: FakePeer,
}

impl Wire {
    fn new(case: &Case<'_>) -> Result<Self, Unreadable> {
        let soul: Soul = case.parsed("soul")?;
        let local = LocalNara::new(&soul, case.parsed("name")?)
            .map_err(|error| case.fail("soul", "a bonded soul", error.to_string()))?;
        let status = status(case)?;
        let body = case.text("server_body")?.to_owned();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let answering = FakePeer::start(TcpTransport, loopback, move |_| plain(status, body.clone()));
        Ok(Self {
            local,
            clock: ManualClock::new(UnixMillis::new(case.int("now_ms")?).to_nanos()),
            callee: NaraId::derive(&Soul::bond([7; 32], "callee"), "callee"),
            host: case.parsed("host")?,
            peer: RUNTIME.block_on(answering),
        })
    }

    fn client(&self, change: impl FnOnce(MeshClientBuilder) -> MeshClientBuilder) -> MeshClient {
        let builder = MeshClient::builder(self.local.clone())
            .clock(Arc::new(self.clock.clone()))
            .transport(Arc::new(Detour {
                from: self.host,
                to: self.peer.address,
            }));
        let client = change(builder).build();
        let registered = client.register_peer(&self.callee, self.host);
        registered.expect("an empty registry has room");
        client
    }

    /// Makes the call that must send the request of the case.
    async fn call(&self, case: &Case<'_>, client: &MeshClient) -> Result<Outcome, Unreadable> {
        let peer = &self.callee;
        let told = |_| vec![String::new()];
        let target = case.text("request_target")?;
        Ok(match path_of(target) {
            EventsSync::PATH => {
                // The client fills in the name of the sender.
                let request = SyncRequest {
                    from: String::new(),
                    ..json(case)?
                };
                let answer = client.fetch_sync_events(peer, request).await;
                answer.map(|answer| {
                    let count = answer.events.received();
                    let all = format!(
                        "from={} events={count} next_cursor={}",
                        answer.from, answer.next_cursor
                    );
                    // A call for checkpoints returns only their number.
                    vec![all, count.to_string()]
                })
            }
            GossipZine::PATH => {
                let zine = json(case)?;
                let answer = client.peer(peer).call::<GossipZine>(&zine).await;
                answer.map(|zine| vec![zine_summary(&zine.from, zine.events().len())])
            }
            DirectMessage::PATH => client.send_dm(peer, json(case)?).await.map(|_| told(())),
            WorldRelay::PATH => client
                .relay_world_message(peer, &json(case)?)
                .await
                .map(|_| told(())),
            MeshMessage::PATH => {
                // As raw bytes: v1 peers spell some messages differently.
                let body = case.text("body")?.to_owned();
                let sent = client.peer(peer).call::<MessageBytes>(&body).await;
                sent.map(|_| told(()))
            }
            Ping::PATH => client.ping(peer).await.map(|_| told(())),
            GetCoordinates::PATH => client.peer(peer).coordinates().await.map(|_| told(())),
            _ => return Err(case.fail("request_target", "a path that a client calls", target)),
        })
    }

    /// Checks the zine that the client itself builds. At the recorded time it must have the same bytes.
    fn check_own_zine(&self, case: &Case<'_>, client: &MeshClient) -> Result<(), Unreadable> {
        if path_of(case.text("request_target")?) != GossipZine::PATH {
            return Ok(());
        }
        let zine: Zine = json(case)?;
        let is_own = zine.from == self.local.name().as_str() && zine.verify(&self.local.public_key()).is_ok();
        let Some(events) = zine.events.filter(|_| is_own) else {
            return Ok(());
        };
        self.clock.set(zine.created_at.to_millis().to_nanos());
        let answer = RUNTIME.block_on(client.peer(&self.callee).exchange_zine(events));
        let outcome = answer.map(|zine| vec![zine_summary(&zine.from, zine.events.received())]);
        check_outcome(case, &outcome)?;
        case.check("body", String::from_utf8_lossy(&self.peer.last().body));
        Ok(())
    }
}

/// Connects to a recorder on loopback for one address of the mesh, and fails for any other.
#[derive(Debug)]
struct Detour {
    from: SocketAddr,
    to: SocketAddr,
}

impl Transport for Detour {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        if peer == self.from {
            TcpTransport.dial(self.to)
        } else {
            let elsewhere = io::Error::other(format!("dialled {peer} instead of {}", self.from));
            Box::pin(async { Err(elsewhere) })
        }
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        TcpTransport.listen(local)
    }
}

/// A runtime message as a v1 peer spelled it.
struct MessageBytes;

impl Endpoint for MessageBytes {
    type Request = String;
    type Response = ();

    const METHOD: Method = MeshMessage::METHOD;
    const PATH: &'static str = MeshMessage::PATH;
    const AUTHENTICATION: Authentication = MeshMessage::AUTHENTICATION;
    const IDEMPOTENT: bool = MeshMessage::IDEMPOTENT;

    fn encode(body: &String) -> Option<Vec<u8>> {
        Some(body.clone().into_bytes())
    }

    fn decode(body: &[u8]) -> Result<(), JsonError> {
        MeshMessage::decode(body)
    }
}

fn check_request(case: &Case<'_>, request: &Received) -> Result<(), Unreadable> {
    case.check("method", request.method.as_str());
    case.check("request_target", request.target.as_str());
    case.check("body", String::from_utf8_lossy(&request.body));

    let spelled: Vec<&str> = case
        .entries("headers")?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut ours = Map::new();
    for name in request.headers.keys() {
        let values = request.headers.get_all(name).iter();
        let mut values: Vec<_> = values
            .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let value = match values.len() {
            1 => values.remove(0),
            _ => values.into(),
        };
        match name.as_str() {
            "host" => case.check("host", value),
            // Headers of the HTTP libraries.
            "accept-encoding" | "content-length" | "user-agent" => {}
            // Headers of profile v2, in addition to v1; v1 peers ignore them.
            "content-digest" | "signature" | "signature-input" | "x-nara-to" => {}
            name => {
                let spelled = spelled.iter().find(|spelled| spelled.eq_ignore_ascii_case(name));
                ours.insert((*spelled.unwrap_or(&name)).to_owned(), value);
            }
        }
    }
    case.check("headers", ours);
    Ok(())
}

/// Checks the verdict of a client that accepts unproven answers, like v1 peers.
fn check_outcome(case: &Case<'_>, outcome: &Outcome) -> Result<(), Unreadable> {
    case.check("expect", if outcome.is_ok() { "ok" } else { "error" });
    match outcome {
        Ok(results) => {
            let result = case.text("result")?;
            if !results.iter().any(|told| told == result) {
                case.fail("result", result, results.clone());
            }
            case.prose(&["error"]);
            Ok(())
        }
        Err(error) => {
            case.check("result", "");
            check_error(case, error)
        }
    }
}

/// Checks the parts of the Go program's texts that identify the error.
fn check_error(case: &Case<'_>, error: &ClientError) -> Result<(), Unreadable> {
    let status = status(case)?;
    let ours = match error.status() {
        Some(status) => format!("server returned {}", status.as_u16()),
        None if is_decode_error(error) => "decode response".to_owned(),
        None => error.to_string(),
    };
    if status != 200 {
        let told = error.status().map(|status| status.as_u16());
        case.check("server_status", told);
    }
    if case.has("error") {
        let theirs = case.text("error")?;
        let is_known = ["server returned", "decode response"]
            .iter()
            .any(|known| theirs.contains(known));
        if is_known && !theirs.contains(&ours) {
            case.fail("error", theirs, ours);
        }
    }
    Ok(())
}

/// Checks the verdict of a client with default settings, which refuses unproven answers.
fn check_default(case: &Case<'_>, outcome: &Outcome) -> Result<(), Unreadable> {
    let expected = case.text("expect")?;
    let ours = match outcome {
        Ok(_) => "ok",
        Err(error) if error.is_unauthenticated() => "unauthenticated",
        Err(_) => "error",
    };
    if (expected == "ok") != outcome.is_ok() {
        case.fail("expect_by_default", expected, ours);
    }
    Ok(())
}

fn is_decode_error(error: &ClientError) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<JsonError>)
}

fn zine_summary(from: &str, events: usize) -> String {
    format!("from={from} events={events}")
}

fn status(case: &Case<'_>) -> Result<u16, Unreadable> {
    let status = case.int("server_status")?;
    u16::try_from(status).map_err(|_| case.fail("server_status", "a status", status))
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

fn json<T: Merge>(case: &Case<'_>) -> Result<T, Unreadable> {
    let body = case.text("body")?;
    go_json::from_slice(body.as_bytes()).map_err(|error| case.fail("body", body, error.to_string()))
}
