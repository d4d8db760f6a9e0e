//! The settings of an embedded node, and their defaults with the reasons.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::keys::KeyFileError;
use crate::AuthKey;

/// The control server of Tailscale.
pub const TAILSCALE_CONTROL: &str = "https://controlplane.tailscale.com";

/// The size of the send and of the receive buffer of a TCP connection with a near peer, in bytes, which is its maximum window. Sufficient for
/// 100 Mbit/s at 20 ms.
///
/// A larger buffer is slower on a short path: 512 KiB cost a sixth of the throughput between two nodes on one machine.
pub const TCP_BUFFER: usize = 256 * 1024;

/// The size of these buffers if a round trip to the peer takes at least [`FAR`] when the connection opens. Sufficient for
/// 35 Mbit/s at 600 ms.
///
/// At most 64 connections have such buffers, and at most 11 with one node. On a relay, the window stays at [`TCP_BUFFER`].
pub const FAR_TCP_BUFFER: usize = 2560 * 1024;

/// The minimum round trip to a far peer. At this value, [`TCP_BUFFER`] limits the throughput to 21 Mbit/s.
pub const FAR: Duration = Duration::from_millis(100);

/// The initial window of a TCP connection, in bytes.
///
/// A stock relay queues 32 packets per receiver and drops the rest; 32 KiB are 27 packets.
pub const FIRST_WINDOW: usize = 32 * 1024;

/// The maximum burst of packets to one peer through a relay: fewer than the 32 packets that the relay queues.
pub const RELAY_BURST: u32 = 24;

/// The sustained rate to one peer through a relay, in packets per second. 12,000 are about 13 MB/s and leave room in
/// the
/// relay's queue for eight concurrent transfers.
pub const RELAY_RATE: u32 = 12_000;

/// The TCP user timeout: a connection whose peer has acknowledged nothing new of what we have sent for this long is
/// reset. A peer that keeps its window closed may answer probes instead, until the connection is closed at this end.
///
/// The network stack of the node has no such limit and would wait for ever.
pub const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// The maximum pause between two attempts to reach the control server. Each pause is a random value from half of its
/// length to its full length, so that the nodes of a mesh do not reconnect at the same moment.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The settings of an embedded node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EmbeddedSettings {
    /// The requested host name. The control server may grant another one.
    pub host_name: String,
    /// The control server: [`TAILSCALE_CONTROL`], or a Headscale.
    pub control_url: Url,
    /// The auth key. Without one, a login with a browser is required.
    pub auth_key: Option<AuthKey>,
    /// The file with the keys of the node, which make it the same node after a restart. With `None`, each start
    /// creates a new node.
    pub key_file: Option<PathBuf>,
    /// Whether the node is ephemeral: the control server removes it soon after it has left.
    pub ephemeral: bool,
    /// PEM files with additional root certificates, for the control server and for relays. The roots of the system are
    /// trusted as well.
    pub root_certificates: Vec<PathBuf>,
    /// The TCP user timeout; see [`USER_TIMEOUT`].
    pub user_timeout: Duration,
    /// The maximum pause between connection attempts; see [`MAX_BACKOFF`].
    pub max_backoff: Duration,
    /// The packet rate through relays; see [`RELAY_RATE`]. 0 disables the limit.
    pub relay_rate: u32,
    /// Whether packets may be sent directly to peers over UDP, in addition to relays.
    pub direct: bool,
    /// The UDP port for direct paths; 0 for any. A fixed port can be opened in a firewall.
    pub udp_port: u16,
    /// Whether to request a port mapping from the router (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    plain_control: bool,
}

impl EmbeddedSettings {
    /// Creates settings with this host name and control server, and the defaults of this module.
    pub fn new(host_name: impl Into<String>, control_url: Url) -> Self {
        Self {
            host_name: host_name.into(),
            control_url,
            auth_key: None,
            key_file: None,
            ephemeral: false,
            root_certificates: Vec::new(),
            user_timeout: USER_TIMEOUT,
            max_backoff: MAX_BACKOFF,
            relay_rate: RELAY_RATE,
            direct: true,
            udp_port: 0,
            port_mapping: true,
            plain_control: false,
        }
    }

    /// Accepts a control server on `http://`. For labs only: a man in the middle can impersonate the control server
    /// and add nodes to the tailnet.
    pub fn danger_allow_plain_control(&mut self) {
        self.plain_control = true;
    }

    /// Validates the control URL.
    pub(super) fn validate(&self) -> Result<(), EmbeddedError> {
        let plain = match self.control_url.scheme() {
            "https" => false,
            "http" => true,
            _ => {
                return Err(EmbeddedError::ControlUrl {
                    url: self.control_url.to_string(),
                });
            }
        };
        if plain && !self.plain_control {
            return Err(EmbeddedError::PlainControl {
                url: self.control_url.to_string(),
            });
        }
        if self.control_url.host_str().is_none() || self.control_url.cannot_be_a_base() {
            return Err(EmbeddedError::ControlUrl {
                url: self.control_url.to_string(),
            });
        }
        Ok(())
    }
}

/// The error of starting an embedded node. Network failures are not errors: the node starts and retries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// A file of root certificates cannot be used.
    #[error("the certificates in {} cannot be used: {detail}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The reason.
        detail: String,
    },
    /// The control URL is malformed.
    #[error("{url} is not a valid control server URL; expected an https:// URL")]
    ControlUrl {
        /// The URL.
        url: String,
    },
    /// The keys of the node cannot be read or stored.
    #[error("the node keys cannot be read or stored")]
    KeyFile(#[from] KeyFileError),
    /// The control URL is not https.
    #[error("{url} does not use TLS: a man in the middle could impersonate the control server; use https://")]
    PlainControl {
        /// The URL.
        url: String,
    },
    /// The requested UDP port is unavailable.
    #[error("UDP port {port} cannot be used; choose another one, or 0 for any")]
    UdpPort {
        /// The port.
        port: u16,
        /// The error of the system.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_without_tls_needs_the_lab_setting() {
        let mut settings = EmbeddedSettings::new("a", "http://127.0.0.1:1".parse().unwrap());
        assert!(matches!(
            settings.validate(),
            Err(EmbeddedError::PlainControl { .. })
        ));
        settings.danger_allow_plain_control();
        assert!(settings.validate().is_ok());
    }

    #[test]
    fn a_control_url_must_be_http() {
        for url in ["ftp://example.com", "unix:/socket", "data:text/plain,x"] {
            let mut settings = EmbeddedSettings::new("a", url.parse().unwrap());
            settings.danger_allow_plain_control();
            assert!(
                matches!(settings.validate(), Err(EmbeddedError::ControlUrl { .. })),
                "{url}"
            );
        }
        assert!(
            EmbeddedSettings::new("a", TAILSCALE_CONTROL.parse().unwrap())
                .validate()
                .is_ok()
        );
    }
}
