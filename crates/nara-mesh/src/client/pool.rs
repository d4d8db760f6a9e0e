//! Connections to peers, kept alive for the next call.
//!
//! A custom pool, because `hyper-util`'s can neither drop the idle connections of one peer nor limit their number
//! over all peers.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nara_proto::identity::{KeyPair, PublicKey};
use nara_proto::v2::ChannelBinding;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::deadline::BodyTime;
use super::error::{Problem, Stage};
use super::request::RequestBody;
use crate::clock::slept_by;
use crate::gathered::Gathered;
use crate::metrics::Plain;
use crate::offload::promptly;
use crate::registry::{KeyLease, PeerRegistry};
use crate::tls::{CertificateKind, ClientTls, SecureChannel};
use crate::transport::{BoxMeshStream, Transport};
use crate::{defaults, metrics};

type Sender = http1::SendRequest<RequestBody>;

static IDLE: Plain = Plain::new(metrics::POOL_IDLE);
static REUSED: Plain = Plain::new(metrics::POOL_REUSED);

/// A deadline this shortly before the dial limit counts as the dial limit: by default both are 5 s, and the
/// deadline started a moment earlier.
const DIAL_SLACK: Duration = Duration::from_millis(100);

/// Dials peers and pools their connections. A connection is dropped when the key under which it was opened is
/// replaced or removed.
#[derive(Debug)]
pub(super) struct Pool {
    transport: Arc<dyn Transport>,
    dial_timeout: Duration,
    keypair: KeyPair,
    /// Created with the first TLS connection: its session cache is large.
    tls: OnceLock<ClientTls>,
    idle: Arc<Mutex<Idle>>,
}

/// The address and protection of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// `None` for a plain connection.
    pub(super) tls: Option<TlsTarget>,
}

/// The other end of a secure connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsTarget {
    /// The key that it must hold; `None` accepts any key.
    pub(super) key: Option<PublicKey>,
    pub(super) kind: CertificateKind,
}

/// Idle connections, in the order in which they became idle. Few enough for linear search.
#[derive(Debug)]
struct Idle {
    connections: Vec<IdleConnection>,
    reaper: Option<JoinHandle<()>>,
    /// Notifies when a key may have been replaced or removed.
    decisions: watch::Receiver<()>,
}

#[derive(Debug)]
struct IdleConnection {
    target: Target,
    connection: Box<Connection>,
    since: Instant,
    /// How long the machine had slept at that time.
    slept: Duration,
}

/// A connection without a request in flight. Dropping it, or a request on it, closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    /// The address, as the `Host` header of requests.
    host: HeaderValue,
    /// The header that binds an unsigned request to this connection, built once.
    binding: Option<HeaderValue>,
    channel: Option<SecureChannel>,
    /// The key of the peer when it was opened, if known.
    opened_on: Option<KeyLease>,
    reused: bool,
}

/// A connection whose answer is being read. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    idle: Arc<Mutex<Idle>>,
    target: Target,
    connection: Box<Connection>,
}

