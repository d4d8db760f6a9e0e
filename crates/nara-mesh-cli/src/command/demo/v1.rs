use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::registry::PeerInfo;
use nara_mesh::server::{MeshHandler, MeshServer, RunningServer};
use nara_mesh::tls::TlsPolicy;
use nara_mesh::{Nara, Signatures};
use nara_proto::event::{HeyTherePayload, Payload, SocialPayload, SyncEvent};
use nara_proto::go_json::{self, Timestamp};
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage, StashResponse, StashStore};
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::RequestAuth;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::nara::{DemoNara, Mesh, PATIENCE};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "v1",
    title: "greta supports only protocol v1: nina catches up from her, and alice keeps her stash",
};

/// Events in greta's ledger, from the last week.
const REMEMBERED: usize = 3000;

/// Direct messages sent at once, all signed in one millisecond.
const BURST: usize = 20;

/// How often a ledger is checked.
const LOOK: Duration = Duration::from_millis(5);

/// The content of greta's stash.
const SECRET: &[u8] = b"greta's memory";

/// The v1-only nara.
struct Greta {
    local: LocalNara,
    client: MeshClient,
    address: SocketAddr,
    /// The last stash that was returned.
    stash: watch::Receiver<Option<StashResponse>>,
    server: RunningServer,
}

#[derive(Debug)]
struct Handler(watch::Sender<Option<StashResponse>>);

impl MeshHandler for Handler {
    fn on_runtime_message(&self, message: &RuntimeMessage) {
        if let MessagePayload::StashResponse(response) = &message.payload {
            self.0.send_replace(Some(response.clone()));
        }
    }
}

impl Greta {
    /// Starts with these events and nothing else.
    async fn start(
        local: &LocalNara,
        listen: SocketAddr,
        peers: &[PeerInfo],
        events: Vec<SyncEvent>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let client = MeshClient::builder(local.clone())
            .call_timeout(PATIENCE)
            .dial_timeout(PATIENCE)
            .signatures(Signatures::V1Only)
            .tls(TlsPolicy::Plain)
            .build();
        for peer in peers {
            client.registry().register(peer.clone())?;
        }
        let ledger = Arc::new(MemoryLedger::new());
        ledger.insert_verified(events).await?;
        let (sender, stash) = watch::channel(None);
        let server = MeshServer::builder(local.clone(), ledger)
            .client(client.clone())
            .handler(Handler(sender))
            .signatures(Signatures::V1Only)
            .tls(TlsPolicy::Plain)
            .mesh_ip(Ipv4Addr::LOCALHOST.to_string())
            .serve(listen)
            .await?;
        Ok(Self {
            local: local.clone(),
            client,
            address: server.local_addr(),
            stash,
            server,
        })
    }

    async fn end(self) {
        drop(self.client);
        self.server.shutdown(PATIENCE).await;
    }

    fn event(&self, payload: Payload) -> SyncEvent {
        signed(&self.local, payload, SystemClock.now_nanos())
    }
}

fn signed(local: &LocalNara, payload: Payload, at: UnixNanos) -> SyncEvent {
    SyncEvent::signed(at, payload, local.name().as_str(), local.keypair())
}

fn tease(local: &LocalNara, target: &str, at: UnixNanos) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: local.name().to_string(),
        target: target.to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    signed(local, Payload::Social(payload), at)
}

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, ..] = mesh.trio();
    let local = LocalNara::generate("greta")?;
    let nina = LocalNara::generate("nina")?;
    let peers = [alice.local.as_peer(Some(alice.address)), nina.as_peer(None)];
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let week = history(&local);
    let greta = Greta::start(&local, anywhere, &peers, week).await?;
    // A v1 peer reveals its id only in its messages.
    let known = PeerInfo::configured(local.name().clone(), local.public_key()).at(greta.address);
    alice.client.registry().register(known.clone())?;

    let caught_up = catch_up(nina, known).await?;
    let arrived = burst(&greta, alice).await?;
    let (greta, regained) = lose_and_regain(greta, alice, &peers).await?;
    greta.end().await;

    let lines = [
        format!(
            "nina starts, and has {REMEMBERED} events of greta after {}",
            human(caught_up)
        ),
        format!("{arrived} of {BURST} direct messages that greta signed in one millisecond are accepted"),
        format!(
            "greta loses her stash, sends hey-there, and has it back after {}",
            human(regained)
        ),
    ];
    let summary = format!("caught up, {arrived} of {BURST} messages at once, and the stash was returned");
    Ok(Report::new(arrived == BURST, summary)
        .lines(lines)
        .figure("caught_up", REMEMBERED)
        .figure("caught_up_us", micros(caught_up))
        .figure("burst", arrived)
        .figure("regained_us", micros(regained)))
}

