//! Eight hostile peers at the same time, each with a trusted key and its own address.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::event::{CheckpointPayload, HeyTherePayload, Payload, SocialPayload, SyncEvent};
use nara_proto::go_json;
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};
use nara_proto::zine::Zine;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::naras::tease;
use crate::support::{NOW, free_port, known, nara, request, signed};

/// Eight quotas of an eighth are the whole ledger.
const HOSTILE: u8 = 8;

/// The number of verified events that the ledger keeps.
const ROOM: usize = 400;

/// The number of peers that the registry keeps.
const PEERS: usize = 64;

/// The number of events in one zine.
const ZINE: usize = 50;

fn at(ts: i64) -> i64 {
    NOW.to_nanos().get() - 1_000_000 + ts
}

/// Returns a nara that was met at its own address.
fn met(nara: &LocalNara, host: u8) -> PeerInfo {
    let address = SocketAddr::from(([127, 0, 1, host], 9632));
    PeerInfo {
        name: Some(nara.name().clone()),
        address: Some(address),
        key: Some(PinnedKey {
            name: nara.name().clone(),
            id: None,
            key: nara.public_key(),
            source: KeySource::Ping(address),
            learned_at: NOW,
        }),
        ..PeerInfo::default()
    }
}

/// A nara that sends from its own address.
struct Sender {
    nara: LocalNara,
    host: u8,
    to: SocketAddr,
    sent: i64,
}

impl Sender {
    async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::from(([127, 0, 1, self.host], 0)))
            .unwrap();
        socket.connect(self.to).await.unwrap()
    }

    /// Returns a signed request; each has a time one millisecond later.
    fn signed(&mut self, path: &str, body: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let at = UnixMillis::new(NOW.get() + self.sent);
        request("POST", path, &signed(&self.nara, at, "POST", path), body)
    }

    /// Returns status and body of the answer; 0 without one.
    async fn post(&mut self, path: &str, body: &[u8]) -> (u16, String) {
        let bytes = self.signed(path, body);
        let mut stream = self.connect().await;
        // A server that refuses may close before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.get(9..12).and_then(|status| status.parse().ok());
        (status.unwrap_or(0), text)
    }

    async fn tell(&mut self, events: Vec<SyncEvent>) -> u16 {
        let zine = Zine::signed(
            self.nara.name().as_str(),
            NOW.to_seconds(),
            events,
            self.nara.keypair(),
        );
        self.post("/gossip/zine", &go_json::to_vec(&zine)).await.0
    }

    async fn is_served(&mut self, mode: &str) -> bool {
        let body = format!(
            r#"{{"from":"{}","mode":"{mode}","limit":5,"sample_size":5}}"#,
            self.nara.name()
        );
        self.post("/events/sync", body.as_bytes()).await.0 == 200
    }
}

/// Runs the attacks of a hostile nara; returns the connections that it leaves open.
async fn attack(mut eve: Sender, honest: Arc<Vec<SyncEvent>>) -> Vec<TcpStream> {
    let name = eve.nara.name().as_str().to_owned();
    let mut open = Vec::new();
    // Unread answers, and bodies that do not end.
    for _ in 0..4 {
        let mut stream = eve.connect().await;
        let checkpoints = request("GET", "/api/checkpoints/all?limit=2000", &[], b"");
        let _ = stream.write_all(&checkpoints).await;
        open.push(stream);
        let mut stream = eve.connect().await;
        let begun = eve.signed("/events/sync", &[b' '; 1000]);
        let _ = stream.write_all(&begun[..begun.len() - 1]).await;
        open.push(stream);
    }
    // Worthless copies of the events that honest naras will send, in every variant.
    let copies = |event: &SyncEvent| {
        let mut stripped = event.clone();
        stripped.sig.clear();
        let mut mine = event.clone();
        mine.emitter.clone_from(&name);
        let mut garbage = event.clone();
        garbage.sig = tease(&eve.nara, "target", at(0)).sig;
        [stripped, mine, garbage]
    };
    let copied: Vec<_> = honest.iter().flat_map(copies).collect();
    for events in copied.chunks(ZINE) {
        eve.tell(events.to_vec()).await;
    }
    // Forged events in the name of others.
    let lie = |number: i64| {
        let payload = SocialPayload {
            kind: "tease".to_owned(),
            actor: "alice".to_owned(),
            target: "target".to_owned(),
            reason: format!("{name} {number}"),
            ..SocialPayload::default()
        };
        SyncEvent::signed(
            UnixNanos::new(at(number)),
            Payload::Social(payload),
            "alice",
            eve.nara.keypair(),
        )
    };
    let lies: Vec<_> = (0..20).map(lie).collect();
    eve.tell(lies.clone()).await;
    eve.post("/dm", &go_json::to_vec(&lies[0])).await;
    // Checkpoints without known voters, and ghosts.
    let checkpoint = |number: i64| {
        let payload = CheckpointPayload {
            version: 1,
            subject: "alice".to_owned(),
            as_of_time: UnixSeconds::new(number),
            ..CheckpointPayload::default()
        };
        SyncEvent::signed(
            UnixNanos::new(at(number)),
            Payload::Checkpoint(payload),
            &name,
            eve.nara.keypair(),
        )
    };
    let checkpoints = (0..40).map(checkpoint).collect();
    eve.tell(checkpoints).await;
    let ghost = |number: usize| {
        let ghost = nara(&format!("{name}-ghost-{number}"));
        let payload = HeyTherePayload {
            from: ghost.name().to_string(),
            public_key: ghost.public_key().to_base64(),
            ..HeyTherePayload::default()
        };
        SyncEvent::signed(
            NOW.to_nanos(),
            Payload::HeyThere(payload),
            ghost.name().as_str(),
            ghost.keypair(),
        )
    };
    let ghosts = (0..40).map(ghost).collect();
    eve.tell(ghosts).await;
    // Many events of its own, newer than all others.
    for part in 0..5 {
        let own = |number: i64| tease(&eve.nara, "target", at(10_000 + part * 1_000 + number));
        let own = (0..ZINE as i64).map(own).collect();
        eve.tell(own).await;
        let sample = format!(
            r#"{{"from":"{name}","mode":"sample","sample_size":{}}}"#,
            4_000 - part
        );
        eve.post("/events/sync", sample.as_bytes()).await;
    }
    open
}

