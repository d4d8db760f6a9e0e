use TcpControl::{Fin, Syn};
use tokio::task::JoinSet;
use ts_netstack_smoltcp::netcore::{self, Channel, HasChannel as _, NetstackControl as _};
use ts_netstack_smoltcp::netsock::TcpListener;
use ts_netstack_smoltcp::{CreateSocket as _, Netstack};

use futures_util::FutureExt as _;

use super::admission::{DOUBLED, PER_PEER};
use super::ending::{CLOSING, HALF_CLOSED, SILENT, UNCONFIRMED};
use super::*;
use crate::embedded::device::StackEnd;

mod ending;

/// A filter that allows everything.
pub(super) struct Anything;

impl Filter for Anything {
    fn match_for(&self, _info: &PacketInfo, _caps: ts_packetfilter::filter::CapIter<'_, '_>) -> Option<&str> {
        Some("anything")
    }
}

impl Tap {
    /// Returns the stack of each connection.
    pub(in crate::embedded) fn distances(&self) -> Vec<Distance> {
        self.flows().values().map(|track| track.distance).collect()
    }
}

fn ours() -> SocketAddr {
    "100.64.0.1:50000".parse().unwrap()
}

fn theirs() -> SocketAddr {
    "100.64.0.2:9632".parse().unwrap()
}

fn tap() -> (Tap, Arc<Device>) {
    let device = Arc::new(Device::default());
    (Tap::new(Arc::clone(&device), Duration::from_secs(5)), device)
}

/// A segment without an acknowledgement.
fn packet(from: SocketAddr, to: SocketAddr, sequence: i32, control: TcpControl, payload: usize) -> BytesMut {
    segment(from, to, sequence, control, None, payload)
}

fn acknowledging(
    from: SocketAddr,
    to: SocketAddr,
    sequence: i32,
    control: TcpControl,
    payload: usize,
) -> BytesMut {
    segment(from, to, sequence, control, Some(TcpSeqNumber(0)), payload)
}

fn segment(
    from: SocketAddr,
    to: SocketAddr,
    sequence: i32,
    control: TcpControl,
    acknowledgement: Option<TcpSeqNumber>,
    payload: usize,
) -> BytesMut {
    let payload = vec![0; payload];
    let sequence = TcpSeqNumber(sequence);
    Segment::new(from, to, control, sequence, acknowledgement, &payload)
        .packet()
        .unwrap()
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let (tap, _) = tap();
    let start = Instant::now();
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), 7, Syn, 0), start);
    assert!(tap.end_due(start + Duration::from_secs(4)).is_empty());
    assert_eq!(tap.end_due(start + Duration::from_secs(6)), [(ours(), theirs())]);
}

#[test]
fn a_sleep_longer_than_the_user_timeout_ends_connections() {
    let (tap, device) = tap();
    tap.outgoing(Distance::Near, packet(ours(), theirs(), 7, Syn, 0));
    tap.slept(Duration::from_secs(4));
    assert_eq!(device.clear(Distance::Near), 0);
    tap.slept(Duration::from_secs(5));
    assert_eq!(
        device.clear(Distance::Near),
        2,
        "the stack receives a reset and a probe"
    );
}

#[test]
fn an_answer_to_all_data_stops_the_user_timeout() {
    let (tap, _) = tap();
    let start = Instant::now();
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), -1, Syn, 0), start);
    let mut answer = acknowledging(theirs(), ours(), 1, Syn, 0);
    tap.incoming_at(&mut answer, &DropAllFilter, start).unwrap();
    assert!(tap.end_due(start + Duration::from_secs(600)).is_empty());
}

#[test]
fn retransmissions_do_not_extend_the_user_timeout() {
    let (tap, _) = tap();
    let start = Instant::now();
    for second in 0..6 {
        tap.outgoing_at(
            Distance::Near,
            &acknowledging(ours(), theirs(), 100, TcpControl::None, 50),
            start + Duration::from_secs(second),
        );
    }
    assert_eq!(tap.end_due(start + Duration::from_millis(5500)).len(), 1);
}

