//! The TCP of the node: dialing, listening and addresses.

pub(super) mod listener;
mod runner;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nara_mesh::proto::backoff::Backoff;
use nara_mesh::transport::BoxMeshStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use ts_keys::NodePublicKey;
use ts_netstack_smoltcp::CreateSocket as _;
use ts_netstack_smoltcp::netcore::smoltcp::config::IFACE_MAX_ADDR_COUNT;
use ts_netstack_smoltcp::netcore::{self, Channel, InternalErrorKind, NetstackControl as _};
use ts_netstack_smoltcp::netsock::TcpListener;

pub(super) use self::runner::Runner;
use self::stream::Stream;
use super::device::{Device, Distance, MTU, StackEnd};
use super::driver::Driver;
use super::tap::{Flow, Tap};

/// The first port for outgoing connections (RFC 6335, section 6).
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = u16::MAX - FIRST_PORT;
/// A peer that has sent nothing within this time, or two round trips if that is longer, may not know this node yet, or
/// not our session any more, so the handshake is repeated. Doubles each time.
const HANDSHAKE_RETRY: Duration = Duration::from_millis(250);
const MAX_HANDSHAKE_RETRY: Duration = Duration::from_secs(2);
/// The timeout of stack commands that involve no peer.
const COMMAND: Duration = Duration::from_secs(5);

/// The TCP of the node. Each distance has a network stack of its own.
pub(super) struct Stack {
    near: Channel,
    far: Channel,
    driver: Arc<Driver>,
    tap: Arc<Tap>,
    next_port: AtomicU16,
    addresses: watch::Sender<Vec<IpAddr>>,
}

impl Stack {
    pub(super) fn new(device: &Arc<Device>, driver: Arc<Driver>, tap: Arc<Tap>) -> (Arc<Self>, [Runner; 2]) {
        let [near, far] = Distance::ALL.map(|distance| {
            Runner::new(
                StackEnd::new(Arc::clone(device), distance),
                netcore::Config {
                    // A connection has three commands at most. Closing it must not find a full queue: the library
                    // would drop the command, and keep the buffers.
                    command_channel_capacity: None,
                    mtu: MTU,
                    tcp_buffer_size: distance.buffer(),
                    ..netcore::Config::default()
                },
            )
        });
        let this = Self {
            near: near.channel(),
            far: far.channel(),
            driver,
            tap,
            next_port: AtomicU16::new(random_port()),
            addresses: watch::Sender::default(),
        };
        (Arc::new(this), [near, far])
    }

    const fn channel(&self, distance: Distance) -> &Channel {
        match distance {
            Distance::Near => &self.near,
            Distance::Far => &self.far,
        }
    }

    /// Sets our addresses as assigned by the control server. Listeners follow.
    pub(super) async fn set_addresses(&self, addresses: &[IpAddr]) {
        let few: Vec<_> = addresses.iter().copied().take(IFACE_MAX_ADDR_COUNT).collect();
        if few.is_empty() || *self.addresses.borrow() == few {
            return;
        }
        for distance in Distance::ALL {
            match timeout(COMMAND, self.channel(distance).set_ips(few.clone())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the network stack rejected our addresses"),
                Err(_) => tracing::error!("the network stack did not accept our addresses in time"),
            }
        }
        self.addresses.send_replace(few);
    }

    pub(super) fn addresses(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.addresses.subscribe()
    }

