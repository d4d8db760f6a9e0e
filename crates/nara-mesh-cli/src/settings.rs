//! Interprets the global arguments: which nara, which peers, which ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ColorChoice;
use nara_mesh::Nara;
use nara_mesh::identity::LocalNara;
use nara_mesh::nara::NaraBuilder;
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::registry::{PeerRegistry, TrustPolicy};
use nara_mesh::soul_file::{Access, SoulFile};
use nara_mesh::tls::TlsPolicy;
use nara_proto::identity::{KeyId, NaraName, Soul};
use nara_tailnet::managed::ManagedNode;
use nara_tailnet::{AuthKey, AuthKeyError};
use zeroize::Zeroizing;

use crate::arguments::Sources;
use crate::cli::{GlobalArgs, LogFormat, Trust, UpArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::places::{config_folder, credential, existing_default, home_folder, service_folder, variable};

/// The environment variable with a soul.
const SOUL: &str = "NARA_MESH_SOUL";

/// The environment variable with an auth key.
const AUTH_KEY: &str = "NARA_MESH_AUTH_KEY";

/// All settings that are shared by commands. Files that a command may not need are read on demand.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) color: ColorChoice,
    pub(crate) json: bool,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) quiet: bool,
    pub(crate) timeout: Duration,
    pub(crate) tls: TlsPolicy,
    pub(crate) verbose: bool,
    pub(crate) sources: Sources,
    data_dir: Option<PathBuf>,
    name: Option<NaraName>,
    peers: Option<PathBuf>,
    soul: Option<SoulSource>,
    soul_access: Access,
    trust: Trust,
}

/// The source of a soul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SoulSource {
    Environment,
    File(PathBuf),
    /// A systemd credential: its folder is private to the service, whatever its mode is.
    Credential(PathBuf),
}

impl Settings {
    /// Resolves the settings. `quiet_log`: warnings are logged only if requested.
    pub(crate) fn new(global: GlobalArgs, sources: Sources, quiet_log: bool) -> Self {
        let level = match (global.quiet, global.verbose) {
            (true, _) => "error",
            (_, 0) if quiet_log => "error",
            (_, 0) => "warn",
            (_, 1) => "warn,nara_mesh=info,nara_tailnet=info",
            (_, 2) => "info,nara_mesh=debug,nara_tailnet=debug",
            _ => "debug,nara_mesh=trace,nara_tailnet=trace",
        };
        let asked = global.quiet || global.verbose > 0;
        let rust_log = || variable("RUST_LOG").and_then(|log| log.into_string().ok());
        let log = global.log.or_else(rust_log).filter(|_| !asked);
        let on_command_line = sources.is_on_command_line("soul_file");
        let soul = match global.soul_file {
            Some(path) if on_command_line => Some(SoulSource::File(path)),
            _ if variable(SOUL).is_some() => Some(SoulSource::Environment),
            Some(path) if !sources.is_in_file("soul_file") => Some(SoulSource::File(path)),
            // The file of a service may name a file that only its manager can read.
            in_file => credential("soul")
                .map(SoulSource::Credential)
                .or_else(|| in_file.map(SoulSource::File))
                .or_else(|| existing_default("soul.toml").map(SoulSource::File)),
        };
        let default_peers = || existing_default("peers.toml").or_else(|| existing_default("peers.d"));
        Self {
            color: global.color,
            json: global.json,
            log: log.unwrap_or_else(|| level.to_owned()),
            log_format: global.log_format,
            quiet: global.quiet,
            timeout: global.timeout,
            tls: global.tls,
            verbose: global.verbose > 0,
            sources,
            data_dir: global.data_dir.or_else(|| service_folder("STATE_DIRECTORY")),
            name: global.name,
            peers: global.peers_file.or_else(default_peers),
            soul,
            soul_access: if global.soul_group_readable {
                Access::Group
            } else {
                Access::Owner
            },
            trust: global.trust,
        }
    }

