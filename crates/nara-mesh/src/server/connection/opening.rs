use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nara_proto::identity::KeyPair;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::server::connection::refusal::{Alert, send_alert};
use crate::server::limits::quota::Quota;
use crate::server::limits::settings::ServerLimits;
use crate::tls::{FIRST_BYTE, SecureChannel, ServerTls, TlsPolicy};
use crate::transport::BoxMeshStream;

/// The number of bytes read to see the first one: a usual request or ClientHello, so that looking costs no extra system
/// call. Larger reads bypass the buffer.
const FIRST_READ: usize = 512;

/// The opening of a connection before its first request: as plain HTTP or TLS.
#[derive(Clone, Debug)]
pub(in crate::server) struct Opening {
    policy: TlsPolicy,
    keypair: KeyPair,
    /// Created for the first TLS connection.
    tls: Arc<OnceLock<ServerTls>>,
    idle: Duration,
    handshake: Duration,
    handshakes: Arc<Quota<IpAddr>>,
}

impl Opening {
    pub(in crate::server) fn new(policy: TlsPolicy, keypair: KeyPair, limits: &ServerLimits) -> Self {
        Self {
            policy,
            keypair,
            tls: Arc::default(),
            idle: limits.idle,
            handshake: limits.header_read,
            handshakes: Arc::new(Quota::new(usize::MAX, usize::MAX).with_rate(limits.handshakes_per_address)),
        }
    }

    /// Returns whether requests on plain connections are refused.
    pub(in crate::server) fn refuses_plain(&self) -> bool {
        self.policy == TlsPolicy::Require
    }

    /// Waits for the first byte of a connection, which distinguishes TLS from plain HTTP, and for the handshake.
    pub(in crate::server) async fn open(
        &self,
        stream: BoxMeshStream,
        peer: IpAddr,
    ) -> io::Result<(BoxMeshStream, Option<SecureChannel>)> {
        let mut stream = BufReader::with_capacity(FIRST_READ, stream);
        let Ok(first) = timeout(self.idle, stream.fill_buf()).await else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no byte received"));
        };
        if first?.first() != Some(&FIRST_BYTE) {
            return Ok((Box::new(stream), None));
        }
        if self.policy == TlsPolicy::Plain {
            let _ = timeout(self.handshake, send_alert(stream, Alert::NoTls)).await;
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is switched off"));
        }
        if self.handshakes.check_rate(&peer.to_canonical()).is_err() {
            let _ = timeout(self.handshake, send_alert(stream, Alert::Busy)).await;
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "too many handshakes",
            ));
        }
        let tls = self.tls.get_or_init(|| ServerTls::new(&self.keypair));
        match timeout(self.handshake, tls.accept(stream)).await {
            Ok(accepted) => {
                let (stream, channel) = accepted?;
                Ok((Box::new(stream), Some(channel)))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the handshake took too long",
            )),
        }
    }
}
