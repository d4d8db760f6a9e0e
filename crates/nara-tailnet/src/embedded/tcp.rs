//! TCP connections to the control server and to relays.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// The pause before the next address is tried as well (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The maximum time for which sent data may be unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Connects to the first of these addresses that answers. The caller limits the duration.
pub(super) async fn connect(addresses: impl IntoIterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let stream = first(alternating(addresses), TcpStream::connect).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Orders addresses so that the families alternate: often a whole family does not work.
fn alternating(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let preferred = addresses.peek().map(SocketAddr::is_ipv4);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.partition(|address| Some(address.is_ipv4()) == preferred);
    let ranked = preferred
        .into_iter()
        .enumerate()
        .chain(other.into_iter().enumerate());
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// Returns the first successful attempt. An attempt begins when the one before it fails, or has not succeeded after
/// [`NEXT_ADDRESS`].
async fn first<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        running.extend(waiting.next().map(&attempt));
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = sleep(NEXT_ADDRESS), if waiting.len() > 0 => {}
        }
    }
}

/// Sends small packets without delay, and detects a dead connection within a minute.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // While data is unacknowledged, no keepalives are sent. Other systems give up after their own time.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_families_of_addresses_alternate() {
        let of = |texts: &[&str]| alternating(texts.iter().map(|text| at(text)));
        assert_eq!(
            of(&[
                "[2001:db8::1]:1",
                "[2001:db8::2]:1",
                "[2001:db8::3]:1",
                "192.0.2.1:1"
            ]),
            [
                "[2001:db8::1]:1",
                "192.0.2.1:1",
                "[2001:db8::2]:1",
                "[2001:db8::3]:1"
            ]
            .map(at)
        );
        assert_eq!(
            of(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]),
            ["192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"].map(at)
        );
        assert!(of(&[]).is_empty());
    }

    /// Tries addresses that do not answer (port 1), refuse (2), or answer after a second (3).
    async fn try_all(ports: &[u16]) -> (io::Result<u16>, Duration) {
        let begin = Instant::now();
        let addresses = ports.iter().map(|port| SocketAddr::from(([192, 0, 2, 1], *port)));
        let attempt = async |to: SocketAddr| match to.port() {
            1 => std::future::pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            port => {
                sleep(Duration::from_secs(1)).await;
                Ok(port)
            }
        };
        let connected = timeout(Duration::from_secs(60), first(addresses.collect(), attempt));
        (connected.await.unwrap(), begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_delays_the_next_only_briefly() {
        let second = Duration::from_secs(1);
        for (ports, tried_after) in [
            (&[3, 1][..], 0),
            (&[1, 3], 1),
            (&[1, 1, 2, 1, 3], 3),
            (&[2, 2, 3], 0),
        ] {
            let (connected, took) = try_all(ports).await;
            assert_eq!(connected.unwrap(), 3);
            assert_eq!(took, NEXT_ADDRESS * tried_after + second, "{ports:?}");
        }
        let (refused, took) = try_all(&[2, 2]).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(took, Duration::ZERO);
        assert!(try_all(&[]).await.0.is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_dead_connection_is_detected_within_a_minute() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr()).await.unwrap();
        let socket = SockRef::from(&stream);
        let probes = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        let idle = socket.tcp_keepalive_time().unwrap() + probes;
        let unacknowledged = socket.tcp_user_timeout().unwrap().unwrap();
        let minute = Duration::from_secs(60);
        assert!(
            idle <= minute && unacknowledged <= minute,
            "{idle:?}, {unacknowledged:?}"
        );
    }
}
