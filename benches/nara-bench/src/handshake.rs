//! The cost of TLS for a new connection: with a full handshake, and with a resumed session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use nara_mesh::Signatures;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::PeerProtocol;
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_mesh::tls::{CertificateKind, Security};
use nara_proto::identity::Soul;
use serde_json::{Value, json};

use crate::exchange::{raw_keys, x509};
use crate::mesh::Error;

/// How long a server keeps an idle connection: short, so that each call opens a new one.
const IDLE: Duration = Duration::from_millis(100);

/// Long enough for both ends to have closed the connection.
const PAUSE: Duration = Duration::from_millis(300);

/// Measures the first and the second call of a client to each of this many servers: without TLS, with
/// certificates and with raw public keys.
pub(crate) fn measure(servers: usize) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let peers = Peers::start(servers).await?;
        // The servers create their certificates on first use.
        peers.call_all(raw_keys()).await?;
        let plain = peers.call_all(PeerProtocol::default()).await?[0];
        let [x509_full, x509_resumed] = peers.call_all(x509()).await?;
        let [raw_full, raw_resumed] = peers.call_all(raw_keys()).await?;
        Ok(json!({
            "servers": servers,
            "plain_first_call_us": plain,
            "x509_first_call_us": x509_full,
            "x509_resumed_call_us": x509_resumed,
            "raw_first_call_us": raw_full,
            "raw_resumed_call_us": raw_resumed,
            "x509_handshake_us": x509_full - plain,
            "x509_resumption_us": x509_resumed - plain,
            "handshake_us": raw_full - plain,
            "resumption_us": raw_resumed - plain,
        }))
    })
}

struct Peers {
    alice: LocalNara,
    servers: Vec<(LocalNara, RunningServer)>,
}

impl Peers {
    async fn start(count: usize) -> Result<Self, Error> {
        let mut servers = Vec::with_capacity(count);
        for number in 0..count {
            let nara = nara(&format!("nara-{number:03}"))?;
            let mut limits = ServerLimits::default();
            limits.idle = IDLE;
            let server = MeshServer::builder(nara.clone(), Arc::new(MemoryLedger::new()))
                .limits(limits)
                // Otherwise its pings would announce its capabilities, and the client would use them.
                .signatures(Signatures::V1Only)
                .serve(SocketAddr::from(([127, 0, 0, 1], 0)))
                .await?;
            servers.push((nara, server));
        }
        Ok(Self {
            alice: nara("alice")?,
            servers,
        })
    }

    /// Calls every server twice with a new client. Returns the medians of both rounds, from before dialling
    /// to the end of the answer, in microseconds.
    async fn call_all(&self, protocol: PeerProtocol) -> Result<[f64; 2], Error> {
        let client = MeshClient::builder(self.alice.clone()).build();
        for (nara, server) in &self.servers {
            let peer = client
                .registry()
                .register(nara.as_peer(Some(server.local_addr())))?;
            client.registry().learn_protocol(&peer, protocol);
        }
        let expected = match (protocol.tls, protocol.raw_public_key) {
            (false, _) => Security::Plain,
            (true, false) => Security::Tls(CertificateKind::X509),
            (true, true) => Security::Tls(CertificateKind::RawPublicKey),
        };
        let mut medians = [0.0; 2];
        for median in &mut medians {
            let mut times = Histogram::<u64>::new(3)?;
            // The first server is excluded: one-time initialization happens on its call.
            for (number, (nara, _)) in self.servers.iter().enumerate() {
                let report = client.ping(nara.id()).await?;
                let dial = report.dial.ok_or("a connection was used twice")?;
                if report.security != expected {
                    return Err(format!("{} instead of {expected}", report.security).into());
                }
                if number > 0 {
                    times.record(u64::try_from((dial + report.rtt).as_nanos())?)?;
                }
            }
            *median = times.value_at_quantile(0.5) as f64 / 1e3;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(medians)
    }
}

fn nara(name: &str) -> Result<LocalNara, Error> {
    let mut seed = [0; 32];
    for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    Ok(LocalNara::new(&Soul::bond(seed, name), name.parse()?)?)
}