/// Returns a week of events that ends an hour ago: beyond the reach of zines.
fn history(local: &LocalNara) -> Vec<SyncEvent> {
    let end = SystemClock.now_nanos().saturating_sub(Duration::from_secs(3600));
    (1..=REMEMBERED as u32)
        .map(|number| {
            tease(
                local,
                "nina",
                end.saturating_sub(Duration::from_secs(200) * number),
            )
        })
        .collect()
}

/// Starts a nara that knows greta, and waits until gossip has fetched all of greta's events.
async fn catch_up(
    nina: LocalNara,
    greta: PeerInfo,
) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
    let begun = Instant::now();
    let nina = Nara::builder(nina)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .know(greta)
        .timeout(PATIENCE)
        .without_gossip()
        .start()
        .await?;
    let waiting = async {
        while nina.ledger().count().await? < REMEMBERED {
            sleep(LOOK).await;
        }
        Ok::<_, nara_mesh::ledger::LedgerError>(begun.elapsed())
    };
    let took = timeout(PATIENCE, waiting).await??;
    nina.shutdown(PATIENCE).await;
    Ok(took)
}

/// Sends direct messages at once, signed in the same millisecond: with v1 they all have the same signature.
async fn burst(greta: &Greta, alice: &DemoNara) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let now = SystemClock.now_nanos();
    let sending = (0..BURST as u32).map(|number| {
        let event = tease(
            &greta.local,
            alice.name(),
            now.saturating_add(Duration::from_nanos(number.into())),
        );
        post_dm(alice.address, &greta.local, event, now.to_millis())
    });
    let sent = futures_util::future::try_join_all(sending).await?;
    Ok(sent.into_iter().filter(|accepted| *accepted).count())
}

/// Sends one direct message on a new connection. Returns whether it was accepted.
async fn post_dm(
    address: SocketAddr,
    sender: &LocalNara,
    event: SyncEvent,
    at: UnixMillis,
) -> io::Result<bool> {
    let body = go_json::to_vec(&event);
    let mut headers = HeaderMap::new();
    RequestAuth::sign(sender.keypair(), sender.name(), at, "POST", "/dm").write_to(&mut headers);
    let mut request = format!(
        "POST /dm HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in &headers {
        request.push_str(&format!(
            "{name}: {}\r\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    stream.write_all(&body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200") && answer.contains("\"success\":true"))
}

/// Stores a stash at alice, restarts without any state, and waits until alice returns it.
async fn lose_and_regain(
    greta: Greta,
    alice: &DemoNara,
    peers: &[PeerInfo],
) -> Result<(Greta, Duration), Box<dyn std::error::Error + Send + Sync>> {
    let local = greta.local.clone();
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let store = MessagePayload::StashStore(StashStore {
        owner_id: local.id().to_string(),
        owner: local.name().to_string(),
        nonce: nonce.to_vec().into(),
        ciphertext: local.seal_key().seal(&nonce, SECRET).into(),
        ts: SystemClock.now_seconds(),
    });
    let now = Timestamp::utc(SystemClock.now_nanos());
    let message = RuntimeMessage::new(local.name().as_str(), local.id().as_str(), now, store)
        .to(alice.name(), alice.local.id().as_str())
        .sign(local.keypair());
    let ack = greta.client.peer(alice.local.id()).call_runtime(&message).await?;
    if !matches!(&ack.payload, MessagePayload::StashAck(ack) if ack.success) {
        return Err("alice does not keep the stash".into());
    }

    let address = greta.address;
    greta.end().await;
    let mut greta = Greta::start(&local, address, peers, Vec::new()).await?;
    let begun = Instant::now();
    let hey_there = greta.event(Payload::HeyThere(HeyTherePayload {
        from: local.name().to_string(),
        public_key: local.public_key().to_base64(),
        mesh_ip: Ipv4Addr::LOCALHOST.to_string(),
        ..HeyTherePayload::default()
    }));
    greta
        .client
        .peer(alice.local.id())
        .exchange_zine(vec![hey_there])
        .await?;
    let regained = {
        let stash = timeout(PATIENCE, greta.stash.wait_for(Option::is_some)).await??;
        let stash = stash.as_ref().ok_or("no stash was returned")?;
        local
            .seal_key()
            .open(stash.nonce.as_slice(), stash.ciphertext.as_slice())
    };
    if regained.map_err(|error| error.to_string())? != SECRET {
        return Err("a different stash was returned".into());
    }
    Ok((greta, begun.elapsed()))
}