impl Pool {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        dial_timeout: Duration,
        keypair: KeyPair,
        registry: &PeerRegistry,
    ) -> Self {
        let idle = Idle {
            connections: Vec::new(),
            reaper: None,
            decisions: registry.decisions(),
        };
        Self {
            transport,
            dial_timeout,
            keypair,
            tls: OnceLock::new(),
            idle: Arc::new(Mutex::new(idle)),
        }
    }

    /// Takes the connection to a peer that became idle last.
    pub(super) fn take(&self, target: Target, now: Instant) -> Option<Box<Connection>> {
        let slept = slept_by(now.into_std());
        let mut idle = lock(&self.idle);
        loop {
            let index = idle
                .connections
                .iter()
                .rposition(|entry| entry.target == target)?;
            let entry = idle.connections.remove(index);
            idle.note();
            if entry.is_usable(now, slept) {
                REUSED.counter().increment(1);
                return Some(entry.connection);
            }
        }
    }

    /// Opens a connection to a peer, within the dial limit and the deadline.
    pub(super) async fn dial(&self, target: Target, deadline: Instant) -> Result<Box<Connection>, Problem> {
        let dialled = self.dial_now(target, deadline).await;
        let outcome = match &dialled {
            Ok(_) => "ok",
            Err(Problem::DialTimeout(_) | Problem::Timeout(_)) => "timeout",
            Err(_) => "failed",
        };
        ::metrics::counter!(metrics::DIALS, "outcome" => outcome).increment(1);
        dialled
    }

    /// Opens a connection to whichever of two targets answers. The first has a head start of 250 ms. If both
    /// fail, returns the problem of the first.
    pub(super) async fn dial_either(
        &self,
        targets: [Target; 2],
        deadline: Instant,
    ) -> Result<(Box<Connection>, Target), Problem> {
        let [first, second] = targets;
        let mut one = pin!(self.dial(first, deadline));
        let mut two = pin!(self.dial(second, deadline));
        tokio::select! {
            dialled = &mut one => return match dialled {
                Ok(connection) => Ok((connection, first)),
                Err(problem) if problem.is_unreachable() => {
                    let dialled = two.await;
                    dialled.map(|connection| (connection, second)).map_err(|_| problem)
                }
                Err(problem) => Err(problem),
            },
            () = sleep(defaults::PORT_DELAY) => {}
        }
        tokio::select! {
            dialled = &mut one => match dialled {
                Ok(connection) => Ok((connection, first)),
                Err(problem) if problem.is_unreachable() => {
                    let dialled = two.await;
                    dialled.map(|connection| (connection, second)).map_err(|_| problem)
                }
                Err(problem) => Err(problem),
            },
            dialled = &mut two => match dialled {
                Ok(connection) => Ok((connection, second)),
                Err(_) => one.await.map(|connection| (connection, first)),
            },
        }
    }

    async fn dial_now(&self, target: Target, deadline: Instant) -> Result<Box<Connection>, Problem> {
        let limit = Instant::now() + self.dial_timeout;
        let (stream, channel) = match timeout_at(limit.min(deadline), self.connect(target)).await {
            Ok(connected) => connected?,
            Err(_) if deadline + DIAL_SLACK >= limit => {
                return Err(Problem::DialTimeout(self.dial_timeout));
            }
            Err(_) => return Err(Problem::Timeout(Stage::Dial)),
        };
        let (sender, connection) = http1::Builder::new()
            .max_header_size(defaults::MAX_HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Problem::Dial(io::Error::other(error)))?;
        let peer = target.address;
        tokio::spawn(async move {
            // A request in flight gets the error itself; an idle connection usually ends this way.
            if let Err(error) = connection.await {
                tracing::trace!(%peer, %error, "connection ended");
            }
        });
        let host = HeaderValue::try_from(target.address.to_string());
        let binding = channel
            .as_ref()
            .map(|channel| ChannelBinding::new(channel.binding).to_value());
        Ok(Box::new(Connection {
            sender,
            host: host.expect("an address is ASCII"),
            binding,
            channel,
            opened_on: None,
            reused: false,
        }))
    }

    async fn connect(&self, target: Target) -> Result<(BoxMeshStream, Option<SecureChannel>), Problem> {
        let dialled = self.transport.dial(target.address).await;
        let stream = dialled.map_err(Problem::Dial)?;
        let Some(TlsTarget { key, kind }) = target.tls else {
            return Ok((stream, None));
        };
        let tls = self.tls.get_or_init(|| ClientTls::new(&self.keypair));
        let connected = tls.connect(stream, key.as_ref(), kind).await;
        let (stream, channel) = connected.map_err(Problem::from)?;
        Ok((Box::new(stream), Some(channel)))
    }

    /// Returns a lease that puts the connection back into the pool once its answer is read to the end.
    pub(super) fn lease(&self, target: Target, connection: Box<Connection>) -> Lease {
        Lease {
            idle: self.idle.clone(),
            target,
            connection,
        }
    }

    /// Closes the connections to a peer that have been idle since before `sent`, because a request sent then got
    /// no answer: their path is probably dead as well.
    pub(super) fn evict(&self, peer: SocketAddr, sent: Instant) {
        let mut idle = lock(&self.idle);
        idle.connections
            .retain(|entry| entry.target.address != peer || entry.since > sent);
        idle.note();
    }
}

impl Lease {
    /// Returns the connection to the pool.
    pub(super) fn give_back(self, now: Instant) {
        let Self {
            idle,
            target,
            mut connection,
        } = self;
        connection.reused = true;
        // A body may be read to its end outside of a runtime.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        if connection.sender.is_ready() {
            keep(&idle, IdleConnection::new(target, connection, now));
            return;
        }
        // The answer may arrive before the request is fully written.
        let idle = Arc::downgrade(&idle);
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(defaults::POOL_IDLE, connection.sender.ready()).await
                && let Some(idle) = idle.upgrade()
            {
                keep(&idle, IdleConnection::new(target, connection, Instant::now()));
            }
        });
    }
}

