//! Settings: a flag wins over the environment, the environment over the configuration file.

mod network;

pub(crate) use network::SoulSource;

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use nara_mesh::Nara;
use nara_mesh::defaults;
use nara_mesh::identity::LocalNara;
use nara_mesh::nara::NaraBuilder;
use nara_mesh::registry::{Closed, FirstUse, PeerInfo, PeerRegistry, Pinned, TrustPolicy};
use nara_mesh::tls::TlsPolicy;
use nara_proto::identity::{KeyId, NaraName};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::address::parse_address;
use crate::cli::GlobalArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::peers_file::{self, PeerEntry};
use crate::soul_file;

/// The environment variables that the program reads, beside `HOME`, `XDG_CONFIG_HOME`, `XDG_DATA_HOME`,
/// `NO_COLOR` and `RUST_LOG`.
mod env_var {
    pub(super) const AUTH_KEY: &str = "NARA_MESH_AUTH_KEY";
    pub(super) const AUTH_KEY_FILE: &str = "NARA_MESH_AUTH_KEY_FILE";
    pub(super) const COLOR: &str = "NARA_MESH_COLOR";
    pub(super) const CONFIG: &str = "NARA_MESH_CONFIG";
    pub(super) const CONTROL_URL: &str = "NARA_MESH_CONTROL_URL";
    pub(super) const DATA_DIR: &str = "NARA_MESH_DATA_DIR";
    pub(super) const LOG: &str = "NARA_MESH_LOG";
    pub(super) const METRICS: &str = "NARA_MESH_METRICS";
    pub(super) const NAME: &str = "NARA_MESH_NAME";
    pub(super) const NETWORK: &str = "NARA_MESH_NETWORK";
    pub(super) const PEERS: &str = "NARA_MESH_PEERS";
    pub(super) const SOCKET: &str = "NARA_MESH_SOCKET";
    pub(super) const SOUL: &str = "NARA_MESH_SOUL";
    pub(super) const SOUL_FILE: &str = "NARA_MESH_SOUL_FILE";
    pub(super) const TIMEOUT: &str = "NARA_MESH_TIMEOUT";
    pub(super) const TLS: &str = "NARA_MESH_TLS";
    pub(super) const TRUST: &str = "NARA_MESH_TRUST";
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: Option<String>,
    soul_file: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    peers: Option<PathBuf>,
    timeout: Option<String>,
    tls: Option<String>,
    color: Option<String>,
    listen: Option<String>,
    metrics: Option<String>,
    metrics_public: Option<bool>,
    log: Option<String>,
    trust: Option<String>,
    #[serde(default)]
    network: network::NetworkConfig,
}