    /// Returns the same settings with another data folder.
    pub(crate) fn in_folder(&self, folder: PathBuf) -> Self {
        Self {
            data_dir: Some(folder),
            ..self.clone()
        }
    }

    /// Returns the configured name, if any.
    pub(crate) fn name(&self) -> Option<&NaraName> {
        self.name.as_ref()
    }

    /// Returns whether a soul is configured.
    pub(crate) fn has_soul(&self) -> bool {
        self.soul.is_some()
    }

    /// Returns the configured data folder, if any.
    pub(crate) fn given_data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// Returns whether a soul or a data folder selects the nara.
    pub(crate) fn has_identity(&self) -> bool {
        self.has_soul() || self.data_dir.is_some()
    }

    /// Returns whether the soul is the one in the default place.
    pub(crate) fn is_default_soul(&self) -> bool {
        matches!(self.soul, Some(SoulSource::File(_))) && self.sources.path("soul_file").is_none()
    }

    /// Returns the source of the soul; `None` if there is none.
    pub(crate) fn soul_source(&self) -> Option<&SoulSource> {
        self.soul.as_ref()
    }

    /// Returns the nara of this process: its soul and its name.
    pub(crate) fn local_nara(&self) -> Outcome<LocalNara> {
        Ok(self.soul_and_nara()?.1)
    }

    /// Returns the soul, and the nara that it belongs to.
    pub(crate) fn soul_and_nara(&self) -> Outcome<(Soul, LocalNara)> {
        let Some(source) = &self.soul else {
            return Err(Failure::usage("this command needs a soul").hint(
                "create one with `nara-mesh id new --name NAME --out FILE` and pass --soul-file FILE (or set \
                 NARA_MESH_SOUL_FILE)",
            ));
        };
        let of_file = |path: &Path| format!("the soul file {}", path.display());
        let (file, origin) = match source {
            SoulSource::Environment => {
                let origin = format!("the environment variable {SOUL}");
                let text = std::env::var(SOUL).map(Zeroizing::new).unwrap_or_default();
                (SoulFile::parse(&text, &origin)?, origin)
            }
            SoulSource::File(path) => (SoulFile::read(path, self.soul_access)?, of_file(path)),
            SoulSource::Credential(path) => (SoulFile::read(path, Access::Group)?, of_file(path)),
        };
        let name = self.name.clone().or(file.name).ok_or_else(|| {
            Failure::usage(format!("{origin} has no name for the soul")).hint("pass --name NAME")
        })?;
        let nara = LocalNara::new(&file.soul, name).map_err(|error| {
            Failure::new(Exit::Usage, format!("{origin}: {error}")).hint(
                "a nara cannot be renamed, because its soul is bound to its name; check --name and the soul file, or create a \
                 new nara with `nara-mesh id new --name NAME --out FILE`",
            )
        })?;
        Ok((file.soul, nara))
    }

    /// Returns who may read a soul file.
    pub(crate) fn soul_access(&self) -> Access {
        self.soul_access
    }

    /// Returns the file for a new soul, if configured or with a default.
    pub(crate) fn new_soul_file(&self) -> Option<PathBuf> {
        match &self.soul {
            Some(SoulSource::File(path)) => Some(path.clone()),
            _ => Some(config_folder()?.join("soul.toml")),
        }
    }

    /// Returns the peers of the peers file; empty if there is no file.
    pub(crate) fn peers(&self) -> Outcome<Vec<PeerEntry>> {
        let Some(path) = &self.peers else {
            return Ok(Vec::new());
        };
        Ok(PeerEntry::read(path)?)
    }

