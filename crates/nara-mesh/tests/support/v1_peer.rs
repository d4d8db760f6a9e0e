//! A v1 peer as seen from the network: it behaves like the Go implementation (docs/protocol/v1.md).
//!
//! It listens on one port and dials that port only, signs with v1 only, and announces no id in `/ping`. It has no
//! streams and no reconciliation, accepts every event that it can parse, and keeps stashes for others. It learns ids
//! over its plaza, represented by [`V1Peer::meet`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use nara_mesh::clock::Clock;
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::event::{ChauPayload, HeyTherePayload, Payload, Service, SyncEvent};
use nara_mesh::proto::go_json::{self, Timestamp};
use nara_mesh::proto::identity::{NaraId, PublicKey};
use nara_mesh::proto::peer::{CoordinatesResponse, PingResponse, Receipt};
use nara_mesh::proto::runtime_message::{
    MessagePayload, RuntimeMessage, StashAck, StashRefresh, StashResponse, StashStore, stash_refusal,
};
use nara_mesh::proto::sync::{SyncMode, SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixMillis;
use nara_mesh::proto::v1::{RequestAuth, ResponseAuth};
use nara_mesh::proto::zine::Zine;
use nara_mesh::transport::Transport;

use crate::fake_peer::{Answer, FakePeer, Received, plain};

/// The maximum age of the events of a zine.
const ZINE_WINDOW: Duration = Duration::from_secs(300);

/// A running v1 peer. Clones are the same peer.
#[derive(Clone, Debug)]
pub(crate) struct V1Peer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    nara: LocalNara,
    address: SocketAddr,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

/// Its data, which it loses when it restarts.
#[derive(Debug, Default)]
struct Memory {
    /// In the order of arrival.
    events: Vec<SyncEvent>,
    keys: BTreeMap<String, PublicKey>,
    /// Name and address by id.
    met: BTreeMap<String, (String, SocketAddr)>,
    online: BTreeMap<String, bool>,
    /// The stashes that it keeps for others, by the id of the owner.
    stashes: BTreeMap<String, StashStore>,
    /// The stash that others kept for it and returned.
    own_stash: Option<StashResponse>,
    acks: Vec<StashAck>,
    is_endless: bool,
    /// The number of requests of each kind of event sync.
    syncs: BTreeMap<String, usize>,
}

impl V1Peer {
    /// Starts the peer. It calls others on its own port only.
    pub(crate) async fn start(
        nara: LocalNara,
        address: SocketAddr,
        transport: impl Transport,
        clock: impl Clock,
    ) -> Self {
        let transport: Arc<dyn Transport> = Arc::new(transport);
        let peer = Self(Arc::new(Parts {
            nara,
            address,
            transport: transport.clone(),
            clock: Arc::new(clock),
            memory: Mutex::default(),
        }));
        let answering = peer.clone();
        let listener = transport.listen(address).await.unwrap();
        FakePeer::start_on(listener, move |received, from| {
            let answering = answering.clone();
            async move { answering.answer(received, from).await }
        });
        peer
    }

    pub(crate) fn nara(&self) -> &LocalNara {
        &self.0.nara
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Learns name, key, id and address of a nara over the plaza.
    pub(crate) fn meet(&self, nara: &LocalNara, ip: IpAddr) {
        let (name, address) = (nara.name().to_string(), self.port_of(ip));
        let mut memory = self.memory();
        memory.keys.insert(name.clone(), nara.public_key());
        memory.met.insert(nara.id().to_string(), (name, address));
    }

    /// Learns only a key over the plaza.
    pub(crate) fn knows(&self, name: &str, key: PublicKey) {
        self.memory().keys.insert(name.to_owned(), key);
    }

    /// Returns how often it was asked for events in this mode.
    pub(crate) fn syncs(&self, mode: &str) -> usize {
        self.memory().syncs.get(mode).copied().unwrap_or_default()
    }

    /// Adds events to its ledger.
    pub(crate) fn remember(&self, events: impl IntoIterator<Item = SyncEvent>) {
        self.memory().events.extend(events);
    }

    /// From now on there is always one more page, with one more event.
    pub(crate) fn never_ends(&self) {
        self.memory().is_endless = true;
    }

    pub(crate) fn events(&self) -> Vec<SyncEvent> {
        self.memory().events.clone()
    }

    /// Returns whether it has the event with this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.memory().events.iter().any(|event| event.id == id)
    }

    /// Returns whether it considers a nara online; `None` if it does not know it.
    pub(crate) fn is_online(&self, name: &str) -> Option<bool> {
        self.memory().online.get(name).copied()
    }

    pub(crate) fn own_stash(&self) -> Option<StashResponse> {
        self.memory().own_stash.clone()
    }

    pub(crate) fn acks(&self) -> Vec<StashAck> {
        self.memory().acks.clone()
    }

    /// Returns the stash that it keeps for the nara with this id.
    pub(crate) fn keeps_for(&self, id: &str) -> Option<StashStore> {
        self.memory().stashes.get(id).cloned()
    }

    /// Loses its data, except the naras that it met: the plaza reports these again.
    pub(crate) fn restart(&self) {
        let mut memory = self.memory();
        let Memory { met, keys, .. } = std::mem::take(&mut *memory);
        (memory.met, memory.keys) = (met, keys);
    }

    /// Returns a `hey-there` with the current time.
    pub(crate) fn hey_there(&self) -> SyncEvent {
        self.event(Payload::HeyThere(HeyTherePayload {
            from: self.nara().name().to_string(),
            public_key: self.nara().public_key().to_base64(),
            mesh_ip: self.0.address.ip().to_string(),
            ..HeyTherePayload::default()
        }))
    }

    /// Returns a `chau` with the current time.
    pub(crate) fn chau(&self) -> SyncEvent {
        self.event(Payload::Chau(ChauPayload {
            from: self.nara().name().to_string(),
            public_key: self.nara().public_key().to_base64(),
            ..ChauPayload::default()
        }))
    }

    /// Returns a signed event with the current time.
    pub(crate) fn event(&self, payload: Payload) -> SyncEvent {
        let (name, keypair) = (self.nara().name().as_str(), self.nara().keypair());
        SyncEvent::signed(self.0.clock.now_nanos(), payload, name, keypair)
    }

    /// Sends a zine, and stores the events of the answer.
    pub(crate) async fn send_zine(&self, to: IpAddr, events: Vec<SyncEvent>) -> (StatusCode, Bytes) {
        let (name, keypair) = (self.nara().name().as_str(), self.nara().keypair());
        let zine = Zine::signed(name, self.0.clock.now_seconds(), events, keypair);
        let (zine, now) = (go_json::to_vec(&zine), self.0.clock.now_millis());
        let (status, body) = self.post_at(to, "/gossip/zine", zine, now).await;
        if let Ok(zine) = go_json::from_slice::<Zine>(&body)
            && status == StatusCode::OK
        {
            self.merge(&zine.from, zine.events.unwrap_or_default()).await;
        }
        (status, body)
    }

    /// Sends a direct message, signed at this time: several may share it.
    pub(crate) async fn send_dm(&self, to: IpAddr, event: &SyncEvent, at: UnixMillis) -> (StatusCode, Bytes) {
        self.post_at(to, "/dm", go_json::to_vec(event), at).await
    }

    /// Asks a confidant to keep a stash. The ack arrives as a separate message.
    pub(crate) async fn store_stash(&self, with: &LocalNara, to: IpAddr, plaintext: &[u8]) {
        self.store_stash_as(self.nara().id(), with, to, plaintext).await;
    }

    /// The same in a message that claims to be from the nara with this id.
    pub(crate) async fn store_stash_as(&self, id: &NaraId, with: &LocalNara, to: IpAddr, plaintext: &[u8]) {
        let nonce = [7; 24];
        let payload = MessagePayload::StashStore(StashStore {
            owner_id: id.to_string(),
            owner: self.nara().name().to_string(),
            nonce: nonce.to_vec().into(),
            ciphertext: self.nara().seal_key().seal(&nonce, plaintext).into(),
            ts: self.0.clock.now_seconds(),
        });
        self.send_message(to, self.message(id, with, payload)).await;
    }

    /// Asks a confidant for its stash, like a v1 peer at its start.
    pub(crate) async fn refresh_stash(&self, with: &LocalNara, to: IpAddr) {
        let payload = MessagePayload::StashRefresh(StashRefresh {
            owner_id: self.nara().id().to_string(),
            owner: self.nara().name().to_string(),
        });
        self.send_message(to, self.message(self.nara().id(), with, payload))
            .await;
    }

    fn message(&self, id: &NaraId, to: &LocalNara, payload: MessagePayload) -> RuntimeMessage {
        let nara = self.nara();
        let now = Timestamp::utc(self.0.clock.now_nanos());
        RuntimeMessage::new(nara.name().as_str(), id.as_str(), now, payload)
            .to(to.name().as_str(), to.id().as_str())
            .sign(nara.keypair())
    }

    /// An undeliverable message is lost.
    async fn send_message(&self, to: IpAddr, message: RuntimeMessage) {
        let request = self.request("/mesh/message", message.to_json(), self.0.clock.now_millis());
        let _ = self.call(self.port_of(to), request).await;
    }

    async fn post_at(&self, to: IpAddr, path: &str, body: Vec<u8>, at: UnixMillis) -> (StatusCode, Bytes) {
        let called = self.call(self.port_of(to), self.request(path, body, at)).await;
        called.unwrap_or_else(|error| panic!("{to}: {error}"))
    }

    fn request(&self, path: &str, body: Vec<u8>, at: UnixMillis) -> Request<Full<Bytes>> {
        let nara = self.nara();
        let mut request = Request::post(path)
            .header("host", "nara")
            .body(Full::from(body))
            .unwrap();
        RequestAuth::sign(nara.keypair(), nara.name(), at, "POST", path).write_to(request.headers_mut());
        request
    }

    /// Sends one request on a new connection.
    async fn call(
        &self,
        address: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TokioIo::new(self.0.transport.dial(address).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok((head.status, body.collect().await?.to_bytes()))
    }

    fn port_of(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.0.address.port())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap()
    }
}

/// The server.
impl V1Peer {
    async fn answer(self, received: Received, from: SocketAddr) -> Answer {
        let path = received.target.split('?').next().unwrap_or_default().to_owned();
        match path.as_str() {
            "/ping" => plain(
                200,
                go_json::to_body(&PingResponse {
                    from: self.nara().name().to_string(),
                    mesh_ip: self.0.address.ip().to_string(),
                    public_key: self.nara().public_key().to_base64(),
                    t: self.0.clock.now_nanos(),
                }),
            ),
            "/coordinates" => plain(
                200,
                go_json::to_body(&CoordinatesResponse {
                    coordinates: None,
                    name: self.nara().name().to_string(),
                }),
            ),
            "/events/sync" | "/gossip/zine" | "/dm" | "/mesh/message" => {
                if let Err(reason) = self.authenticate(&received, &path, from).await {
                    return plain(401, format!("Authentication failed: {reason}\n"));
                }
                let (status, body) = if received.method == Method::POST {
                    match path.as_str() {
                        "/events/sync" => self.sync(&received.body),
                        "/gossip/zine" => self.zine(&received.body).await,
                        "/dm" => self.dm(&received.body).await,
                        _ => self.receive_message(&received.body).await,
                    }
                } else {
                    (405, "Method not allowed\n".into())
                };
                self.signed(status, body)
            }
            _ => plain(404, "404 page not found\n"),
        }
    }

    fn signed(&self, status: u16, body: Bytes) -> Answer {
        let mut response = Response::new(body.clone());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let (keypair, name) = (self.nara().keypair(), self.nara().name());
        ResponseAuth::sign(keypair, name, self.0.clock.now_millis(), &body).write_to(response.headers_mut());
        Answer::With(response)
    }

    async fn authenticate(&self, received: &Received, path: &str, from: SocketAddr) -> Result<(), String> {
        let auth = RequestAuth::from_headers(&received.headers).map_err(|error| error.to_string())?;
        auth.check_fresh(self.0.clock.now_millis())
            .map_err(|error| error.to_string())?;
        let name = auth.name().to_string();
        let known = self.memory().keys.get(&name).copied();
        let key = match known {
            Some(key) => key,
            None => self
                .ask(self.port_of(from.ip()), &name)
                .await
                .ok_or_else(|| format!("unknown sender: {name}"))?,
        };
        auth.verify_signature(&key, received.method.as_str(), path)
            .map_err(|error| error.to_string())
    }

    /// Asks a stranger for its key, at the one port that it knows.
    async fn ask(&self, address: SocketAddr, name: &str) -> Option<PublicKey> {
        let request = Request::get("/ping")
            .header("host", "nara")
            .body(Full::default())
            .unwrap();
        let (status, body) = self.call(address, request).await.ok()?;
        let answer: PingResponse = go_json::from_slice(&body).ok()?;
        let key = PublicKey::from_base64(&answer.public_key).ok()?;
        let is_it = status == StatusCode::OK && answer.from == name;
        is_it.then(|| {
            self.memory().keys.insert(name.to_owned(), key);
            key
        })
    }

    fn sync(&self, body: &[u8]) -> (u16, Bytes) {
        let Ok(mut request) = go_json::from_slice::<SyncRequest>(body) else {
            return (400, "Invalid JSON\n".into());
        };
        if request.from.is_empty() {
            return (400, "from is required\n".into());
        }
        *self.memory().syncs.entry(request.mode.clone()).or_default() += 1;
        // An extension, which it does not know.
        request.after.clear();
        let filter = request.filter();
        let mut events = self.events();
        events.retain(|event| filter.matches(event));
        events.sort_by_key(|event| event.ts);
        let mut next_cursor = String::new();
        match request.mode() {
            SyncMode::Page { after, .. } if self.memory().is_endless => {
                events = vec![crate::naras::tease(self.nara(), "bob", after.ts().get() + 1)];
                next_cursor = events[0].ts.to_string();
            }
            SyncMode::Page { after, size, .. } => {
                events.retain(|event| event.ts > after.ts());
                events.truncate(size);
                if let Some(last) = events.last().filter(|_| events.len() == size) {
                    next_cursor = last.ts.to_string();
                }
            }
            SyncMode::Recent { limit } => {
                events.reverse();
                events.truncate(limit);
            }
            SyncMode::Sample { size } => {
                // Any choice is allowed: the newest.
                events.drain(..events.len().saturating_sub(size));
            }
            SyncMode::Legacy {
                since, max_events, ..
            } => {
                events.retain(|event| since.get() <= 0 || event.ts > since);
                events.drain(..events.len().saturating_sub(max_events));
            }
            mode => panic!("{mode:?}"),
        }
        let (name, keypair) = (self.nara().name().as_str(), self.nara().keypair());
        let mut response = SyncResponse::signed(name, events, self.0.clock.now_seconds(), keypair);
        response.next_cursor = next_cursor;
        (200, go_json::to_body(&response).into())
    }

    async fn zine(&self, body: &[u8]) -> (u16, Bytes) {
        let Ok(zine) = go_json::from_slice::<Zine>(body) else {
            return (400, "Invalid JSON\n".into());
        };
        let key = self.memory().keys.get(&zine.from).copied();
        if key.is_some_and(|key| zine.verify(&key).is_err()) {
            return (403, "Invalid signature\n".into());
        }
        self.merge(&zine.from, zine.events.unwrap_or_default()).await;
        let since = self.0.clock.now_nanos().saturating_sub(ZINE_WINDOW);
        let mut recent = self.events();
        recent.retain(|event| event.ts >= since);
        let (name, keypair) = (self.nara().name().as_str(), self.nara().keypair());
        let answer = Zine::signed(name, self.0.clock.now_seconds(), recent, keypair);
        (200, go_json::to_body(&answer).into())
    }

    async fn dm(&self, body: &[u8]) -> (u16, Bytes) {
        let Ok(event) = go_json::from_slice::<SyncEvent>(body) else {
            return (400, "Invalid JSON\n".into());
        };
        if !event.is_signed() {
            return (400, "Unsigned event rejected\n".into());
        }
        let key = self.memory().keys.get(&event.emitter).copied();
        match key {
            None => return (403, "Unknown emitter\n".into()),
            Some(key) if event.verify(&key).is_err() => return (403, "Invalid signature\n".into()),
            Some(_) => {}
        }
        let (emitter, is_new) = (event.emitter.clone(), !self.has(&event.id));
        self.merge(&emitter, vec![event]).await;
        let receipt = Receipt {
            from: self.nara().name().to_string(),
            success: is_new,
        };
        (200, go_json::to_body(&receipt).into())
    }

    /// Stores events. Their sender is online, unless it says goodbye.
    async fn merge(&self, sender: &str, events: Vec<SyncEvent>) {
        let mut comes = Vec::new();
        let mut goes = false;
        {
            let mut memory = self.memory();
            for event in events {
                if memory.events.iter().any(|known| known.id == event.id) {
                    continue;
                }
                match event.service() {
                    Some(Service::HeyThere) => {
                        if let Some(key) = event.embedded_key() {
                            memory.keys.insert(event.emitter.clone(), key);
                        }
                        memory.online.insert(event.emitter.clone(), true);
                        comes.push(event.emitter.clone());
                    }
                    Some(Service::Chau) => {
                        goes |= event.emitter == sender;
                        memory.online.insert(event.emitter.clone(), false);
                    }
                    _ => {}
                }
                memory.events.push(event);
            }
            if !goes && sender != self.nara().name().as_str() {
                memory.online.insert(sender.to_owned(), true);
            }
        }
        for name in comes {
            self.give_back(&name).await;
        }
    }

    /// A confidant returns a stash when its owner introduces itself.
    async fn give_back(&self, name: &str) {
        let found = {
            let memory = self.memory();
            let met = memory.met.iter().find(|(_, (known, _))| known == name);
            met.and_then(|(id, (_, address))| Some((memory.stashes.get(id)?.clone(), *address)))
        };
        if let Some((stash, address)) = found {
            self.send_stash(name, &stash, address).await;
        }
    }

    async fn send_stash(&self, name: &str, stash: &StashStore, to: SocketAddr) {
        let payload = MessagePayload::StashResponse(response_of(stash));
        let (nara, now) = (self.nara(), Timestamp::utc(self.0.clock.now_nanos()));
        let message = RuntimeMessage::new(nara.name().as_str(), nara.id().as_str(), now, payload)
            .to(name, &stash.owner_id)
            .sign(nara.keypair());
        self.send_message(to.ip(), message).await;
    }

    /// The answer never depends on the outcome.
    async fn receive_message(&self, body: &[u8]) -> (u16, Bytes) {
        if let Ok(message) = RuntimeMessage::from_json(body) {
            self.process(message).await;
        }
        (200, Bytes::new())
    }

    async fn process(&self, message: RuntimeMessage) {
        let sender = {
            let memory = self.memory();
            let met = memory.met.get(&message.from_id).cloned();
            met.and_then(|(name, address)| Some((memory.keys.get(&name).copied()?, name, address)))
        };
        // A refresh is never verified; other kinds are verified with the key known for the id.
        let key = sender.as_ref().map(|(key, ..)| key);
        let verified = key.is_some_and(|key| message.verify(key).is_ok());
        if !verified && !matches!(message.payload, MessagePayload::StashRefresh(_)) {
            return;
        }
        let reply = match message.payload.clone() {
            MessagePayload::StashStore(store) => {
                let refusal = stash_refusal(&store);
                let ack = StashAck {
                    owner_id: store.owner_id.clone(),
                    stored_at: self.0.clock.now_seconds(),
                    success: refusal.is_none(),
                    reason: refusal.unwrap_or_default().to_owned(),
                };
                if refusal.is_none() {
                    self.memory().stashes.insert(store.owner_id.clone(), store);
                }
                Some(MessagePayload::StashAck(ack))
            }
            MessagePayload::StashRequest(request) => {
                let kept = self.keeps_for(&request.owner_id);
                let mut response = kept.as_ref().map(response_of).unwrap_or_default();
                response.owner_id = request.owner_id;
                response.request_id = request.request_id;
                Some(MessagePayload::StashResponse(response))
            }
            MessagePayload::StashRefresh(refresh) => {
                if let Some(stash) = self.keeps_for(&refresh.owner_id)
                    && let Some((_, name, address)) = &sender
                {
                    self.send_stash(name, &stash, *address).await;
                }
                None
            }
            MessagePayload::StashResponse(response) => {
                let key = self.nara().seal_key();
                let opens = key.open(response.nonce.as_slice(), response.ciphertext.as_slice());
                if response.found && opens.is_ok() {
                    self.memory().own_stash.get_or_insert(response);
                }
                None
            }
            MessagePayload::StashAck(ack) => {
                self.memory().acks.push(ack);
                None
            }
            _ => None,
        };
        if let (Some(payload), Some((_, _, address))) = (reply, sender) {
            let (nara, now) = (self.nara(), self.0.clock.now_nanos());
            let (name, id) = (nara.name().as_str(), nara.id().as_str());
            let reply = message.reply(name, id, now, payload, nara.keypair());
            self.send_message(address.ip(), reply).await;
        }
    }
}

fn response_of(stash: &StashStore) -> StashResponse {
    StashResponse {
        owner_id: stash.owner_id.clone(),
        found: true,
        nonce: stash.nonce.clone(),
        ciphertext: stash.ciphertext.clone(),
        stored_at: stash.ts,
        ..StashResponse::default()
    }
}