/// Returns the common target, which knows alice by its configuration and has met the others.
async fn target(others: &[(LocalNara, u8)]) -> (RunningServer, PeerRegistry, Arc<MemoryLedger>) {
    let registry = PeerRegistry::default().with_max_peers(PEERS);
    registry.register(known(&nara("alice"), None)).unwrap();
    for (nara, host) in others {
        registry.register(met(nara, *host)).unwrap();
    }
    let local = nara("target");
    let ledger = MemoryLedger::new()
        .with_retention(RetentionPolicy::default().max_events(ROOM))
        .with_known_names(registry.known_names(local.name().clone()))
        .with_clock(Arc::new(ManualClock::new(NOW.to_nanos())));
    let ledger = Arc::new(ledger);
    let server = MeshServer::builder(local, ledger.clone())
        .without_client()
        .registry(registry.clone())
        .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
        .refuse_before_start(false)
        .serve(free_port())
        .await
        .unwrap();
    (server, registry, ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_hostile_keys_together_take_nothing_from_the_honest() {
    let mut others: Vec<_> = (0..HOSTILE)
        .map(|number| (nara(&format!("eve-{number}")), 10 + number))
        .collect();
    others.push((nara("bob"), 2));
    let (server, registry, ledger) = target(&others).await;
    let sender = |name: &str, host: u8| Sender {
        nara: nara(name),
        host,
        to: server.local_addr(),
        sent: 0,
    };
    let (mut alice, mut bob) = (sender("alice", 1), sender("bob", 2));
    let of = |sender: &Sender, from: i64, count: i64| -> Vec<SyncEvent> {
        let event = |number| tease(&sender.nara, "target", at(number));
        (from..from + count).map(event).collect()
    };

    // Before: alice's signed events, those of an old ledger, and bob's signed events.
    let unsigned = |number: i64| {
        let mut event = tease(&nara("oldie"), "target", at(500 + number));
        event.sig.clear();
        event
    };
    let unsigned: Vec<_> = (0..4).map(unsigned).collect();
    let (of_alice, of_bob) = (of(&alice, 0, 30), of(&bob, 100, 16));
    assert_eq!(
        alice.tell([of_alice.clone(), unsigned.clone()].concat()).await,
        200
    );
    assert_eq!(bob.tell(of_bob.clone()).await, 200);

    // Meanwhile: the attackers know the next events in advance.
    let (more_of_alice, more_of_bob) = (of(&alice, 200, 20), of(&bob, 300, 4));
    let all = [
        of_alice,
        of_bob,
        unsigned,
        more_of_alice.clone(),
        more_of_bob.clone(),
    ]
    .concat();
    let honest = Arc::new(all);
    let attacks: Vec<_> = (0..HOSTILE)
        .map(|number| {
            let eve = sender(&format!("eve-{number}"), 10 + number);
            tokio::spawn(attack(eve, honest.clone()))
        })
        .collect();
    for event in &more_of_alice {
        let (status, answer) = alice.post("/dm", &go_json::to_vec(event)).await;
        assert!(
            status == 200 && answer.contains(r#""success":true"#),
            "{status} {answer}"
        );
        assert!(alice.is_served("recent").await);
    }
    assert_eq!(bob.tell(more_of_bob).await, 200);
    let mut open = Vec::new();
    for attack in attacks {
        open.extend(attack.await.unwrap());
    }

    // Afterwards, with the attackers' connections still open.
    assert!(alice.is_served("sample").await && bob.is_served("recent").await);
    let everything = ReadLimit::events(usize::MAX);
    let kept = ledger.page(EventFilter::default(), Cursor::START, everything);
    let kept = kept.await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|checked| checked.event).collect();
    for event in &*honest {
        assert!(kept.contains(event), "{event:?}");
    }
    let of_honest: HashSet<&str> = honest.iter().map(|event| event.id.as_str()).collect();
    let forged = kept
        .iter()
        .filter(|event| ["alice", "bob", "oldie"].contains(&event.actor()))
        .find(|event| !of_honest.contains(event.id.as_str()));
    assert!(forged.is_none(), "{forged:?}");
    // A hundredth of slack, and a tenth for unverified events.
    assert!(kept.len() <= ROOM + ROOM / 100 + ROOM / 10, "{}", kept.len());

    let key_of = |name: &str| registry.by_name(name).and_then(|peer| peer.key());
    assert_eq!(key_of("alice"), Some(nara("alice").public_key()));
    assert_eq!(key_of("bob"), Some(nara("bob").public_key()));
    assert!(registry.len() <= PEERS);
    // A new nara can still be met.
    registry.register(met(&nara("carol"), 3)).unwrap();
    drop(open);
}