#[tokio::test]
async fn an_aborted_connection_gets_a_reset_that_the_stack_believes() {
    use smoltcp::phy::{Device as _, RxToken as _};
    let (tap, device) = tap();
    let now = Instant::now();
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), 99, Syn, 0), now);
    tap.abort(&(ours(), theirs()));
    let mut end = StackEnd::new(Arc::clone(&device), Distance::Near);
    let (received, _) = end.receive(smoltcp::time::Instant::ZERO).unwrap();
    received.consume(|bytes| {
        let reset = Segment::parse(bytes).unwrap();
        assert_eq!(reset.tcp.control, TcpControl::Rst);
        assert_eq!((reset.source, reset.destination), (theirs(), ours()));
        let after_syn = Some(TcpSeqNumber(100));
        assert_eq!(reset.tcp.ack_number, after_syn, "the SYN takes one number");
    });
    assert!(tap.is_used(&(ours(), theirs())), "the stack has not answered");
    let answer = packet(ours(), theirs(), 100, TcpControl::Rst, 0);
    assert_eq!(tap.outgoing_at(Distance::Near, &answer, now), Outgoing::Drop);
    assert!(!tap.is_used(&(ours(), theirs())));
}

/// Returns how many packets are retransmitted.
fn again(device: &Device) -> usize {
    device.take().now_or_never().map_or(0, |(again, _)| again.len())
}

#[test]
fn unanswered_data_is_retransmitted_at_once_on_a_new_path() {
    let (tap, device) = tap();
    let start = Instant::now();
    let peer = HashSet::from([theirs().ip()]);
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), -1, Syn, 0), start);
    let mut answer = acknowledging(theirs(), ours(), 0, Syn, 0);
    tap.incoming_at(&mut answer, &DropAllFilter, start);
    tap.outgoing_at(
        Distance::Near,
        &acknowledging(ours(), theirs(), 0, TcpControl::None, 100),
        start,
    );
    tap.rerouted(&peer, start);
    assert_eq!(again(&device), 0, "the answer may still arrive");
    tap.resend_due(start + Duration::from_secs(1));
    assert_eq!(again(&device), 1);
    tap.rerouted(&HashSet::new(), start + Duration::from_millis(1001));
    assert_eq!(again(&device), 0);
    tap.rerouted(&peer, start + Duration::from_millis(1001));
    assert_eq!(again(&device), 1);
}

#[test]
fn retransmissions_of_the_stack_are_dropped_but_new_acknowledgements_forwarded() {
    let (tap, _) = tap();
    let now = Instant::now();
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), -1, Syn, 0), now);
    let mut answer = acknowledging(theirs(), ours(), 0, Syn, 0);
    tap.incoming_at(&mut answer, &DropAllFilter, now);
    let data = |acknowledged| {
        let number = Some(TcpSeqNumber(acknowledged));
        segment(ours(), theirs(), 0, TcpControl::None, number, 100)
    };
    assert_eq!(tap.outgoing_at(Distance::Near, &data(1), now), Outgoing::Forward);
    assert_eq!(tap.outgoing_at(Distance::Near, &data(1), now), Outgoing::Drop);
    let Outgoing::Replace(packet) = tap.outgoing_at(Distance::Near, &data(2), now) else {
        panic!("the peer needs the acknowledgement");
    };
    let only = Segment::parse(&packet).unwrap().tcp;
    assert_eq!((only.ack_number, only.payload.len()), (Some(TcpSeqNumber(2)), 0));
    assert_eq!(
        only.seq_number,
        TcpSeqNumber(100),
        "the peer accepts only the next sequence number"
    );
}

