//! The settings of an embedded node, and the defaults with their reasons.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::keys::KeyFileError;
use crate::AuthKey;

/// The control server of Tailscale itself.
pub const TAILSCALE_CONTROL: &str = "https://controlplane.tailscale.com";

/// The send and the receive buffer of a TCP connection, in bytes: its largest window. It is enough for 7 Mbit/s at 600 ms.
///
/// Memory is used only for what waits in a buffer.
pub const TCP_BUFFER: usize = 512 * 1024;

/// The window with which a TCP connection begins, in bytes.
///
/// A stock relay queues 32 packets per receiver and drops the rest; 32 KiB are 27 packets.
pub const FIRST_WINDOW: usize = 32 * 1024;

/// Packets to one peer that may follow each other at once on a relay: fewer than the 32 that it queues.
pub const RELAY_BURST: u32 = 24;

/// Packets per second to one peer on a relay, after the burst. 12,000 are about 13 MB/s and leave the relay's queue
/// room for eight transfers at once.
pub const RELAY_RATE: u32 = 12_000;

/// A TCP connection whose peer acknowledges nothing for this long is reset.
///
/// The network stack of the node has no such limit of its own and would wait for ever.
pub const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest pause between two attempts to reach the control server. A pause is random between half of it and all of
/// it, so that the nodes of a mesh do not come back at the same moment.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The settings of an embedded node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EmbeddedSettings {
    /// The requested host name. The control server may grant another one.
    pub host_name: String,
    /// The control server: [`TAILSCALE_CONTROL`], or a Headscale.
    pub control_url: Url,
    /// The auth key. Without one, a login with a browser is needed.
    pub auth_key: Option<AuthKey>,
    /// The file that keeps the keys of the node, so that it is the same node after a restart. `None`: a new node each
    /// time.
    pub key_file: Option<PathBuf>,
    /// Whether the control server forgets the node soon after it has left.
    pub ephemeral: bool,
    /// Files with certificates (PEM) of authorities to trust beside those of the system, for the control server and
    /// for relays.
    pub root_certificates: Vec<PathBuf>,
    /// See [`USER_TIMEOUT`].
    pub user_timeout: Duration,
    /// See [`MAX_BACKOFF`].
    pub max_backoff: Duration,
    /// See [`RELAY_RATE`]; 0: no limit.
    pub relay_rate: u32,
    /// Whether packets may go directly to peers over UDP, and not only through relays.
    pub direct: bool,
    /// The UDP port for direct paths; 0 for any. A fixed port can be opened in a firewall.
    pub udp_port: u16,
    /// Whether the router of this machine is asked to map a port to the UDP port (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    plain_control: bool,
}

impl EmbeddedSettings {
    /// Settings with this host name and control server, and the defaults of this module.
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

    /// Accepts a control server on `http://`. For labs only: an attacker on the path can impersonate the control
    /// server and add nodes to the tailnet.
    pub fn danger_allow_plain_control(&mut self) {
        self.plain_control = true;
    }

    /// What is wrong with the control URL, if anything.
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

/// Why an embedded node cannot start. Network failures are not among the reasons: the node starts and waits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// A root certificate cannot be used.
    #[error("the certificates in {} cannot be used: {detail}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The control URL is malformed.
    #[error("{url} is no address of a control server; it begins with https://")]
    ControlUrl {
        /// The URL.
        url: String,
    },
    /// The keys of the node cannot be read or kept.
    #[error("the node keys cannot be read or stored")]
    KeyFile(#[from] KeyFileError),
    /// The control URL is not https.
    #[error("{url} has no TLS, and whoever is on the way could pose as the control server; use https://")]
    PlainControl {
        /// The URL.
        url: String,
    },
    /// The requested UDP port is unavailable.
    #[error("UDP port {port} cannot be used; choose another one, or 0 for any")]
    UdpPort {
        /// The port.
        port: u16,
        /// What the system says.
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
    fn only_http_is_a_control_server() {
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