/// Where a value came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag(&'static str),
    Env(&'static str),
    File(PathBuf, &'static str),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Env(variable) => write!(f, "the environment variable {variable}"),
            Self::File(path, key) => write!(f, "{key} in {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

#[derive(Clone, Debug)]
struct Found<T> {
    value: T,
    origin: Origin,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    /// Only on a terminal, and not if `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// All settings that are not of one command, resolved. What a command may not need is read when it asks.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) color: Color,
    pub(crate) json: bool,
    pub(crate) log: String,
    pub(crate) quiet: bool,
    pub(crate) timeout: Duration,
    pub(crate) tls: TlsPolicy,
    trust: Arc<dyn TrustPolicy>,
    pub(crate) verbose: bool,
    config: Config,
    config_path: PathBuf,
    data_dir: Option<Found<PathBuf>>,
    name: Option<Found<String>>,
    peers: Option<Found<PathBuf>>,
    soul_file: Option<Found<PathBuf>>,
}

impl Settings {
    /// Resolves the settings. `quiet_log`: warnings are logged only if somebody asks for them.
    pub(crate) fn resolve(global: &GlobalArgs, quiet_log: bool) -> Outcome<Self> {
        let (config, config_path) = read_config(global.config.as_deref())?;
        let near = |path: &PathBuf| {
            let folder = config_path.parent().unwrap_or_else(|| Path::new(""));
            folder.join(path)
        };
        let in_file = |key| Origin::File(config_path.clone(), key);
        let pick = |flag: Option<&PathBuf>, name, variable, configured: Option<&PathBuf>, key| {
            first_path(flag, name, variable, configured.map(near), in_file(key))
        };
        let timeout = first(
            global.timeout.as_ref(),
            "--timeout",
            env_var::TIMEOUT,
            config.timeout.as_ref(),
            in_file("timeout"),
        );
        let tls = first(
            global.tls.as_ref(),
            "--tls",
            env_var::TLS,
            config.tls.as_ref(),
            in_file("tls"),
        );
        let color = first(
            global.color.as_ref(),
            "--color",
            env_var::COLOR,
            config.color.as_ref(),
            in_file("color"),
        );
        let trust = first(
            global.trust.as_ref(),
            "--trust",
            env_var::TRUST,
            config.trust.as_ref(),
            in_file("trust"),
        );
        let level = match (global.quiet, global.verbose) {
            (true, _) => "error",
            (_, 0) if quiet_log => "error",
            (_, 0) => "warn",
            (_, 1) => "warn,nara_mesh=info,nara_tailnet=info",
            (_, 2) => "info,nara_mesh=debug,nara_tailnet=debug",
            _ => "debug,nara_mesh=trace,nara_tailnet=trace",
        };
        let asked = global.quiet || global.verbose > 0;
        let log = env(env_var::LOG)
            .or_else(|| env("RUST_LOG"))
            .or_else(|| config.log.clone());
        Ok(Self {
            color: color.map_or(Ok(Color::Auto), |found| parse_color(&found))?,
            json: global.json,
            log: log.filter(|_| !asked).unwrap_or_else(|| level.to_owned()),
            quiet: global.quiet,
            timeout: timeout.map_or(Ok(defaults::CALL_TIMEOUT), |found| parse_timeout(&found))?,
            tls: tls.map_or(Ok(TlsPolicy::default()), |found| parse_tls(&found))?,
            trust: trust.map_or(Ok(Arc::new(FirstUse) as _), |found| parse_trust(&found))?,
            verbose: global.verbose > 0,
            data_dir: pick(
                global.data_dir.as_ref(),
                "--data-dir",
                env_var::DATA_DIR,
                config.data_dir.as_ref(),
                "data_dir",
            ),
            name: first(
                global.name.as_ref(),
                "--name",
                env_var::NAME,
                config.name.as_ref(),
                in_file("name"),
            ),
            peers: pick(
                global.peers_file.as_ref(),
                "--peers",
                env_var::PEERS,
                config.peers.as_ref(),
                "peers",
            )
            .or_else(|| existing_default("peers.toml")),
            soul_file: pick(
                global.soul_file.as_ref(),
                "--soul-file",
                env_var::SOUL_FILE,
                config.soul_file.as_ref(),
                "soul_file",
            )
            .or_else(|| existing_default("soul.toml")),
            config,
            config_path,
        })
    }

    /// The name that was set, if one was.
    pub(crate) fn name(&self) -> Outcome<Option<NaraName>> {
        let Some(found) = &self.name else {
            return Ok(None);
        };
        let bad = |error| Failure::usage(format!("{}: {error}", found.origin));
        found.value.parse().map(Some).map_err(bad)
    }

    /// Whether a soul was given.
    pub(crate) fn has_soul(&self) -> bool {
        self.soul_file.is_some() || env(env_var::SOUL).is_some()
    }

    /// The nara that this process is: its soul and its name.
    pub(crate) fn local_nara(&self) -> Outcome<LocalNara> {
        Ok(self.soul_and_nara()?.1)
    }

    /// The soul, and the nara that it is.
    pub(crate) fn soul_and_nara(&self) -> Outcome<(nara_proto::identity::Soul, LocalNara)> {
        let explicit = self
            .soul_file
            .as_ref()
            .filter(|found| found.origin != Origin::Default);
        let flag = explicit.filter(|found| matches!(found.origin, Origin::Flag(_)));
        let from_env = env(env_var::SOUL).map(Zeroizing::new).filter(|_| flag.is_none());
        let (soul, file_name, origin) = if let Some(text) = from_env {
            let origin = Origin::Env(env_var::SOUL).to_string();
            (soul_file::parse(&text, &origin)?, None, origin)
        } else if let Some(found) = &self.soul_file {
            let file = soul_file::read(&found.value)?;
            (
                file.soul,
                file.name,
                format!("the soul file {}", found.value.display()),
            )
        } else {
            return Err(Failure::usage("this command needs a soul").hint(
                "create one with `nara-mesh id new --name NAME --out FILE` and pass --soul-file FILE (or set \
                 NARA_MESH_SOUL_FILE)",
            ));
        };
        let name = match (self.name()?, file_name) {
            (Some(name), _) => name,
            (None, Some(name)) => name
                .parse()
                .map_err(|error| Failure::usage(format!("name in {origin}: {error}")))?,
            (None, None) => {
                return Err(Failure::usage(format!(
                    "{origin} does not name the nara that the soul is bonded to"
                ))
                .hint("pass --name NAME"));
            }
        };
        let nara = LocalNara::new(&soul, name).map_err(|error| {
            Failure::new(Exit::Usage, format!("{origin}: {error}"))
                .hint("a soul belongs to one name: check --name and the soul file")
        })?;
        Ok((soul, nara))
    }

    /// The file for a new soul, if one is configured or has a default.
    pub(crate) fn new_soul_file(&self) -> Option<PathBuf> {
        let configured = self.soul_file.as_ref().map(|found| found.value.clone());
        configured.or_else(|| Some(config_folder()?.join("soul.toml")))
    }

    /// The peers of the peers file; none if there is no file.
    pub(crate) fn peers(&self) -> Outcome<Vec<PeerEntry>> {
        self.peers
            .as_ref()
            .map_or(Ok(Vec::new()), |found| peers_file::read(&found.value))
    }

    /// The peers of the peers file.
    pub(crate) fn peer_infos(&self) -> Outcome<Vec<PeerInfo>> {
        Ok(self.peers()?.iter().map(PeerEntry::to_info).collect())
    }

    /// Begins a nara with these settings.
    pub(crate) fn builder(&self, nara: LocalNara) -> Outcome<NaraBuilder> {
        let folder = self.data_dir(&nara)?;
        Ok(Nara::builder(nara)
            .data_dir(folder)
            .know_all(self.peer_infos()?)
            .timeout(self.timeout)
            .tls(self.tls))
    }

    /// The folder for the ledger of a nara.
    pub(crate) fn data_dir(&self, nara: &LocalNara) -> Outcome<PathBuf> {
        if let Some(found) = &self.data_dir {
            return Ok(found.value.clone());
        }
        let key_id = KeyId::from(&nara.public_key()).to_string();
        home_folder("XDG_DATA_HOME", ".local/share")
            .map(|folder| folder.join(key_id))
            .ok_or_else(|| Failure::usage("no data folder is given").hint("pass --data-dir DIR"))
    }

    /// The ledger in the data folder, in which it is remembered what was learned of peers; `None`: neither a soul nor
    /// a folder says whose.
    pub(crate) fn ledger_path(&self) -> Outcome<Option<PathBuf>> {
        let folder = match &self.data_dir {
            Some(found) => found.value.clone(),
            None if self.has_soul() => self.data_dir(&self.local_nara()?)?,
            None => return Ok(None),
        };
        Ok(Some(folder.join("ledger.db")))
    }

    /// An empty registry with the trust policy that was set.
    pub(crate) fn registry(&self) -> PeerRegistry {
        PeerRegistry::default().with_trust(self.trust.clone())
    }

    /// The address to serve metrics on, if they are to be served. Another than a loopback address must be allowed with
    /// `public` or in the configuration file.
    pub(crate) fn metrics(&self, flag: Option<&String>, public: bool) -> Outcome<Option<SocketAddr>> {
        let in_file = Origin::File(self.config_path.clone(), "metrics");
        let configured = self.config.metrics.as_ref();
        let Some(Found { value, origin }) = first(flag, "--metrics", env_var::METRICS, configured, in_file)
        else {
            return Ok(None);
        };
        let address: SocketAddr = value
            .parse()
            .map_err(|_| Failure::usage(format!("{origin}: {value:?} is not ip:port")))?;
        let public = public || self.config.metrics_public.unwrap_or(false);
        if !address.ip().to_canonical().is_loopback() && !public {
            return Err(Failure::usage(format!(
                "{origin}: other machines can reach {address}, and metrics have no password"
            ))
            .hint("use a loopback address, or pass --metrics-public to expose them"));
        }
        Ok(Some(address))
    }

    /// The address to listen on.
    pub(crate) fn listen(&self, flag: Option<&String>) -> Outcome<SocketAddr> {
        let found = flag.map(|value| (value, Origin::Flag("--listen"))).or_else(|| {
            let origin = Origin::File(self.config_path.clone(), "listen");
            self.config.listen.as_ref().map(|value| (value, origin))
        });
        let Some((value, origin)) = found else {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, defaults::MESH_PORT)));
        };
        parse_address(value, defaults::MESH_PORT)
            .ok_or_else(|| Failure::usage(format!("{origin}: {value:?} is not ip or ip:port")))
    }
}

