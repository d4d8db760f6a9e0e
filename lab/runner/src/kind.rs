//! The kinds of node that naras live on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nara_tailnet::embedded::{EmbeddedNode, EmbeddedSettings};
use nara_tailnet::managed::{ManagedConfig, ManagedNode};
use nara_tailnet::{AuthKey, MeshNode};

use crate::network::{AUTH_KEY, Network};
use crate::tsnet::Tsnet;

/// How a nara is on the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A node in our own process.
    Embedded,
    /// A `tailscaled` of our own.
    Managed,
    /// A Go program with a node of the tsnet library.
    Tsnet,
    /// The `tailscaled` of a machine, with a network device: there is one in the lab, see `scenario::machine`.
    Tailscaled,
}

impl Kind {
    /// Those of which a machine can have any number.
    pub(crate) const ALL: [Self; 3] = [Self::Embedded, Self::Managed, Self::Tsnet];

    /// Starts a node of this kind. It may not be ready yet.
    pub(crate) async fn start(self, network: &Network, name: &str) -> Result<Arc<dyn MeshNode>, String> {
        self.start_with(network, Settings::new(network, name)).await
    }

    /// The same with settings of its own.
    pub(crate) async fn start_with(
        self,
        network: &Network,
        settings: Settings,
    ) -> Result<Arc<dyn MeshNode>, String> {
        let folder = network.folder_of(&settings.name);
        self.start_in(&network.programs, folder, settings).await
    }

    /// The same where nothing is known of the network; the node keeps its things in the folder.
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
            Self::Tailscaled => Err(format!("a {self} node is not started like this")),
        }
    }

    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.to_string() == name)
            .ok_or_else(|| format!("there is no kind {name}"))
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

/// What a node of the lab is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) control_url: String,
    pub(crate) auth_key: String,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) ephemeral: bool,
    /// Whether packets may leave the relay.
    pub(crate) direct: bool,
}

impl Settings {
    /// Those of a node that is measured: nothing of it is kept.
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

/// Starts a `tailscaled` of our own.
fn managed(programs: &Path, folder: PathBuf, settings: Settings) -> Result<Arc<dyn MeshNode>, String> {
    let mut config = ManagedConfig::new(folder, settings.name);
    config.program = programs.join("tailscaled");
    config.control_url = Some(settings.control_url);
    config.auth_key = Some(AuthKey::new(&settings.auth_key, "the lab").map_err(|error| error.to_string())?);
    config.ephemeral = settings.ephemeral;
    let node = ManagedNode::start(config).map_err(|error| error.to_string())?;
    Ok(Arc::new(node))
}