    /// Connects to a peer. The caller limits the duration.
    pub(super) async fn dial(&self, peer: SocketAddr, key: NodePublicKey) -> io::Result<BoxMeshStream> {
        if let Err(no_room) = self.tap.has_room_for(peer.ip()) {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("{peer}: {no_room}"),
            ));
        }
        let round_trip = self.driver.round_trip(&key).unwrap_or_default();
        let mut backoff = Backoff::new(
            (round_trip * 2).clamp(HANDSHAKE_RETRY, MAX_HANDSHAKE_RETRY),
            MAX_HANDSHAKE_RETRY,
        );
        let mut wait = backoff.after_failure(u32::MAX);
        let mut begin = Instant::now();
        let mut far = self.tap.far();
        loop {
            let distance = self.tap.distance_to(peer.ip());
            let was_far = far.borrow().contains(&peer.ip());
            let local = self.local_end(peer)?;
            // The stack would keep a dropped connection attempt.
            let abandoned = AbortOnDrop {
                tap: &self.tap,
                flow: Some((local, peer)),
            };
            let channel = self.channel(distance).clone();
            // A task of its own: the library would lose a connection that opens while its caller gives up.
            let mut attempt = tokio::spawn(async move { channel.tcp_connect(local, peer).await });
            let is_lost = loop {
                tokio::select! {
                    connected = &mut attempt => {
                        abandoned.keep();
                        return match connected.map_err(io::Error::other)? {
                            Ok(stream) => Ok(Box::new(Stream::new(stream, Arc::clone(&self.tap)))),
                            Err(error) => Err(dial_error(peer, error)),
                        };
                    }
                    // The SYN, which waits for the first handshake with the peer, has chosen the buffers too early.
                    Ok(_) = far.wait_for(|far| far.contains(&peer.ip())), if !was_far => break false,
                    () = sleep(wait) => {
                        // Otherwise the peer is reachable but slow: TCP itself retransmits.
                        if !self.driver.heard_since(&key, begin) {
                            break true;
                        }
                    }
                }
            };
            drop(abandoned);
            if is_lost {
                self.driver.unanswered(key);
                wait = backoff.after_failure(u32::MAX);
                begin = Instant::now();
            }
        }
    }

    fn local_end(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        let ours = self
            .addresses
            .borrow()
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == peer.is_ipv4())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NetworkUnreachable,
                    "the node does not have this address yet",
                )
            })?;
        for _ in 0..PORTS {
            let port = FIRST_PORT + self.next_port.fetch_add(1, Ordering::Relaxed) % PORTS;
            let local = SocketAddr::new(ours, port);
            if !self.tap.is_used(&(local, peer)) {
                return Ok(local);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("all local ports are in use for {peer}"),
        ))
    }

    /// Listens in both stacks.
    async fn bind(&self, local: SocketAddr) -> io::Result<[TcpListener; 2]> {
        let bind = async |distance| {
            timeout(COMMAND, self.channel(distance).tcp_listen(local))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
                .map_err(stack_error)
        };
        Ok([bind(Distance::Near).await?, bind(Distance::Far).await?])
    }
}

/// Returns the port at which the search for a free one begins. After a restart, peers may still have connections with
/// the earlier ports.
fn random_port() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness, this is the first port.
    let _ = getrandom::fill(&mut bytes);
    FIRST_PORT + u16::from_ne_bytes(bytes) % PORTS
}

/// Removes a connection attempt from the stack when its caller gives up.
struct AbortOnDrop<'a> {
    tap: &'a Tap,
    flow: Option<Flow>,
}

impl AbortOnDrop<'_> {
    fn keep(mut self) {
        self.flow = None;
    }
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(flow) = &self.flow {
            self.tap.abort(flow);
        }
    }
}

fn dial_error(peer: SocketAddr, error: netcore::Error) -> io::Error {
    match error {
        netcore::Error::ConnectionReset => io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("{peer} refused the connection, or did not answer"),
        ),
        other => stack_error(other),
    }
}