fn read_config(flag: Option<&Path>) -> Outcome<(Config, PathBuf)> {
    let asked = flag
        .map(Path::to_path_buf)
        .or_else(|| env(env_var::CONFIG).map(PathBuf::from));
    let Some(path) = asked.or_else(|| existing_default("config.toml").map(|found| found.value)) else {
        return Ok((Config::default(), PathBuf::new()));
    };
    let shown = path.display();
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!("the configuration file {shown} cannot be read")).caused_by(error)
    })?;
    let config = toml::from_str(&text).map_err(|error| {
        let message = peers_file::located(&text, error.span(), error.message());
        Failure::usage(format!("{shown}: {message}"))
    })?;
    Ok((config, path))
}

fn first(
    flag: Option<&String>,
    flag_name: &'static str,
    variable: &'static str,
    configured: Option<&String>,
    in_file: Origin,
) -> Option<Found<String>> {
    let found = |value: String, origin| Found { value, origin };
    flag.map(|value| found(value.clone(), Origin::Flag(flag_name)))
        .or_else(|| env(variable).map(|value| found(value, Origin::Env(variable))))
        .or_else(|| configured.map(|value| found(value.clone(), in_file)))
}

fn first_path(
    flag: Option<&PathBuf>,
    flag_name: &'static str,
    variable: &'static str,
    configured: Option<PathBuf>,
    in_file: Origin,
) -> Option<Found<PathBuf>> {
    let found = |value, origin| Found { value, origin };
    flag.map(|value| found(value.clone(), Origin::Flag(flag_name)))
        .or_else(|| env_path(variable).map(|value| found(value, Origin::Env(variable))))
        .or_else(|| configured.map(|value| found(value, in_file)))
}

