//! A whole server: a connection of any bytes, or a signed request of a known peer with any path, query and body.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, first_line, nara, registry};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::{MemoryNetwork, MemoryTransport, Transport as _};
use nara_proto::auth::RequestAuth;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

/// Longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct Target {
    runtime: Runtime,
    clock: ManualClock,
    caller: MemoryTransport,
    alice: LocalNara,
    server: RunningServer,
}

thread_local!(static TARGET: RefCell<Target> = RefCell::new(Target::start()));

impl Target {
    fn start() -> Self {
        // Time moves when nothing else does, so that no timeout costs anything.
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let network = MemoryNetwork::new();
        let clock = ManualClock::new(NOW.to_nanos());
        let address = SocketAddr::from(([100, 64, 0, 1], 9632));
        let alice = nara("alice");
        let builder = MeshServer::builder(nara("bob"), Arc::new(MemoryLedger::new()))
            .registry(registry(&[&alice]))
            .clock(Arc::new(clock.clone()))
            .transport(Arc::new(network.host(address.ip())));
        let server = runtime.block_on(builder.serve(address)).expect("a server");
        let caller = network.host([100, 64, 0, 2].into());
        Self {
            runtime,
            clock,
            caller,
            alice,
            server,
        }
    }

    /// A request that alice signs, as bytes.
    fn signed(&self, line: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let line = std::str::from_utf8(line).ok()?;
        let (method, target) = line.split_once(' ')?;
        let uri: http::Uri = target.parse().ok()?;
        self.clock.advance(Duration::from_millis(1));
        let mut headers = HeaderMap::new();
        RequestAuth::sign(
            self.alice.keypair(),
            self.alice.name(),
            self.clock.now_millis(),
            method,
            uri.path(),
        )
        .write_to(&mut headers);
        let mut bytes = format!(
            "{line} HTTP/1.1\r\nhost: bob\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        )
        .into_bytes();
        for (name, value) in &headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Some(bytes)
    }
}

fuzz_target!(|bytes: &[u8]| {
    TARGET.with_borrow(|target| {
        let request = match bytes.split_first() {
            Some((b'!', raw)) => raw.to_vec(),
            _ => {
                let (line, body) = first_line(bytes);
                match target.signed(line, body) {
                    Some(request) => request,
                    None => return,
                }
            }
        };
        target.runtime.block_on(async {
            let mut stream = target
                .caller
                .dial(target.server.local_addr())
                .await
                .expect("a connection");
            let exchange = async {
                let mut answer = [0; 4096];
                // It may be closed before everything is written.
                let _ = stream.write_all(&request).await;
                while matches!(stream.read(&mut answer).await, Ok(1..)) {}
            };
            // A stream of events does not end by itself.
            let _ = tokio::time::timeout(PATIENCE, exchange).await;
        });
    });
});
