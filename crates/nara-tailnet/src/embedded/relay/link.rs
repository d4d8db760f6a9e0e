//! The connection to the relay of one region, maintained while in use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nara_mesh::proto::backoff::Backoff;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use ts_keys::NodeKeyPair;

use super::client::{self, Connection, Reader, RelayError};
use super::frame::{self, Frame};
use super::pacer::Pacer;
use super::region::Server;
use crate::embedded::chain::chain;
use crate::embedded::interfaces::{self, Addresses};
use crate::embedded::sleep::{Sleeps, slept};
use crate::embedded::tls::Tls;
use crate::embedded::underlay::{RegionId, RelayBatch, RelayHost};
use crate::random::random;

/// The capacity of the queue to a relay's writer, in batches. More are dropped: for a slower link they would be too
/// late.
pub(in crate::embedded) const QUEUE: usize = 64;

/// The read timeout. A relay sends something at least every 60 s.
const SILENCE: Duration = Duration::from_secs(130);
/// The write timeout.
const WRITE: Duration = Duration::from_secs(15);
/// An unused connection to a relay other than the home relay is closed after this time.
const IDLE: Duration = Duration::from_secs(300);
/// The maximum number of bytes per write.
const BATCH: usize = 64 * 1024;
/// The maximum number of packets per batch for the data plane.
const INBOUND_BATCH: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The minimum interval at which address changes of this machine abort an attempt or a pause. On container hosts
/// addresses change all the time, and a connection needs up to 10 s.
const MOVE_AGAIN: Duration = Duration::from_secs(15);

/// A link, without its queue.
pub(super) struct Link {
    pub(super) region: RegionId,
    pub(super) rate: u32,
    pub(super) tls: Tls,
    pub(super) host: Arc<dyn RelayHost>,
    pub(super) servers: watch::Receiver<Vec<Server>>,
    pub(super) keys: watch::Receiver<NodeKeyPair>,
    /// Our home region, if any.
    pub(super) home: watch::Receiver<Option<RegionId>>,
    pub(super) addresses: Addresses,
    /// The last time a change aborted an attempt or a pause.
    pub(super) moved: Option<Instant>,
    pub(super) sleeps: Sleeps,
    pub(super) state: watch::Sender<LinkState>,
}

/// The state of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::embedded) enum LinkState {
    /// The link is not needed now.
    #[default]
    Idle,
    /// The link works.
    Up,
    /// The link has failed, since this time and for this reason.
    Down { detail: String, since: Instant },
}

/// The reasons for which a connection ends without an error.
enum End {
    /// The connection is no longer needed, or must be replaced.
    Again,
    /// The node has slept, or the machine changed networks before the connection was established.
    Moved,
    NodeEnded,
}

impl Link {
    /// Runs until its queue is closed.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<RelayBatch>) {
        let mut pacer = Pacer::new(self.rate);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !self.is_home() {
                // Peers do not expect us at this relay before we send something.
                self.state.send_replace(LinkState::Idle);
                tokio::select! {
                    batch = queue.recv() => match batch {
                        Some(batch) => push(&mut pacer, batch),
                        None => return,
                    },
                    _ = self.home.changed() => continue,
                }
            }
            let connected = Instant::now();
            let ended = self.session(&mut queue, &mut pacer).await;
            pacer.clear();
            let was_up = *self.state.borrow() == LinkState::Up;
            let has_lasted = was_up && connected.elapsed() > LONGEST_PAUSE;
            if has_lasted || matches!(ended, Ok(End::Moved)) {
                backoff.reset();
            }
            let error = match ended {
                Ok(End::NodeEnded) => return,
                Ok(End::Moved) => continue,
                Ok(End::Again) if has_lasted => continue,
                // This may repeat quickly, so it counts as a failure with a pause.
                Ok(End::Again) => RelayError::Short,
                Err(error) => error,
            };
            let pause = backoff.after_failure(random());
            tracing::debug!(region = self.region, %error, ?pause, "the link to a relay is down");
            self.down(&error);
            // Drop the packets that wait for a broken link: TCP retransmits, and they would arrive late.
            let until = Instant::now() + pause;
            loop {
                tokio::select! {
                    batch = queue.recv() => if batch.is_none() { return },
                    () = sleep_until(until) => break,
                    () = moved(&mut self.addresses, &mut self.moved) => {
                        backoff.reset();
                        break;
                    }
                    () = slept(&mut self.sleeps) => {
                        backoff.reset();
                        break;
                    }
                }
            }
        }
    }

    fn is_home(&self) -> bool {
        *self.home.borrow() == Some(self.region)
    }

    fn down(&self, error: &RelayError) {
        let detail = chain(error);
        self.state.send_modify(|state| match state {
            LinkState::Down { detail: old, .. } => *old = detail,
            _ => {
                *state = LinkState::Down {
                    detail,
                    since: Instant::now(),
                };
            }
        });
    }

    /// Runs one connection until it ends.
    async fn session(
        &mut self,
        queue: &mut mpsc::Receiver<RelayBatch>,
        pacer: &mut Pacer,
    ) -> Result<End, RelayError> {
        let keys = self.keys.borrow_and_update().clone();
        let servers = self.servers.borrow_and_update().clone();
        let before = self.addresses.borrow_and_update().clone();
        self.sleeps.mark_unchanged();
        let connected = tokio::select! {
            connected = client::connect(&servers, &self.tls, &keys) => connected?,
            () = moved(&mut self.addresses, &mut self.moved) => return Ok(End::Moved),
            () = slept(&mut self.sleeps) => return Ok(End::Moved),
        };
        let Connection {
            reader,
            writer,
            local,
        } = connected;
        self.host.connected();
        tracing::debug!(region = self.region, "connected to a relay");

        let (pongs, pings) = mpsc::channel(4);
        let receive = receive(reader, &*self.host, self.region, &self.state, pongs);
        let mut home = self.home.clone();
        home.mark_changed();
        let send = Sender {
            region: self.region,
            writer,
            bytes: BytesMut::with_capacity(BATCH),
            home,
            pings,
        };
        tokio::select! {
            // Checked first: packets after a sleep belong to the next connection.
            biased;
            () = slept(&mut self.sleeps) => Ok(End::Moved),
            error = receive => Err(error),
            ended = send.run(queue, pacer) => ended,
            // A changed server, key or local address requires a new connection.
            _ = self.servers.changed() => Ok(End::Again),
            _ = self.keys.changed() => Ok(End::Again),
            () = interfaces::lost(&mut self.addresses, local, before.contains(&local)) => Ok(End::Again),
        }
    }
}