    /// Returns the peers of the peers file for a nara, which it may name too.
    ///
    /// # Errors
    /// Another name has the key or the id of this nara.
    pub(crate) fn peers_of<'a>(&self, nara: impl Into<Option<&'a LocalNara>>) -> Outcome<Vec<PeerEntry>> {
        let peers = self.peers()?;
        let Some(nara) = nara.into() else {
            return Ok(peers);
        };
        let is_own = |entry: &&PeerEntry| {
            entry.name != *nara.name()
                && (entry.key == Some(nara.public_key()) || entry.id.as_ref() == Some(nara.id()))
        };
        if let Some(PeerEntry { name, .. }) = peers.iter().find(is_own) {
            let file = self.peers.as_deref().unwrap_or_else(|| Path::new("")).display();
            let message = format!(
                "{file}: {name} has the key or the id of this nara, {}",
                nara.name()
            );
            return Err(Failure::usage(message).hint(format!("correct or remove the stanza of {name}")));
        }
        Ok(peers)
    }

    /// Returns the peers file or folder, if any.
    pub(crate) fn peers_path(&self) -> Option<&Path> {
        self.peers.as_deref()
    }

    /// Creates a builder of a nara with these settings.
    pub(crate) fn builder(&self, nara: LocalNara) -> Outcome<NaraBuilder> {
        let folder = self.data_dir(&nara)?;
        let peers = self.peers_of(&nara)?;
        Ok(Nara::builder(nara)
            .data_dir(folder)
            .know_all(peers.iter().map(PeerEntry::to_info))
            .timeout(self.timeout)
            .tls(self.tls))
    }

    /// Returns the folder for the ledger of a nara.
    pub(crate) fn data_dir(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let key_id = KeyId::from(&nara.public_key()).to_string();
        home_folder("XDG_DATA_HOME", ".local/share")
            .map(|folder| folder.join(key_id))
            .ok_or_else(|| Failure::usage("no data folder is given").hint("pass --data-dir DIR"))
    }

    /// Returns the ledger in the data folder, which also stores peer data; `None` if neither a soul nor a
    /// folder is configured.
    pub(crate) fn ledger_path(&self) -> Outcome<Option<PathBuf>> {
        let folder = match &self.data_dir {
            Some(folder) => folder.clone(),
            None if self.has_soul() => self.data_dir(&self.local_nara()?)?,
            None => return Ok(None),
        };
        Ok(Some(folder.join("ledger.db")))
    }

    /// Creates an empty registry with the configured trust policy.
    pub(crate) fn registry(&self) -> PeerRegistry {
        let policy = match self.trust {
            Trust::FirstUse => TrustPolicy::FirstUse,
            Trust::Pinned => TrustPolicy::Pinned,
            Trust::Closed => TrustPolicy::Closed,
        };
        PeerRegistry::default().with_trust(policy)
    }

    /// Returns the data folder of the nara that a command is about.
    pub(crate) fn running_folder(&self) -> Outcome<PathBuf> {
        match &self.data_dir {
            Some(folder) => Ok(folder.clone()),
            None => self.data_dir(&self.local_nara()?),
        }
    }

    /// Returns the folder for the state of a managed tailscaled.
    pub(crate) fn managed_folder(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        Ok(self.data_dir(nara)?.join("tailscaled"))
    }

    /// Returns the socket of a managed tailscaled that `up` runs.
    pub(crate) fn managed_socket(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        Ok(ManagedNode::socket_in(&self.managed_folder(nara)?))
    }

    /// Returns the file with the auth key, if the command has one.
    pub(crate) fn auth_key_file(&self) -> Option<PathBuf> {
        self.sources
            .path("auth_key_file")
            .or_else(|| credential("auth-key"))
    }

    /// Returns the auth key for joining a tailnet, if there is one.
    pub(crate) fn auth_key(&self, args: &UpArgs) -> Outcome<Option<AuthKey>> {
        let failed = |error: AuthKeyError| {
            let failure = Failure::usage(error.to_string());
            let failure = match error {
                AuthKeyError::File { source, .. } => failure.caused_by(source),
                _ => failure,
            };
            failure.hint("the file must contain only the auth key of the control server")
        };
        if !self.sources.is_on_command_line("auth_key_file")
            && let Some(key) = AuthKey::from_env(AUTH_KEY).map_err(failed)?
        {
            return Ok(Some(key));
        }
        let file = args.auth_key_file.clone().or_else(|| credential("auth-key"));
        file.map(|file| AuthKey::from_file(&file).map_err(failed))
            .transpose()
    }
}