/// Lets a node open connections from these addresses until one is refused. Returns their number.
fn open_all(tap: &Tap, node: &[&str], answer: bool) -> usize {
    let now = Instant::now();
    let addresses: Vec<IpAddr> = node.iter().map(|address| address.parse().unwrap()).collect();
    let ends = (1..u16::MAX).zip(addresses.iter().cycle());
    ends.take_while(|(port, address)| {
        let to = match address {
            IpAddr::V4(_) => ours(),
            IpAddr::V6(_) => "[fd7a::1]:50000".parse().unwrap(),
        };
        let from = SocketAddr::new(**address, *port);
        let mut syn = packet(from, to, 0, Syn, 0);
        let is_allowed = tap.incoming_at(&mut syn, &Anything, now).is_some();
        if is_allowed && answer {
            tap.outgoing_at(Distance::Near, &acknowledging(to, from, 0, Syn, 0), now);
        }
        is_allowed
    })
    .count()
}

#[test]
fn a_node_cannot_open_connections_without_end_and_leaves_some_for_others() {
    let (tap, _) = tap();
    let nodes = (2..18).map(|n| [format!("100.64.0.{n}"), format!("fd7a::{n}")]);
    let nodes: Vec<_> = nodes.collect();
    let addresses: Vec<_> = nodes
        .iter()
        .map(|node| node.each_ref().map(|address| address.parse().unwrap()))
        .collect();
    tap.set_nodes(addresses.iter().map(|node: &[IpAddr; 2]| &node[..]));
    let counts = nodes
        .iter()
        .map(|node| open_all(&tap, &node.each_ref().map(String::as_str), true));
    let counts: Vec<_> = counts.collect();
    assert!(
        counts.iter().all(|count| (30..PER_PEER).contains(count)),
        "{counts:?}"
    );
    assert!(tap.has_room_for("100.64.0.99".parse().unwrap()).is_ok());
    let refused = tap.has_room_for(theirs().ip()).unwrap_err().to_string();
    assert!(
        refused.starts_with(&format!("there are {} connections", counts[0])),
        "{refused}"
    );
}

#[test]
fn a_peer_that_requests_tiny_segments_gets_no_connection() {
    let (tap, _) = tap();
    let now = Instant::now();
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), 7, Syn, 0), now);
    let another = SocketAddr::new(theirs().ip(), 1);
    for (from, acknowledgement) in [(another, None), (theirs(), Some(TcpSeqNumber(8)))] {
        for (size, passes) in [(1, false), (535, false), (536, true)] {
            let mut syn = Segment::new(from, ours(), Syn, TcpSeqNumber(0), acknowledgement, &[]);
            syn.tcp.max_seg_size = Some(size);
            let mut packet = syn.packet().unwrap();
            assert_eq!(
                tap.incoming_at(&mut packet, &Anything, now).is_some(),
                passes,
                "{size}"
            );
        }
    }
}

#[test]
fn connections_that_the_stack_has_not_answered_count_too() {
    let (tap, _) = tap();
    assert!(open_all(&tap, &["100.64.0.2"], false) < PER_PEER);
    let later = Instant::now() + Duration::from_secs(2);
    let mut syn = packet(theirs(), ours(), 0, Syn, 0);
    assert!(
        tap.incoming_at(&mut syn, &Anything, later).is_some(),
        "the stack has dropped them"
    );
}

#[test]
fn connections_with_a_far_peer_have_the_stack_with_long_buffers() {
    let (tap, device) = tap();
    let start = Instant::now();
    let opens = |tap: &Tap| tap.incoming_at(&mut packet(theirs(), ours(), 0, Syn, 0), &Anything, start);
    assert_eq!(tap.distance_to(theirs().ip()), Distance::Near, "nothing is known");
    tap.set_far(HashSet::from([theirs().ip()]));
    assert_eq!(opens(&tap), Some(Distance::Far));
    tap.set_far(HashSet::new());
    let later = start + DOUBLED;
    let again = tap.incoming_at(&mut packet(theirs(), ours(), 0, Syn, 0), &Anything, later);
    assert_eq!(again, Some(Distance::Far), "the stack has the first SYN");
    tap.outgoing_at(Distance::Far, &acknowledging(ours(), theirs(), -1, Syn, 0), start);
    let mut answer = acknowledging(theirs(), ours(), 1, TcpControl::None, 0);
    let came = tap.incoming_at(&mut answer, &Anything, start + Duration::from_millis(5));
    assert_eq!(came, Some(Distance::Far));
    tap.set_far(HashSet::from([theirs().ip()]));
    assert_eq!(
        tap.distance_to(theirs().ip()),
        Distance::Near,
        "5 ms were measured"
    );
    tap.accepted(&(ours(), theirs()));
    tap.abort(&(ours(), theirs()));
    assert_eq!(device.clear(Distance::Far), 2, "a reset and a probe");
}