fn keep(idle: &Arc<Mutex<Idle>>, connection: IdleConnection) {
    if !connection.is_usable(connection.since, connection.slept) {
        return;
    }
    let mut pool = lock(idle);
    let same = |entry: &&IdleConnection| entry.target.address == connection.target.address;
    let of_peer = pool.connections.iter().filter(same).count();
    if of_peer >= defaults::POOL_IDLE_PER_PEER {
        return;
    }
    if pool.connections.len() >= defaults::POOL_IDLE_TOTAL {
        pool.connections.remove(0);
    }
    pool.connections.push(connection);
    pool.note();
    if pool.reaper.as_ref().is_none_or(JoinHandle::is_finished) {
        pool.reaper = Some(tokio::spawn(reap(Arc::downgrade(idle))));
    }
}

/// Closes idle connections when they time out or their key is replaced, until none is left.
async fn reap(idle: Weak<Mutex<Idle>>) {
    loop {
        let (next, mut decisions) = {
            let Some(idle) = idle.upgrade() else { return };
            let mut idle = lock(&idle);
            idle.decisions.mark_unchanged();
            let now = Instant::now();
            let slept = slept_by(now.into_std());
            idle.connections
                .retain(|connection| connection.is_usable(now, slept));
            idle.note();
            match idle.connections.first() {
                Some(oldest) => (oldest.since + defaults::POOL_IDLE, idle.decisions.clone()),
                None => {
                    idle.reaper = None;
                    return;
                }
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            // An error means that the registry, and so every key, is gone.
            _ = decisions.changed() => {}
        }
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    // Every change is complete when it could panic.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Idle {
    fn note(&self) {
        IDLE.gauge().set(self.connections.len() as f64);
    }
}

impl IdleConnection {
    /// Creates an entry for a connection that becomes idle now.
    fn new(target: Target, connection: Box<Connection>, since: Instant) -> Self {
        Self {
            target,
            connection,
            since,
            slept: slept_by(since.into_std()),
        }
    }

    /// Returns how long it has been idle, including sleep of the machine: peers and NATs forget connections
    /// meanwhile.
    fn idle(&self, now: Instant, slept: Duration) -> Duration {
        now.saturating_duration_since(self.since) + slept.saturating_sub(self.slept)
    }

    fn is_usable(&self, now: Instant, slept: Duration) -> bool {
        let Connection {
            sender, opened_on, ..
        } = &*self.connection;
        sender.is_ready()
            && self.idle(now, slept) < defaults::POOL_IDLE
            && opened_on.as_ref().is_none_or(KeyLease::is_valid)
    }
}

impl Connection {
    /// Returns what the connection proves about its other end; `None` for a plain connection.
    pub(super) fn channel(&self) -> Option<&SecureChannel> {
        self.channel.as_ref()
    }

    /// Returns the address, as the `Host` header of requests.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Returns the header that binds an unsigned request to this connection; `None` for a plain one.
    pub(super) fn binding(&self) -> Option<&HeaderValue> {
        self.binding.as_ref()
    }

    /// Ties the lifetime of the idle connection to the key of its peer.
    pub(super) fn open_on(&mut self, key: Option<KeyLease>) {
        self.opened_on = key;
    }

    /// Returns whether it has carried a request before: it may have broken since, unnoticed.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request; the returned future waits for the head of its answer.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Problem>> + Send + use<> {
        self.sender.send_request(request).map_err(Problem::from)
    }
}

/// Reads a body, at most `limit` bytes. Returns the bytes, and whether they are the whole body.
pub(super) async fn read_body(
    mut body: Incoming,
    limit: usize,
    time: BodyTime,
) -> Result<(Bytes, bool), Problem> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut read = Gathered::expecting(announced.min(limit));
    loop {
        let Ok(frame) = promptly(body.frame(), || time.next()).await else {
            let slow = time.patience.map(|_| Stage::Slow);
            return Err(Problem::Timeout(slow.unwrap_or(Stage::Answer)));
        };
        let Some(frame) = frame else {
            return Ok((read.finish(), true));
        };
        let Ok(data) = frame?.into_data() else { continue };
        let room = limit - read.len();
        if data.len() > room {
            read.push(data.slice(..room));
            return Ok((read.finish(), false));
        }
        read.push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_while_the_machine_sleeps() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let (sender, _connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let connection = Box::new(Connection {
            sender,
            host: HeaderValue::from_static("peer"),
            binding: None,
            channel: None,
            opened_on: None,
            reused: true,
        });
        let target = Target {
            address: ([192, 0, 2, 1], 9632).into(),
            tls: None,
        };
        let since = Instant::now();
        let entry = IdleConnection::new(target, connection, since);
        let second = Duration::from_secs(1);
        assert_eq!(entry.idle(since + second, entry.slept), second);
        assert_eq!(
            entry.idle(since + second, entry.slept + 600 * second),
            601 * second
        );
    }
}
