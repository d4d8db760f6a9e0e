//! Tests of the end of connections with a running stack: the tap tracks what the stack has.

use tokio::time::timeout;

use super::*;

/// A guard against tests that hang.
const LONG: Duration = Duration::from_secs(20);

fn peer(port: u16) -> SocketAddr {
    SocketAddr::new(theirs().ip(), port)
}

fn flow(port: u16) -> Flow {
    (ours(), peer(port))
}

impl Listening {
    /// Connects from this port of the peer. Returns the number after the handshake, for the next segment.
    async fn connect(&self, port: u16) -> TcpSeqNumber {
        self.put(packet(peer(port), ours(), 0, Syn, 0));
        let (control, number) = self.answer().await;
        assert_eq!(control, Syn);
        self.put(segment(peer(port), ours(), 1, TcpControl::None, Some(number), 0));
        number
    }

    fn reset(&self, port: u16) {
        self.put(acknowledging(peer(port), ours(), 1, TcpControl::Rst, 0));
    }

    /// Passes on what the stack sends, and continues to end connections, until this one is untracked.
    async fn untracked(&self, port: u16) {
        let mut now = Instant::now();
        while self.tap.is_used(&flow(port)) {
            if timeout(Duration::from_millis(20), self.answer()).await.is_err() {
                now += EVERY;
                self.tap.end_due(now);
            }
        }
    }
}

