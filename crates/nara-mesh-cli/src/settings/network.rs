//! Settings of networks: which one, and how to join it.

use std::path::PathBuf;

use nara_mesh::identity::LocalNara;
use nara_tailnet::managed::ManagedNode;
use nara_tailnet::{AuthKey, AuthKeyError, tailscaled};
use serde::Deserialize;

use super::{Origin, Settings, env, env_var, first, first_path};
use crate::cli::{NetworkArgs, NetworkKind, UpArgs};
use crate::failure::{Failure, Outcome};

/// The keys of the configuration file that are about networks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkConfig {
    kind: Option<String>,
    socket: Option<PathBuf>,
    control_url: Option<String>,
    auth_key_file: Option<PathBuf>,
    host_name: Option<String>,
    #[serde(default)]
    skip: Vec<String>,
}

impl Settings {
    /// The network that was asked for, if one was.
    pub(crate) fn network(&self, args: &NetworkArgs) -> Outcome<Option<NetworkKind>> {
        if args.network.is_some() {
            return Ok(args.network);
        }
        let configured = self.config.network.kind.as_ref();
        let Some(found) = first(
            None,
            "--network",
            env_var::NETWORK,
            configured,
            self.network_key("kind"),
        ) else {
            return Ok(None);
        };
        let parsed = <NetworkKind as clap::ValueEnum>::from_str(&found.value, false);
        parsed.map(Some).map_err(|_| {
            Failure::usage(format!("{}: {:?} is not a network", found.origin, found.value))
                .hint("the networks are tailscaled, managed, embedded and loopback")
        })
    }

    /// The socket of the machine's tailscaled.
    pub(crate) fn socket(&self, args: &NetworkArgs) -> PathBuf {
        let near = self
            .config
            .network
            .socket
            .as_ref()
            .map(|path| self.near_config(path));
        first_path(
            args.socket.as_ref(),
            "--socket",
            env_var::SOCKET,
            near,
            self.network_key("socket"),
        )
        .map_or_else(|| PathBuf::from(tailscaled::DEFAULT_SOCKET), |found| found.value)
    }

    /// The folder for the state of a tailscaled of our own.
    pub(crate) fn managed_folder(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        Ok(self.data_dir(nara)?.join("tailscaled"))
    }

    /// The socket of a tailscaled of our own that `up` runs.
    pub(crate) fn managed_socket(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        Ok(ManagedNode::socket_in(&self.managed_folder(nara)?))
    }

    /// The control server, if one was named.
    pub(crate) fn control_url(&self, args: &UpArgs) -> Option<String> {
        first(
            args.control_url.as_ref(),
            "--control-url",
            env_var::CONTROL_URL,
            self.config.network.control_url.as_ref(),
            self.network_key("control_url"),
        )
        .map(|found| found.value)
    }

    /// The host name to ask for, if one was named.
    pub(crate) fn host_name(&self, args: &UpArgs) -> Option<String> {
        args.host_name
            .clone()
            .or_else(|| self.config.network.host_name.clone())
    }

    /// Beginnings of host names that belong to tools.
    pub(crate) fn tool_prefixes(&self, more: &[String]) -> Vec<String> {
        [&self.config.network.skip, more].concat()
    }

    /// The key to join a tailnet with, if there is one.
    pub(crate) fn auth_key(&self, args: &UpArgs) -> Outcome<Option<AuthKey>> {
        let failed = |error: AuthKeyError| {
            let failure = Failure::usage(error.to_string());
            let failure = match error {
                AuthKeyError::File { source, .. } => failure.caused_by(source),
                _ => failure,
            };
            failure.hint("the file must contain the auth key of the control server, and nothing else")
        };
        if args.auth_key_file.is_none()
            && let Some(key) = AuthKey::from_env(env_var::AUTH_KEY).map_err(failed)?
        {
            return Ok(Some(key));
        }
        let near = self
            .config
            .network
            .auth_key_file
            .as_ref()
            .map(|path| self.near_config(path));
        first_path(
            args.auth_key_file.as_ref(),
            "--auth-key-file",
            env_var::AUTH_KEY_FILE,
            near,
            self.network_key("auth_key_file"),
        )
        .map(|found| AuthKey::from_file(&found.value).map_err(failed))
        .transpose()
    }

    /// Where the soul comes from, for people; `None`: from nowhere.
    pub(crate) fn soul_source(&self) -> Option<SoulSource> {
        let flag = self
            .soul_file
            .as_ref()
            .filter(|found| matches!(found.origin, Origin::Flag(_)));
        if flag.is_none() && env(env_var::SOUL).is_some() {
            return Some(SoulSource::Environment);
        }
        self.soul_file
            .as_ref()
            .map(|found| SoulSource::File(found.value.clone()))
    }

    /// The peers file, if there is one.
    pub(crate) fn peers_path(&self) -> Option<PathBuf> {
        self.peers.as_ref().map(|found| found.value.clone())
    }

    fn near_config(&self, path: &std::path::Path) -> PathBuf {
        self.config_path
            .parent()
            .map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    fn network_key(&self, key: &'static str) -> Origin {
        Origin::File(self.config_path.clone(), key)
    }
}

/// Where a soul comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SoulSource {
    Environment,
    File(PathBuf),
}
