use std::path::PathBuf;

use crate::auth_key::AuthKey;

/// The configuration of a managed daemon.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ManagedConfig {
    /// The program; by default `tailscaled`, looked up in `PATH`.
    pub program: PathBuf,
    /// The folder for the state of the node; not shared with other nodes. It is created if missing, and made private
    /// to this user, because access to the socket in it gives control over the node.
    pub folder: PathBuf,
    /// The host name to request.
    pub host_name: String,
    /// The URL of the control server; `None` for Tailscale's.
    pub control_url: Option<String>,
    /// The key for the first login; without it a user must log in with a browser.
    pub auth_key: Option<AuthKey>,
    /// Whether the node is ephemeral: its keys are never stored, and each start creates a new node.
    pub ephemeral: bool,
}

impl ManagedConfig {
    /// Creates the configuration of a daemon with its state in this folder, for a node with this host name.
    pub fn new(folder: impl Into<PathBuf>, host_name: impl Into<String>) -> Self {
        Self {
            program: PathBuf::from("tailscaled"),
            folder: folder.into(),
            host_name: host_name.into(),
            control_url: None,
            auth_key: None,
            ephemeral: false,
        }
    }
}