/// Waits until the addresses of this machine change, but not again soon after the `last` time.
async fn moved(addresses: &mut Addresses, last: &mut Option<Instant>) {
    if let Some(last) = *last {
        sleep_until(last + MOVE_AGAIN).await;
    }
    // The first report of the addresses is not a change.
    let is_known = !addresses.borrow().is_empty();
    let is_known = is_known || addresses.wait_for(|known| !known.is_empty()).await.is_ok();
    if !is_known || addresses.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    *last = Some(Instant::now());
}

fn push(pacer: &mut Pacer, batch: RelayBatch) {
    let now = Instant::now();
    for packet in batch.packets {
        pacer.push(batch.to, packet, now);
    }
}

/// Passes received packets to the data plane until the connection ends.
async fn receive(
    mut reader: Reader,
    host: &dyn RelayHost,
    region: RegionId,
    state: &watch::Sender<LinkState>,
    pongs: mpsc::Sender<[u8; 8]>,
) -> RelayError {
    loop {
        let first = match timeout(SILENCE, reader.next()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return error,
            Err(_) => return RelayError::Silent(SILENCE),
        };
        let mut packets = Vec::new();
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            match frame {
                Frame::Packet(from, packet) => packets.push((from, BytesMut::from(&packet[..]))),
                // A pong is not needed if the queue is full.
                Frame::Ping(payload) => drop(pongs.try_send(payload)),
                Frame::Restarting => return RelayError::Restarting,
                Frame::PeerGone(peer) => tracing::trace!(region, %peer, "a peer is not at this relay"),
                // The relay has accepted us.
                Frame::ServerInfo(_) => drop(state.send_replace(LinkState::Up)),
                Frame::ServerKey(_) | Frame::Other => {}
            }
            if packets.len() < INBOUND_BATCH {
                next = match reader.buffered() {
                    Ok(frame) => frame,
                    Err(error) => return error,
                };
            }
        }
        host.relayed(packets);
    }
}

/// Writes outgoing packets in batches.
struct Sender<W> {
    region: RegionId,
    writer: W,
    bytes: BytesMut,
    home: watch::Receiver<Option<RegionId>>,
    pings: mpsc::Receiver<[u8; 8]>,
}

impl<W: tokio::io::AsyncWrite + Unpin> Sender<W> {
    async fn run(
        mut self,
        queue: &mut mpsc::Receiver<RelayBatch>,
        pacer: &mut Pacer,
    ) -> Result<End, RelayError> {
        let mut used = Instant::now();
        loop {
            while let Ok(batch) = queue.try_recv() {
                push(pacer, batch);
            }
            let now = Instant::now();
            while self.bytes.len() < BATCH {
                let Some((to, packet)) = pacer.pop(now) else { break };
                frame::put_packet(&mut self.bytes, &to, packet.as_ref());
            }
            let dropped = pacer.take_dropped();
            if dropped > 0 {
                tracing::debug!(
                    region = self.region,
                    dropped,
                    "the queue to a relay was full: packets dropped"
                );
            }
            if !self.bytes.is_empty() {
                used = now;
                self.write(queue, pacer).await?;
                continue;
            }
            let wake = pacer.next();
            let is_home = *self.home.borrow() == Some(self.region);
            tokio::select! {
                batch = queue.recv() => {
                    let Some(batch) = batch else { return Ok(End::NodeEnded) };
                    push(pacer, batch);
                }
                Some(payload) = self.pings.recv() => frame::put_pong(&mut self.bytes, payload),
                Ok(()) = self.home.changed() => {
                    let is_home = *self.home.borrow_and_update() == Some(self.region);
                    frame::put_note_preferred(&mut self.bytes, is_home);
                }
                () = at(wake) => {}
                () = sleep(IDLE), if !is_home => {
                    if used.elapsed() >= IDLE {
                        return Ok(End::Again);
                    }
                }
            }
        }
    }