fn parse_color(found: &Found<String>) -> Outcome<Color> {
    match found.value.as_str() {
        "auto" => Ok(Color::Auto),
        "always" => Ok(Color::Always),
        "never" => Ok(Color::Never),
        other => Err(Failure::usage(format!(
            "{}: {other:?} is not auto, always or never",
            found.origin
        ))),
    }
}

fn parse_tls(found: &Found<String>) -> Outcome<TlsPolicy> {
    let parsed = found.value.parse();
    parsed.map_err(|error| Failure::usage(format!("{}: {error}", found.origin)))
}

fn parse_trust(found: &Found<String>) -> Outcome<Arc<dyn TrustPolicy>> {
    match found.value.as_str() {
        "first-use" => Ok(Arc::new(FirstUse)),
        "pinned" => Ok(Arc::new(Pinned)),
        "closed" => Ok(Arc::new(Closed)),
        other => Err(Failure::usage(format!(
            "{}: {other:?} is not first-use, pinned or closed",
            found.origin
        ))),
    }
}

fn parse_timeout(found: &Found<String>) -> Outcome<Duration> {
    parse_duration(&found.value)
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| {
            Failure::usage(format!("{}: {:?} is not a duration", found.origin, found.value))
                .hint("give a number and a unit, such as 500ms or 5s")
        })
}

/// Reads a length of time such as `500ms` or `1m 30s`, at most a day.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let duration: SignedDuration = text.parse().ok()?;
    Duration::try_from(duration)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(86_400))
}

/// An environment variable that is set and not empty.
fn env(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn env_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn home_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG base directory specification has relative paths ignored.
    let absolute = |path: &PathBuf| path.is_absolute();
    env_path(variable)
        .filter(absolute)
        .or_else(|| {
            env_path("HOME")
                .filter(absolute)
                .map(|home| home.join(below_home))
        })
        .map(|folder| folder.join("nara-mesh"))
}

fn config_folder() -> Option<PathBuf> {
    home_folder("XDG_CONFIG_HOME", ".config")
}

fn existing_default(file: &str) -> Option<Found<PathBuf>> {
    let value = config_folder()?.join(file);
    value.is_file().then_some(Found {
        value,
        origin: Origin::Default,
    })
}