#[test]
fn a_silent_connection_ends() {
    for distance in Distance::ALL {
        let (tap, _) = tap();
        let start = Instant::now();
        tap.outgoing_at(distance, &packet(ours(), theirs(), -1, Syn, 0), start);
        tap.incoming_at(&mut acknowledging(theirs(), ours(), 0, Syn, 0), &Anything, start);
        assert!(tap.end_due(start + SILENT - EVERY).is_empty());
        // The filter would refuse what the peer sends on an untracked connection.
        assert_eq!(tap.end_due(start + SILENT), [(ours(), theirs())]);
    }
}

#[test]
fn a_connection_that_only_we_have_closed_ends() {
    let (tap, _) = tap();
    let start = Instant::now();
    tap.outgoing_at(Distance::Near, &acknowledging(ours(), theirs(), 7, Fin, 0), start);
    let mut answer = segment(theirs(), ours(), 7, TcpControl::None, Some(TcpSeqNumber(8)), 0);
    tap.incoming_at(&mut answer, &DropAllFilter, start);
    assert!(tap.end_due(start + HALF_CLOSED).is_empty());
    assert_eq!(tap.end_due(start + HALF_CLOSED + EVERY).len(), 1);
}

#[test]
fn a_closed_connection_ends_when_the_stack_has_accepted_both_ends() {
    let (tap, _) = tap();
    let start = Instant::now();
    tap.outgoing_at(Distance::Near, &acknowledging(ours(), theirs(), 7, Fin, 0), start);
    tap.incoming_at(
        &mut acknowledging(theirs(), ours(), 7, Fin, 0),
        &DropAllFilter,
        start,
    );
    let closed = Duration::from_secs(3);
    assert!(
        tap.end_due(start + closed).is_empty(),
        "the stack may have refused the FIN"
    );
    let acknowledged = Some(TcpSeqNumber(8));
    let answer = segment(ours(), theirs(), 8, TcpControl::None, acknowledged, 0);
    tap.outgoing_at(Distance::Near, &answer, start + closed);
    assert_eq!(tap.end_due(start + closed * 2).len(), 1);
}

#[test]
fn the_filter_applies_to_connections_but_not_to_answers() {
    let (tap, _) = tap();
    let now = Instant::now();
    let mut opened = packet(theirs(), ours(), 0, Syn, 0);
    assert!(tap.incoming_at(&mut opened, &DropAllFilter, now).is_none());
    assert!(tap.incoming_at(&mut opened, &Anything, now).is_some());
    let mut answer = acknowledging(theirs(), ours(), 0, TcpControl::None, 0);
    assert!(
        tap.incoming_at(&mut answer, &DropAllFilter, now).is_none(),
        "no connection of ours exists"
    );
    tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), 7, Syn, 0), now);
    assert!(tap.incoming_at(&mut answer, &DropAllFilter, now).is_some());
}

#[test]
fn only_tcp_and_pings_pass() {
    let (tap, _) = tap();
    let mut packet = acknowledging(theirs(), ours(), 0, TcpControl::None, 0);
    packet[9] = IpProtocol::Icmp.into();
    assert!(tap.incoming(&mut packet).is_none(), "no filter is set yet");
    tap.set_filter(Arc::new(Anything));
    assert!(tap.incoming(&mut packet).is_some());
    assert!(tap.incoming(&mut []).is_none());
    packet[9] = IpProtocol::Udp.into();
    assert!(tap.incoming(&mut packet).is_none());
}