fn stack_error(error: netcore::Error) -> io::Error {
    match error {
        netcore::Error::Internal(InternalErrorKind::InternalChannelClosed) => {
            io::Error::new(io::ErrorKind::NotConnected, "the node has ended")
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;
    use ts_netstack_smoltcp::netsock::TcpStream;

    use super::*;
    use crate::embedded::tap::test_segment::{Segment, TcpControl, TcpSeqNumber};

    /// A running stack with a connection whose peer is the test.
    struct Connected {
        device: Arc<Device>,
        channel: Channel,
        running: JoinHandle<()>,
        ends: (SocketAddr, SocketAddr),
        stream: Option<TcpStream>,
    }

    impl Connected {
        /// Takes the connection, as a caller gets it.
        fn take(&mut self) -> Stream {
            let tap = Arc::new(Tap::new(Arc::clone(&self.device), COMMAND));
            Stream::new(self.stream.take().unwrap(), tap)
        }

        async fn new() -> Self {
            let device = Arc::new(Device::default());
            let config = netcore::Config {
                tcp_buffer_size: Distance::Near.buffer(),
                ..netcore::Config::default()
            };
            let stack = Runner::new(StackEnd::new(Arc::clone(&device), Distance::Near), config);
            let channel = stack.channel();
            let mut this = Self {
                device,
                channel: channel.clone(),
                running: tokio::spawn(stack.run()),
                ends: (
                    "100.64.0.1:50000".parse().unwrap(),
                    "100.64.0.2:9632".parse().unwrap(),
                ),
                stream: None,
            };
            let (ours, theirs) = this.ends;
            channel.set_ips([ours.ip()]).await.unwrap();
            let connect = channel.tcp_connect(ours, theirs);
            let accept = async {
                this.answer(this.next().await, TcpControl::Syn, 1000);
                this.next().await
            };
            let (stream, _) = tokio::join!(connect, accept);
            this.stream = Some(stream.unwrap());
            this
        }

        fn answer(&self, to: TcpSeqNumber, control: TcpControl, sequence: i32) {
            let (ours, theirs) = self.ends;
            let sequence = TcpSeqNumber(sequence);
            let answer = Segment::new(theirs, ours, control, sequence, Some(to), &[]);
            self.device.put(Distance::Near, answer.packet().unwrap());
        }

        /// Returns the sequence number after the next segment of the stack.
        async fn next(&self) -> TcpSeqNumber {
            let (_, packets) = self.device.take().await;
            Segment::parse(packets.last().unwrap().1.as_ref()).unwrap().end()
        }
    }

    /// The library removes a connection before it checks for a reader, unless our device prevents that.
    #[tokio::test]
    async fn a_reset_of_a_connection_whose_reader_was_dropped_does_no_harm() {
        let mut connected = Connected::new().await;
        let mut stream = connected.stream.take().unwrap();
        let mut byte = [0; 1];
        let waiting = timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
        assert!(waiting.is_err(), "nothing was sent");
        drop(stream);
        connected.answer(connected.next().await, TcpControl::Rst, 1001);

        // Only a running stack answers these.
        let ours = connected.ends.0;
        for _ in 0..3 {
            tokio::select! {
                ended = &mut connected.running => panic!("the stack has ended: {ended:?}"),
                done = connected.channel.set_ips([ours.ip()]) => done.unwrap(),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The library copies all bytes it is given on each call, even those that do not fit.
    #[tokio::test]
    async fn the_stack_copies_no_more_of_a_large_body_than_it_may_take() {
        let mut connected = Connected::new().await;
        let mut stream = connected.take();
        let body = vec![0; 8 << 20];
        assert_eq!(stream.write(&body).await.unwrap(), stream::AT_ONCE);
    }

    #[tokio::test]
    async fn parts_of_a_message_are_one_write_and_a_large_one_is_not_gathered() {
        let mut connected = Connected::new().await;
        let mut stream = connected.take();
        assert!(stream.is_write_vectored());
        let parts = [&b"head"[..], b"", b"body"].map(IoSlice::new);
        assert_eq!(stream.write_vectored(&parts).await.unwrap(), 8);
        let (_, packets) = connected.device.take().await;
        assert!(packets.last().unwrap().1.ends_with(b"headbody"));
        let (head, body) = (vec![0; 100], vec![0; 8 << 20]);
        for (first, second) in [(&head, &body), (&body, &head)] {
            let parts = [first, second].map(|part| IoSlice::new(part));
            assert_eq!(stream.write_vectored(&parts).await.unwrap(), stream::AT_ONCE);
        }
    }
}
