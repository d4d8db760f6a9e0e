//! The kinds of tailnet nodes for naras.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nara_tailnet::embedded::{EmbeddedNode, EmbeddedSettings};
use nara_tailnet::managed::{ManagedConfig, ManagedNode};
use nara_tailnet::{AuthKey, MeshNode};

use crate::network::Network;
use crate::settings::Settings;
use crate::tsnet::Tsnet;

/// The tailnet node of a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A node in the lab's process.
    Embedded,
    /// A `tailscaled` started by the lab.
    Managed,
    /// A Go program with a tsnet node.
    Tsnet,
    /// The `tailscaled` of a machine, with a network device: the lab has one, see `scenario::machine`.
    Tailscaled,
}

impl Kind {
    /// The kinds of which a machine can run any number.
    pub(crate) const ALL: [Self; 3] = [Self::Embedded, Self::Managed, Self::Tsnet];

    /// Starts a node of this kind. It may not be ready yet.
    pub(crate) async fn start(self, network: &Network, name: &str) -> Result<Arc<dyn MeshNode>, String> {
        self.start_with(network, Settings::new(network, name)).await
    }

    /// Starts a node with custom settings.
    pub(crate) async fn start_with(
        self,
        network: &Network,
        settings: Settings,
    ) -> Result<Arc<dyn MeshNode>, String> {
        let folder = network.folder_of(&settings.name);
        self.start_in(&network.programs, folder, settings).await
    }

    /// Starts a node independently of a [`Network`], with its state in this folder.
    pub(crate) async fn start_in(
        self,
        programs: &Path,
        folder: PathBuf,
        settings: Settings,
    ) -> Result<Arc<dyn MeshNode>, String> {
        match self {
            Self::Embedded => Ok(Arc::new(embedded(settings)?)),
            Self::Managed => managed(programs, folder, settings),
            Self::Tsnet => Ok(Arc::new(Tsnet::start(programs, &folder, &settings).await?)),
            Self::Tailscaled => Err(format!("a {self} node cannot be started here")),
        }
    }

    /// Parses the name of a kind.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.to_string() == name)
            .ok_or_else(|| format!("unknown kind {name}"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embedded => "embedded",
            Self::Managed => "managed",
            Self::Tsnet => "tsnet",
            Self::Tailscaled => "tailscaled",
        })
    }
}

/// Starts an embedded node.
pub(crate) fn embedded(wanted: Settings) -> Result<EmbeddedNode, String> {
    let url = wanted
        .control_url
        .parse()
        .map_err(|error| format!("{}: {error}", wanted.control_url))?;
    let mut settings = EmbeddedSettings::new(wanted.name, url);
    settings.auth_key = Some(AuthKey::new(&wanted.auth_key, "the lab").map_err(|error| error.to_string())?);
    settings.key_file = wanted.key_file;
    settings.ephemeral = wanted.ephemeral;
    settings.direct = wanted.direct;
    settings.danger_allow_plain_control();
    EmbeddedNode::start(settings).map_err(|error| error.to_string())
}

/// Starts a `tailscaled`.
fn managed(programs: &Path, folder: PathBuf, settings: Settings) -> Result<Arc<dyn MeshNode>, String> {
    let mut config = ManagedConfig::new(folder, settings.name);
    config.program = programs.join("tailscaled");
    config.control_url = Some(settings.control_url);
    config.auth_key = Some(AuthKey::new(&settings.auth_key, "the lab").map_err(|error| error.to_string())?);
    config.ephemeral = settings.ephemeral;
    let node = ManagedNode::start(config).map_err(|error| error.to_string())?;
    Ok(Arc::new(node))
}
