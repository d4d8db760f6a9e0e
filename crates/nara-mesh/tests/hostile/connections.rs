//! The lifetime and number of connections. Time is paused here unless the test waits for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use nara_mesh::clock::ManualClock;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits, Shutdown};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, MeshListener, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::support::{NOW, nara, registry, request, signed};

const HOST: [u8; 4] = [100, 64, 0, 1];
const PING: &[u8] = b"GET /ping HTTP/1.1\r\nHost: nara\r\n\r\n";

struct Quiet {
    network: MemoryNetwork,
    server: RunningServer,
}

impl Quiet {
    async fn start(limits: ServerLimits) -> Self {
        let network = MemoryNetwork::new();
        let server = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
            .registry(registry(&[&nara("alice")]))
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .transport(Arc::new(network.host(HOST.into())))
            .limits(limits)
            .serve(SocketAddr::from((HOST, 9632)))
            .await
            .unwrap();
        Self { network, server }
    }

    async fn connect_from(&self, host: u8) -> BoxMeshStream {
        let caller = self.network.host([100, 64, 0, host].into());
        caller.dial(self.server.local_addr()).await.unwrap()
    }

    async fn connect(&self) -> BoxMeshStream {
        self.connect_from(2).await
    }
}

/// Reads one small answer.
async fn answer(stream: &mut BoxMeshStream) -> String {
    let mut buffer = vec![0; 4096];
    let count = stream.read(&mut buffer).await.unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// Returns a signed request without its body.
fn without_body() -> Vec<u8> {
    let headers = signed(&nara("alice"), NOW, "POST", "/dm");
    let mut bytes = request("POST", "/dm", &headers, &[b' '; 10]);
    bytes.truncate(bytes.len() - 10);
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_end_costs_its_connection_after_five_seconds() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    // Idle is fine for a while; then a header begins, and arrives slowly.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let began = Instant::now();
    let mut sent = 0;
    while stream.write_all(b"G").await.is_ok() {
        sent += 1;
        if tokio::time::timeout(Duration::from_secs(1), answer(&mut stream))
            .await
            .is_ok()
        {
            break;
        }
    }
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert!(sent > 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_seventy_five_seconds() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(70)).await;
        stream.write_all(PING).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    let idle = Instant::now();
    assert_eq!(answer(&mut stream).await, "", "closed");
    assert_eq!(idle.elapsed(), Duration::from_secs(75));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_after_ten_seconds() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    stream.write_all(&without_body()).await.unwrap();
    let began = Instant::now();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 408"));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_given_up_after_thirty_seconds() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    stream.write_all(&without_body()).await.unwrap();
    let began = Instant::now();
    let text = loop {
        match tokio::time::timeout(Duration::from_secs(6), answer(&mut stream)).await {
            Ok(text) => break text,
            Err(_) => stream.write_all(b" ").await.unwrap(),
        }
    };
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert_eq!(began.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn one_address_cannot_take_all_connections() {
    let mut limits = ServerLimits::default();
    limits.connections_per_address = 2;
    let quiet = Quiet::start(limits).await;
    let mut first = quiet.connect_from(2).await;
    let _second = quiet.connect_from(2).await;
    let mut third = quiet.connect_from(2).await;
    assert_eq!(answer(&mut third).await, "", "closed at once");
    let mut other = quiet.connect_from(3).await;
    for stream in [&mut first, &mut other] {
        stream.write_all(PING).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
    }
    drop(first);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut fourth = quiet.connect_from(2).await;
    fourth.write_all(PING).await.unwrap();
    assert!(answer(&mut fourth).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_beyond_the_limit_waits() {
    let mut limits = ServerLimits::default();
    limits.connections = 1;
    let quiet = Quiet::start(limits).await;
    let first = quiet.connect_from(2).await;
    let mut second = quiet.connect_from(3).await;
    second.write_all(PING).await.unwrap();
    let too_early = tokio::time::timeout(Duration::from_secs(3), answer(&mut second)).await;
    assert!(too_early.is_err());
    drop(first);
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn shutdown_closes_idle_connections_at_once() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut used = quiet.connect().await;
    used.write_all(PING).await.unwrap();
    assert!(answer(&mut used).await.starts_with("HTTP/1.1 200"));
    let mut fresh = quiet.connect().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert_eq!(
        quiet.server.shutdown(Duration::from_secs(5)).await,
        Shutdown::Graceful
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(answer(&mut used).await, "");
    assert_eq!(answer(&mut fresh).await, "");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_request_end_within_the_deadline() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    stream.write_all(&without_body()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let finish = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        stream.write_all(&[b' '; 10]).await.unwrap();
        answer(&mut stream).await
    };
    let (outcome, text) = tokio::join!(quiet.server.shutdown(Duration::from_secs(5)), finish);
    assert_eq!(outcome, Shutdown::Graceful);
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_off_a_request_at_the_deadline() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    stream.write_all(&without_body()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert_eq!(
        quiet.server.shutdown(Duration::from_secs(5)).await,
        Shutdown::Forced
    );
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(answer(&mut stream).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_server_stops() {
    let quiet = Quiet::start(ServerLimits::default()).await;
    let mut stream = quiet.connect().await;
    let address = quiet.server.local_addr();
    drop(quiet.server);
    assert_eq!(answer(&mut stream).await, "");
    let again = quiet.network.host([100, 64, 0, 3].into());
    assert!(again.dial(address).await.is_err(), "nobody listens any more");
}

/// A listener that fails a few times, and then permanently.
#[derive(Clone, Debug, Default)]
struct Failing(Arc<AtomicUsize>);

impl MeshListener for Failing {
    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from((HOST, 9632))
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        let kind = match self.0.fetch_add(1, Ordering::SeqCst) {
            0..4 => io::ErrorKind::Other,
            _ => io::ErrorKind::NotConnected,
        };
        std::future::ready(Err(kind.into())).boxed()
    }
}

impl Transport for Failing {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        std::future::ready(Err(io::ErrorKind::Unsupported.into())).boxed()
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        std::future::ready(Ok(Box::new(self.clone()) as Box<dyn MeshListener>)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn the_accept_loop_backs_off_and_ends_with_its_listener() {
    let listener = Failing::default();
    let server = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
        .transport(Arc::new(listener.clone()))
        .serve(listener.local_addr())
        .await
        .unwrap();
    let began = Instant::now();
    assert!(!server.is_finished());
    server.finished().await;
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    assert_eq!(listener.0.load(Ordering::SeqCst), 5);
    assert!(server.is_finished());
}
