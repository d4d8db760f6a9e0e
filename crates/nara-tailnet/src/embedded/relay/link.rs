//! The connection to one region's relay, kept up for as long as it is of use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nara_mesh::proto::backoff::Backoff;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use ts_keys::NodeKeyPair;
use ts_packet::PacketMut;

use super::client::{self, Connection, Reader, RelayError};
use super::frame::{self, Frame};
use super::pacer::Pacer;
use super::region::Server;
use crate::embedded::chain::chain;
use crate::embedded::interfaces::{self, Addresses};
use crate::embedded::tls::Tls;
use crate::embedded::underlay::{RegionId, RelayBatch, RelayHost};
use crate::random::random;

/// Batches that wait for a relay's writer. More are dropped: a link that is slower than that has no use for them.
pub(in crate::embedded) const QUEUE: usize = 64;

/// A relay says something at least every 60 s.
const SILENCE: Duration = Duration::from_secs(130);
/// A relay that takes nothing for this long is left.
const WRITE: Duration = Duration::from_secs(15);
/// The connection to a relay that is not our home, and that nobody uses, is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Frames are written together up to this many bytes.
const BATCH: usize = 64 * 1024;
/// Packets that are given to the data plane together.
const INBOUND_BATCH: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a link is, besides its queue.
pub(super) struct Link {
    pub(super) region: RegionId,
    pub(super) rate: u32,
    pub(super) tls: Tls,
    pub(super) host: Arc<dyn RelayHost>,
    pub(super) servers: watch::Receiver<Vec<Server>>,
    pub(super) keys: watch::Receiver<NodeKeyPair>,
    /// Our home region, if there is one.
    pub(super) home: watch::Receiver<Option<RegionId>>,
    pub(super) addresses: Addresses,
    pub(super) state: watch::Sender<LinkState>,
}

/// Whether a link works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::embedded) enum LinkState {
    /// It is not needed now.
    #[default]
    Idle,
    /// It works.
    Up,
    /// It does not, for this reason and since then.
    Down { detail: String, since: Instant },
}

/// Why a connection ended without an error.
enum End {
    /// It is no longer needed, or has to be made anew.
    Again,
    NodeEnded,
}

impl Link {
    /// Runs until its queue ends.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<RelayBatch>) {
        let mut pacer = Pacer::new(self.rate);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            if !self.is_home() {
                // Nobody expects us there before we have something to say.
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
            let error = match ended {
                Ok(End::NodeEnded) => return,
                Ok(End::Again) => continue,
                Err(error) => error,
            };
            let was_up = *self.state.borrow() == LinkState::Up;
            if was_up && connected.elapsed() > LONGEST_PAUSE {
                backoff.reset();
            }
            let pause = backoff.after_failure(random());
            tracing::debug!(region = self.region, %error, ?pause, "the link to a relay is down");
            self.down(&error);
            // TCP sends again what it misses; packets that wait for a link that is down would only come late.
            let until = Instant::now() + pause;
            loop {
                tokio::select! {
                    batch = queue.recv() => if batch.is_none() { return },
                    () = sleep_until(until) => break,
                    // This machine is on another network now.
                    Ok(()) = self.addresses.changed() => {
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

    /// One connection, until it ends.
    async fn session(
        &mut self,
        queue: &mut mpsc::Receiver<RelayBatch>,
        pacer: &mut Pacer,
    ) -> Result<End, RelayError> {
        let keys = self.keys.borrow_and_update().clone();
        let servers = self.servers.borrow_and_update().clone();
        self.addresses.mark_unchanged();
        let connected = tokio::select! {
            connected = client::connect(&servers, &self.tls, &keys) => connected?,
            Ok(()) = self.addresses.changed() => return Ok(End::Again),
        };
        let Connection {
            reader,
            writer,
            local,
        } = connected;
        self.state.send_replace(LinkState::Up);
        tracing::debug!(region = self.region, "connected to a relay");

        let (pongs, pings) = mpsc::channel(4);
        let receive = receive(reader, &*self.host, self.region, pongs);
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
            error = receive => Err(error),
            ended = send.run(queue, pacer) => ended,
            // Another server, another key, or an address that is no longer ours: begin again.
            _ = self.servers.changed() => Ok(End::Again),
            _ = self.keys.changed() => Ok(End::Again),
            () = interfaces::lost(&mut self.addresses, local) => Ok(End::Again),
        }
    }
}

fn push(pacer: &mut Pacer, batch: RelayBatch) {
    let now = Instant::now();
    for packet in batch.packets {
        pacer.push(batch.to, packet, now);
    }
}

/// Gives what arrives to the data plane, until the connection ends.
async fn receive(
    mut reader: Reader,
    host: &dyn RelayHost,
    region: RegionId,
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
                Frame::Packet(from, packet) => packets.push((from, PacketMut::from(&packet[..]))),
                // Nobody waits for a pong that finds no room.
                Frame::Ping(payload) => drop(pongs.try_send(payload)),
                Frame::Restarting => return RelayError::Restarting,
                Frame::PeerGone(peer) => tracing::trace!(region, %peer, "a peer is not at this relay"),
                Frame::ServerKey(_) | Frame::ServerInfo(_) | Frame::Other => {}
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

/// Writes what goes out, in batches.
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

    /// Writes what was gathered. Meanwhile the pacer takes what comes: it knows which packets may wait.
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