#[test]
fn a_syn_that_comes_twice_reaches_the_stack_once() {
    let (tap, device) = tap();
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let comes = |sequence, millis| {
        tap.incoming_at(
            &mut packet(theirs(), ours(), sequence, Syn, 0),
            &Anything,
            at(millis),
        )
        .is_some()
    };
    assert!(comes(6, 0));
    assert!(!comes(6, 100), "duplicated by the network, and not answered yet");
    assert!(comes(6, 1000), "the stack may have lost the first one");
    let acknowledged = Some(TcpSeqNumber(7));
    tap.outgoing_at(
        Distance::Near,
        &segment(ours(), theirs(), 70, Syn, acknowledged, 0),
        at(1000),
    );
    assert!(!comes(6, 2000), "the answer was lost");
    assert!(tap.is_used(&(ours(), theirs())));
    assert_eq!(device.clear(Distance::Near), 0);

    assert!(
        !comes(-9, 2000),
        "the peer has restarted, and the stack has the old connection"
    );
    assert_eq!(device.clear(Distance::Near), 2, "a reset and a probe");
    let gone = packet(ours(), theirs(), 71, TcpControl::Rst, 0);
    assert_eq!(tap.outgoing_at(Distance::Near, &gone, at(2000)), Outgoing::Drop);
    assert!(comes(-9, 3000));
}

/// A running stack with a listener, whose peer is the test.
pub(super) struct Listening {
    pub(super) tap: Tap,
    pub(super) device: Arc<Device>,
    pub(super) channel: Channel,
    pub(super) listener: TcpListener,
    _running: JoinSet<()>,
}

impl Listening {
    pub(super) async fn new() -> Self {
        let (tap, device) = tap();
        let end = StackEnd::new(Arc::clone(&device), Distance::Near);
        let mut stack = Netstack::new(end, netcore::Config::default());
        let channel = stack.command_channel();
        let mut running = JoinSet::new();
        running.spawn(async move { stack.run_tokio().await });
        channel.set_ips([ours().ip()]).await.unwrap();
        let listener = channel.tcp_listen(ours()).await.unwrap();
        Self {
            tap,
            device,
            channel,
            listener,
            _running: running,
        }
    }

    pub(super) fn put(&self, mut packet: BytesMut) {
        if let Some(distance) = self.tap.incoming_at(&mut packet, &Anything, Instant::now()) {
            self.device.put(distance, packet);
        }
    }

    /// Returns the control flag of the next segment that passes the tap, and the number after it.
    pub(super) async fn answer(&self) -> (TcpControl, TcpSeqNumber) {
        loop {
            let (_, packets) = self.device.take().await;
            for (distance, packet) in packets {
                if let Some(packet) = self.tap.outgoing(distance, packet) {
                    let answer = Segment::parse(packet.as_ref()).unwrap();
                    return (answer.tcp.control, answer.end());
                }
            }
        }
    }
}

/// The library searches its sockets by index, and reuses the index of a closed connection for the next listening
/// socket.
#[tokio::test]
async fn a_syn_that_comes_twice_does_not_reset_the_connection() {
    let stack = Listening::new().await;
    let first = SocketAddr::new(theirs().ip(), 1);
    stack.put(packet(first, ours(), 0, Syn, 0));
    let (_, number) = stack.answer().await;
    stack.put(segment(first, ours(), 1, TcpControl::None, Some(number), 0));
    drop(stack.listener.accept().await.unwrap());
    let (control, number) = stack.answer().await;
    assert_eq!(control, Fin);
    stack.put(segment(first, ours(), 1, TcpControl::Rst, Some(number), 0));
    // A processed command shows that the stack has removed the connection.
    stack.channel.set_ips([ours().ip()]).await.unwrap();

    stack.put(packet(theirs(), ours(), 0, Syn, 0));
    let (_, number) = stack.answer().await;
    stack.put(packet(theirs(), ours(), 0, Syn, 0));
    stack.put(segment(theirs(), ours(), 1, TcpControl::None, Some(number), 3));
    let (control, _) = stack.answer().await;
    assert_eq!(control, TcpControl::None, "neither a second answer nor a reset");
    let stream = stack.listener.accept().await.unwrap();
    assert_eq!(stream.recv_bytes().await.unwrap(), vec![0; 3]);
}
