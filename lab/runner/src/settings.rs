//! The settings of a node, for every kind of node.

use std::path::PathBuf;

use crate::network::{AUTH_KEY, Network};

/// The settings of a lab node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) control_url: String,
    pub(crate) auth_key: String,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) ephemeral: bool,
    /// Whether direct paths are enabled.
    pub(crate) direct: bool,
}

impl Settings {
    /// Returns the settings of a node for a measurement, which keeps no state.
    pub(crate) fn ephemeral(name: &str, control_url: &str) -> Self {
        Self {
            name: name.to_owned(),
            control_url: control_url.to_owned(),
            auth_key: AUTH_KEY.to_owned(),
            key_file: None,
            ephemeral: true,
            direct: true,
        }
    }

    pub(crate) fn new(network: &Network, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            control_url: network.control_url(),
            auth_key: network.auth_key().to_owned(),
            key_file: Some(network.folder_of(name).join("node.json")),
            ephemeral: false,
            direct: true,
        }
    }
}
