use std::path::PathBuf;

use crate::auth_key::AuthKey;

/// How to run a daemon of our own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ManagedConfig {
    /// The program; by default `tailscaled` on the path.
    pub program: PathBuf,
    /// The folder for the state of the node, of this node alone. It is made if it does not exist, and closed to other
    /// users: who can open the socket in it, can be the node.
    pub folder: PathBuf,
    /// The host name to ask for.
    pub host_name: String,
    /// The control server; `None`: the one of Tailscale.
    pub control_url: Option<String>,
    /// The key to join with, the first time; without it somebody has to log in with a browser.
    pub auth_key: Option<AuthKey>,
    /// Whether the node is forgotten when it ends: its keys are never stored, and each start is a new node.
    pub ephemeral: bool,
}

impl ManagedConfig {
    /// A daemon with its state in this folder, for a node with this host name.
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
