//! A whole server: a connection of arbitrary bytes (`!`), or a signed request of a known peer with an
//! arbitrary path, query and body: by profile v2 (`+`), or else by v1.
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
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_mesh::transport::{MemoryNetwork, MemoryTransport, Transport as _};
use nara_proto::v1::RequestAuth;
use nara_proto::v2::{ContentDigest, Nonce, Recipient, RequestLine, RequestToSign, SignedBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

/// Longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct Target {
    runtime: Runtime,
    clock: ManualClock,
    caller: MemoryTransport,
    /// Signs with v1.
    alice: LocalNara,
    /// Signs with v2.
    bob: LocalNara,
    server: RunningServer,
}

thread_local!(static TARGET: RefCell<Target> = RefCell::new(Target::start()));

impl Target {
    fn start() -> Self {
        // Paused time advances when all tasks are idle, so that timeouts cost nothing.
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let network = MemoryNetwork::new();
        let clock = ManualClock::new(NOW.to_nanos());
        let address = SocketAddr::from(([100, 64, 0, 1], 9632));
        let (alice, bob) = (nara("alice"), nara("bob"));
        let mut limits = ServerLimits::default();
        // These limits use the real clock, and would hide everything else.
        limits.requests_per_address = None;
        limits.requests_per_peer = None;
        limits.checkpoint_requests_per_address = None;
        let builder = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
            .registry(registry(&[&alice, &bob]))
            .limits(limits)
            .clock(Arc::new(clock.clone()))
            .transport(Arc::new(network.host(address.ip())));
        let server = runtime.block_on(builder.serve(address)).expect("a server");
        let caller = network.host([100, 64, 0, 2].into());
        Self {
            runtime,
            clock,
            caller,
            alice,
            bob,
            server,
        }
    }

    /// Returns a signed request, as bytes.
    fn signed(&self, line: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let line = std::str::from_utf8(line).ok()?;
        let (line, is_v2) = match line.strip_prefix('+') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (method, target) = line.split_once(' ')?;
        let uri: http::Uri = target.parse().ok()?;
        self.clock.advance(Duration::from_millis(1));
        let now = self.clock.now_millis();
        let mut headers = HeaderMap::new();
        if is_v2 {
            let request = RequestToSign {
                line: RequestLine {
                    method,
                    path: uri.path(),
                    query: uri.query(),
                },
                to: &Recipient::Name("target".parse().ok()?),
                body: SignedBody::Digest(ContentDigest::of(body)),
                now,
                nonce: Nonce::new(now, [0; 10]),
                channel: None,
            };
            self.bob.signer().sign_request(&request).write_to(&mut headers);
        } else {
            RequestAuth::sign(self.alice.keypair(), self.alice.name(), now, method, uri.path())
                .write_to(&mut headers);
        }
        let mut bytes = format!(
            "{line} HTTP/1.1\r\nhost: target\r\nconnection: close\r\ncontent-length: {}\r\n",
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
                // The server may close before everything is written.
                let _ = stream.write_all(&request).await;
                while matches!(stream.read(&mut answer).await, Ok(1..)) {}
            };
            // An event stream does not end on its own.
            let _ = tokio::time::timeout(PATIENCE, exchange).await;
        });
    });
});