    /// Writes a batch. Meanwhile the pacer accepts packets: it knows which ones may wait.
    async fn write(
        &mut self,
        queue: &mut mpsc::Receiver<RelayBatch>,
        pacer: &mut Pacer,
    ) -> Result<(), RelayError> {
        let write = async {
            self.writer.write_all(&self.bytes).await?;
            self.writer.flush().await
        };
        let mut write = pin!(timeout(WRITE, write));
        let written = loop {
            tokio::select! {
                biased;
                written = &mut write => break written,
                Some(batch) = queue.recv() => push(pacer, batch),
            }
        };
        written.map_err(|_| RelayError::Silent(WRITE))??;
        self.bytes.clear();
        Ok(())
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;
    use ts_keys::NodePublicKey;

    use super::*;
    use crate::embedded::settings::EmbeddedSettings;

    const REGION: RegionId = 7;

    struct NoHost;

    impl RelayHost for NoHost {
        fn add_link(&self, _region: RegionId, _queue: mpsc::Sender<RelayBatch>) {}
        fn remove_link(&self, _region: RegionId) {}
        fn relayed(&self, _packets: Vec<(NodePublicKey, BytesMut)>) {}
        fn connected(&self) {}
    }

    /// A link to the home relay of a machine whose addresses change each second, with its state changes.
    struct Restless {
        states: watch::Receiver<LinkState>,
        _queue: mpsc::Sender<RelayBatch>,
        sleeps: watch::Sender<u32>,
        _kept: (
            watch::Sender<Vec<Server>>,
            watch::Sender<NodeKeyPair>,
            watch::Sender<Option<RegionId>>,
        ),
    }

    fn restless(servers: Vec<Server>) -> Restless {
        let settings = EmbeddedSettings::new("a", "https://control.invalid".parse().unwrap());
        let kept = (
            watch::Sender::new(servers),
            watch::Sender::new(NodeKeyPair::random()),
            watch::Sender::new(Some(REGION)),
        );
        let (addresses, state) = (
            watch::Sender::<BTreeSet<IpAddr>>::default(),
            watch::Sender::default(),
        );
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (states, sleeps) = (state.subscribe(), watch::Sender::default());
        let link = Link {
            region: REGION,
            rate: 0,
            tls: Tls::new(&settings).unwrap(),
            host: Arc::new(NoHost),
            servers: kept.0.subscribe(),
            keys: kept.1.subscribe(),
            home: kept.2.subscribe(),
            addresses: addresses.subscribe(),
            moved: None,
            sleeps: sleeps.subscribe(),
            state,
        };
        tokio::spawn(link.run(waiting));
        tokio::spawn(async move {
            for n in (1..=9).cycle() {
                sleep(Duration::from_secs(1)).await;
                addresses.send_replace(BTreeSet::from([IpAddr::from([192, 0, 2, n])]));
            }
        });
        Restless {
            states,
            _queue: queue,
            sleeps,
            _kept: kept,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_down_is_not_called_each_time_that_an_address_changes() {
        let mut link = restless(Vec::new());
        let mut failures = 0;
        let end = Instant::now() + Duration::from_secs(60);
        while tokio::time::timeout_at(end, link.states.changed()).await.is_ok() {
            failures += 1;
        }
        assert!((10..80).contains(&failures), "{failures}");
    }

    /// A server that accepts connections without answering, and counts them.
    async fn silent() -> (Server, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Server {
            host_name: "relay.invalid".to_owned(),
            certificate_name: "relay.invalid".to_owned(),
            pin: None,
            port: listener.local_addr().unwrap().port(),
            stun_port: None,
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
        };
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                open.push(listener.accept().await.unwrap());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        (server, accepted)
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_change_all_the_time_do_not_cut_each_attempt_short() {
        let (server, accepted) = silent().await;
        let _link = restless(vec![server]);
        sleep(Duration::from_millis(9500)).await;
        let accepted = accepted.load(Ordering::Relaxed);
        assert!((1..=2).contains(&accepted), "{accepted}");
    }

    #[tokio::test]
    async fn after_a_sleep_a_link_connects_anew_at_once() {
        let (server, accepted) = silent().await;
        let link = restless(vec![server]);
        // Without the reset, the link waits 10 s for each answer.
        let connected = async {
            for expected in 1..=8 {
                while accepted.load(Ordering::Relaxed) < expected {
                    sleep(Duration::from_millis(1)).await;
                }
                link.sleeps.send_modify(|sleeps| *sleeps += 1);
            }
        };
        timeout(Duration::from_secs(30), connected).await.unwrap();
    }
}
