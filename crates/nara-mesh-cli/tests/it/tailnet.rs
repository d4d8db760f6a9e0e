//! A simulated tailnet with bob on it, as reported by its daemon.

use std::net::SocketAddr;
use std::path::Path;

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../../../nara-tailnet/tests/support/localapi.rs"]
mod localapi;

pub(crate) use localapi::FakeDaemon;
use localapi::FakePeer;

/// Returns an unused port.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A daemon of a tailnet, with its runtime.
pub(crate) struct Tailnet {
    pub(crate) daemon: FakeDaemon,
    runtime: tokio::runtime::Runtime,
}

impl Tailnet {
    /// Starts a daemon on an otherwise empty tailnet, with its socket in a folder.
    pub(crate) fn start(folder: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let daemon = runtime.block_on(async { FakeDaemon::start(folder) });
        Self { daemon, runtime }
    }

    /// Returns the answer of this node's nara to a `/ping` of bob over the tailnet.
    pub(crate) fn ping_from_bob(&self, port: u16) -> serde_json::Value {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let answer = self.runtime.block_on(async {
            let bob = "100.64.0.2".parse().unwrap();
            let mut stream = self
                .daemon
                .forward_from(bob, port, localapi::Announce::AtOnce)
                .await;
            let request = b"GET /ping HTTP/1.1\r\nHost: alice\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap()
    }

    /// Adds bob, whose nara listens elsewhere on this machine.
    pub(crate) fn add_bob(&self, port: u16, really: SocketAddr) {
        self.daemon.change(|state| {
            let mut bob = FakePeer::new("bob-x7q2", "100.64.0.2");
            bob.cur_addr = "10.77.0.1:41641".to_owned();
            state.peers.push(bob);
            state
                .reachable
                .insert(SocketAddr::from(([100, 64, 0, 2], port)), really);
        });
    }
}