/// The library would lose its socket otherwise, and keep the buffers.
#[tokio::test]
async fn a_connection_that_is_reset_before_it_is_accepted_is_accepted_and_then_ends() {
    let stack = Listening::new().await;
    for port in 1..9 {
        stack.connect(port).await;
        stack.reset(port);
    }
    for _ in 1..9 {
        let accepted = timeout(LONG, stack.listener.accept()).await;
        let stream = accepted.expect("the library has lost a connection").unwrap();
        let port = stream.remote_addr().port();
        assert!(
            stack.tap.is_used(&flow(port)),
            "the connection counts while it exists"
        );
        stack.tap.accepted(&flow(port));
        timeout(LONG, stack.untracked(port)).await.unwrap();
        stream.recv_bytes().await.unwrap_err();
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_within_its_handshake_ends() {
    let stack = Listening::new().await;
    stack.put(packet(peer(1), ours(), 0, Syn, 0));
    stack.answer().await;
    stack.reset(1);
    timeout(LONG, stack.untracked(1)).await.unwrap();
}

/// The stack would discard this reset, and keep the connection without a limit that counts it.
#[tokio::test]
async fn the_stack_drops_a_connection_whatever_the_checksum_of_the_reset() {
    let stack = Listening::new().await;
    let number = stack.connect(1).await;
    let stream = stack.listener.accept().await.unwrap();
    stack.tap.accepted(&flow(1));
    // The stack has not acknowledged this yet, so the tap does not know the number that the stack expects.
    stack.put(segment(peer(1), ours(), 1, TcpControl::None, Some(number), 3));
    assert_eq!(stream.recv_bytes().await.unwrap().len(), 3);
    let mut reset = acknowledging(peer(1), ours(), 1, TcpControl::Rst, 0);
    *reset.last_mut().unwrap() ^= 1;
    stack.put(reset);
    assert!(stack.tap.is_used(&flow(1)), "the stack has the connection");
    timeout(LONG, stack.untracked(1)).await.unwrap();
    let ended = timeout(LONG, stream.recv_bytes()).await;
    ended.expect("the stack has kept the connection").unwrap_err();
}

#[test]
fn a_reset_of_another_connection_ends_nothing() {
    let (tap, device) = tap();
    let now = Instant::now();
    let answer = segment(ours(), theirs(), 70, Syn, Some(TcpSeqNumber(1)), 0);
    tap.outgoing_at(Distance::Near, &answer, now);
    let after_buffer = i32::try_from(Distance::Near.buffer()).unwrap() + 2;
    for number in [0, after_buffer] {
        let mut reset = acknowledging(theirs(), ours(), number, TcpControl::Rst, 0);
        assert!(tap.incoming_at(&mut reset, &Anything, now).is_none());
    }
    assert_eq!(device.clear(Distance::Near), 0);
    let mut reset = acknowledging(theirs(), ours(), 1, TcpControl::Rst, 0);
    assert!(tap.incoming_at(&mut reset, &Anything, now).is_none());
    assert_eq!(device.clear(Distance::Near), 2, "a reset and a probe");
}

/// While a connection opens, the stack resets what it does not expect, and keeps the connection.
#[test]
fn a_reset_of_the_stack_for_a_wrong_segment_does_not_untrack_the_connection() {
    let (tap, _) = tap();
    let now = Instant::now();
    let answer = segment(ours(), theirs(), 70, Syn, Some(TcpSeqNumber(1)), 0);
    tap.outgoing_at(Distance::Near, &answer, now);
    for (number, is_used) in [(5, true), (71, false)] {
        let reset = packet(ours(), theirs(), number, TcpControl::Rst, 0);
        assert_eq!(tap.outgoing_at(Distance::Near, &reset, now), Outgoing::Forward);
        assert_eq!(tap.is_used(&(ours(), theirs())), is_used);
    }
}

#[test]
fn a_reset_that_found_the_queue_full_is_repeated() {
    let (tap, device) = tap();
    tap.outgoing(Distance::Near, packet(ours(), theirs(), 7, Syn, 0));
    while device.put(Distance::Near, BytesMut::new()) {}
    tap.abort(&(ours(), theirs()));
    device.clear(Distance::Near);
    tap.end_due(Instant::now());
    assert_eq!(device.clear(Distance::Near), 2);
    tap.end_due(Instant::now() + UNCONFIRMED + EVERY);
    assert!(!tap.is_used(&(ours(), theirs())), "the stack does not answer");
}

/// The acknowledgement of the handshake may have been dropped.
#[test]
fn a_reset_does_not_wait_for_the_acceptance_of_a_connection_that_is_not_open() {
    let (tap, device) = tap();
    let start = Instant::now();
    let answer = segment(ours(), theirs(), 70, Syn, Some(TcpSeqNumber(1)), 0);
    let incoming = |control, at| {
        let mut packet = segment(theirs(), ours(), 1, control, Some(TcpSeqNumber(71)), 0);
        tap.incoming_at(&mut packet, &Anything, at);
    };
    tap.outgoing_at(Distance::Near, &answer, start);
    incoming(TcpControl::None, start);
    incoming(TcpControl::Rst, start);
    tap.end_due(start + UNCONFIRMED * 2);
    assert_eq!(device.clear(Distance::Near), 0, "no listener has accepted it");
    tap.outgoing_at(Distance::Near, &answer, start + UNCONFIRMED * 2);
    tap.end_due(start + UNCONFIRMED * 2);
    assert_eq!(
        device.clear(Distance::Near),
        2,
        "the stack still waits for the acknowledgement"
    );
}

/// A connection of ours with 100 bytes in flight, whose peer is the test.
struct Sending {
    tap: Tap,
    start: Instant,
}

impl Sending {
    fn new() -> Self {
        let ((tap, _), start) = (tap(), Instant::now());
        tap.outgoing_at(Distance::Near, &packet(ours(), theirs(), -1, Syn, 0), start);
        let this = Self { tap, start };
        this.answers(0, 0, Syn, u16::MAX);
        let data = segment(ours(), theirs(), 0, TcpControl::None, Some(TcpSeqNumber(1)), 100);
        this.tap.outgoing_at(Distance::Near, &data, start);
        this
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn answers(&self, second: u64, acknowledged: i32, control: TcpControl, window: u16) {
        let number = TcpSeqNumber(i32::from(control != Syn));
        let acknowledged = Some(TcpSeqNumber(acknowledged));
        let mut answer = Segment::new(theirs(), ours(), control, number, acknowledged, &[]);
        answer.tcp.window_len = window;
        let mut packet = answer.packet().unwrap();
        self.tap.incoming_at(&mut packet, &DropAllFilter, self.at(second));
    }

    /// Lets the peer answer each second with the window and the acknowledgement number for that second. Returns when the
    /// connection ends.
    fn ends(&self, window: u16, acknowledged: impl Fn(u64) -> i32) -> Option<u64> {
        (1..1000).find(|second| {
            self.answers(*second, acknowledged(*second), TcpControl::None, window);
            !self.tap.end_due(self.at(*second)).is_empty()
        })
    }
}

#[test]
fn answers_that_acknowledge_nothing_do_not_extend_the_user_timeout() {
    assert_eq!(Sending::new().ends(u16::MAX, |_| 0), Some(6));
    assert_eq!(Sending::new().ends(u16::MAX, |_| 100), None);
}

#[test]
fn a_closed_window_keeps_a_connection_only_until_we_have_closed_it() {
    assert_eq!(Sending::new().ends(0, |_| 0), None);
    let sending = Sending::new();
    sending.tap.closed_at(&(ours(), theirs()), sending.start);
    assert_eq!(sending.ends(0, |_| 0), Some(6));
}

#[test]
fn a_peer_that_takes_the_rest_byte_by_byte_does_not_keep_a_connection_that_we_have_closed() {
    let sending = Sending::new();
    sending.tap.closed_at(&(ours(), theirs()), sending.start);
    let slowly = |second: u64| i32::try_from(second / 4).unwrap();
    assert_eq!(sending.ends(u16::MAX, slowly), Some(CLOSING.as_secs() + 1));
}

#[test]
fn a_peer_that_goes_on_after_our_fin_does_not_keep_the_connection() {
    let sending = Sending::new();
    let fin = segment(ours(), theirs(), 100, Fin, Some(TcpSeqNumber(1)), 0);
    sending.tap.outgoing_at(Distance::Near, &fin, sending.start);
    assert_eq!(sending.ends(u16::MAX, |_| 101), Some(HALF_CLOSED.as_secs() + 1));
}
