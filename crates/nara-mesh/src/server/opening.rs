use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nara_proto::identity::KeyPair;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use super::rates::Rates;
use crate::server::ServerLimits;
use crate::tls::{FIRST_BYTE, SecureChannel, ServerTls, TlsPolicy};
use crate::transport::BoxMeshStream;

/// Bytes that are read to see the first of them: a usual request or ClientHello, so that looking costs no system
/// call. Larger reads pass the buffer by.
const FIRST_READ: usize = 512;

/// What happens to a connection before its first request: it is plain HTTP, or it becomes secure.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    policy: TlsPolicy,
    keypair: KeyPair,
    /// Made for the first connection that needs it.
    tls: Arc<OnceLock<ServerTls>>,
    idle: Duration,
    handshake: Duration,
    handshakes: Option<Arc<Rates<IpAddr>>>,
}

impl Opening {
    pub(super) fn new(policy: TlsPolicy, keypair: KeyPair, limits: &ServerLimits) -> Self {
        Self {
            policy,
            keypair,
            tls: Arc::default(),
            idle: limits.idle,
            handshake: limits.header_read,
            handshakes: limits
                .handshakes_per_address
                .map(|limit| Arc::new(Rates::new(limit))),
        }
    }

    /// Whether requests on plain connections are refused.
    pub(super) fn refuses_plain(&self) -> bool {
        self.policy == TlsPolicy::Require
    }

    /// Waits for the first byte of a connection, which tells TLS from plain HTTP, and for the handshake.
    pub(super) async fn open(
        &self,
        stream: BoxMeshStream,
        peer: IpAddr,
    ) -> io::Result<(BoxMeshStream, Option<SecureChannel>)> {
        let mut stream = BufReader::with_capacity(FIRST_READ, stream);
        let Ok(first) = timeout(self.idle, stream.fill_buf()).await else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "idle from the beginning"));
        };
        if first?.first() != Some(&FIRST_BYTE) {
            return Ok((Box::new(stream), None));
        }
        if self.policy == TlsPolicy::Plain {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is switched off"));
        }
        let too_many = |rates: &Arc<Rates<IpAddr>>| rates.check(&peer.to_canonical()).is_err();
        if self.handshakes.as_ref().is_some_and(too_many) {
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
