//! The configuration file: a layer of arguments below the environment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::{ContextKind, ContextValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli::limits;
use crate::failure::{Failure, Outcome};

/// How the text of a value is interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// A path, relative to the folder of the file.
    Path,
    /// A table: each key and value become one argument value, `KEY=VALUE`.
    Pairs,
}

/// The keys, and the arguments that they set.
const KEYS: [(&str, &str, Kind); 37] = [
    ("name", "name", Kind::Text),
    ("soul_file", "soul_file", Kind::Path),
    ("soul_group_readable", "soul_group_readable", Kind::Text),
    ("data_dir", "data_dir", Kind::Path),
    ("peers", "peers_file", Kind::Path),
    ("timeout", "timeout", Kind::Text),
    ("tls", "tls", Kind::Text),
    ("trust", "trust", Kind::Text),
    ("color", "color", Kind::Text),
    ("log", "log", Kind::Text),
    ("log_format", "log_format", Kind::Text),
    ("listen", "listen", Kind::Text),
    ("grace", "grace", Kind::Text),
    ("metrics", "metrics", Kind::Text),
    ("metrics_public", "metrics_public", Kind::Text),
    ("no_api", "no_api", Kind::Text),
    ("api_group", "api_group", Kind::Text),
    ("api_listen", "api_listen", Kind::Text),
    ("gossip_degree", "gossip_degree", Kind::Text),
    ("no_gossip", "no_gossip", Kind::Text),
    ("no_catch_up", "no_catch_up", Kind::Text),
    ("handshake_proof", "handshake_proof", Kind::Text),
    ("v1_port", "v1_port", Kind::Text),
    ("expose", "expose", Kind::Pairs),
    ("network.kind", "network", Kind::Text),
    ("network.socket", "socket", Kind::Path),
    ("network.control_url", "control_url", Kind::Text),
    ("network.auth_key_file", "auth_key_file", Kind::Path),
    ("network.host_name", "host_name", Kind::Text),
    ("network.skip", "skip", Kind::Text),
    ("network.ephemeral", "ephemeral", Kind::Text),
    ("network.udp_port", "udp_port", Kind::Text),
    ("network.relay_only", "relay_only", Kind::Text),
    ("network.no_port_mapping", "no_port_mapping", Kind::Text),
    ("network.tailscaled", "tailscaled", Kind::Text),
    ("network.wait", "wait", Kind::Text),
    ("network.port", "port", Kind::Text),
];

/// A parsed configuration file.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// By argument id.
    values: BTreeMap<&'static str, Value>,
}

#[derive(Clone, Debug)]
struct Value {
    key: &'static str,
    line: usize,
    texts: Vec<String>,
}

/// The size limit of a configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file within limits: a special file may be endless.
fn read_text(path: &Path) -> io::Result<String> {
    let kind = fs::metadata(path)?;
    if !kind.is_file() && !kind.is_dir() && !path.starts_with("/dev/fd") {
        return Err(io::Error::other("it is a pipe or a device, not a file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    if text.len() as u64 == MAX_BYTES {
        return Err(io::Error::other(format!("it has {MAX_BYTES} bytes or more")));
    }
    Ok(text)
}

impl ConfigFile {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let text = read_text(path).map_err(|error| {
            let path = path.display();
            Failure::usage(format!("the configuration file {path} cannot be read")).caused_by(error)
        })?;
        let mut file = Self {
            path: path.to_owned(),
            values: BTreeMap::new(),
        };
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            file.wrong(line, error.message())
        })?;
        file.take(table.get_ref(), "", &text)?;
        Ok(file)
    }

    /// Returns the path of the file, if any.
    pub(crate) fn path(&self) -> Option<&Path> {
        (!self.path.as_os_str().is_empty()).then_some(&*self.path)
    }

    fn take(&mut self, table: &DeTable<'_>, prefix: &str, text: &str) -> Outcome<()> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let line = line_of(text, name.span().start);
            if let Some((key, id, kind)) = all_keys().find(|(known, ..)| *known == key) {
                let texts = self.texts(value, key, kind, line)?;
                self.values.insert(id, Value { key, line, texts });
                continue;
            }
            match value.get_ref() {
                DeValue::Table(below)
                    if all_keys().any(|(known, ..)| known.starts_with(&format!("{key}."))) =>
                {
                    self.take(below, &format!("{key}."), text)?;
                }
                _ if all_keys().any(|(known, ..)| known.starts_with(&format!("{key}."))) => {
                    return Err(self.wrong(
                        line,
                        &format!("{key}: expected a table, which begins with `[{key}]`"),
                    ));
                }
                _ => {
                    let failure = self.wrong(line, &format!("unknown key `{key}`"));
                    return Err(match similar(&key) {
                        Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                        None => {
                            let known: Vec<&str> = all_keys().map(|(known, ..)| known).collect();
                            failure.hint(format!("the keys are {}", known.join(", ")))
                        }
                    });
                }
            }
        }
        Ok(())
    }

    fn texts(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        kind: Kind,
        line: usize,
    ) -> Outcome<Vec<String>> {
        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) if kind == Kind::Path => Ok(self.near(text)),
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            DeValue::Boolean(flag) => Ok(flag.to_string()),
            _ => Err(self.wrong(
                line,
                &format!("{key}: expected a string, a number, true or false"),
            )),
        };
        match value.get_ref() {
            DeValue::Table(pairs) if kind == Kind::Pairs => {
                let pair = |(name, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                    Ok(format!("{}={}", name.get_ref(), text(value.get_ref())?))
                };
                pairs.iter().map(pair).collect()
            }
            _ if kind == Kind::Pairs => Err(self.wrong(line, &format!("{key}: expected a table"))),
            DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect(),
            value => Ok(vec![text(value)?]),
        }
    }

    /// Resolves a path relative to the folder of the file.
    fn near(&self, path: &str) -> String {
        let folder = self.path.parent().filter(|_| !path.starts_with('~'));
        folder.map_or_else(
            || path.to_owned(),
            |folder| folder.join(path).to_string_lossy().into_owned(),
        )
    }

    fn wrong(&self, line: usize, message: &str) -> Failure {
        Failure::usage(format!("{}: line {line}: {message}", self.path.display()))
    }

    /// Adds the values of this file as defaults of the arguments.
    pub(crate) fn layer(&self, command: Command) -> Command {
        let command = command.mut_args(|arg| match self.values.get(arg.get_id().as_str()) {
            Some(value) => arg.default_values(&value.texts),
            None => arg,
        });
        command.mut_subcommands(|command| self.layer(command))
    }

    /// The failure for a value of this file that its argument rejects.
    pub(crate) fn refused(&self, error: &clap::Error) -> Failure {
        let argument = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(argument)) => argument.as_str(),
            _ => "",
        };
        // Such as `--timeout <DURATION>` or `--v1-port[=<BOOL>]`.
        let flag = argument.split([' ', '[', '=']).next().unwrap_or_default();
        let id = flag.trim_start_matches("--").replace('-', "_");
        let id = if id == "peers" { "peers_file" } else { &id };
        match self.values.get(id) {
            Some(value) => self.wrong(value.line, &format!("{}: {}", value.key, reason(error))),
            None => Failure::usage(format!("{}: {}", self.path.display(), reason(error))),
        }
    }

    /// Returns the file and line of the value of an argument, if the file has one.
    pub(crate) fn place_of(&self, id: &str) -> Option<String> {
        let value = self.values.get(id)?;
        Some(format!("{}: line {}", self.path.display(), value.line))
    }
}

/// Returns why a value is rejected, without naming the argument.
pub(crate) fn reason(error: &clap::Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("{value:?}"),
        _ => "the value".to_owned(),
    };
    if let Some(source) = std::error::Error::source(error) {
        return format!("{value}: {source}");
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("{value}: expected one of {}", valid.join(", "))
        }
        _ => format!("{value} is not valid"),
    }
}

/// The similarity (Jaro) above which a key is suggested: the same threshold as clap's for arguments.
const SIMILAR: f64 = 0.7;

/// Returns the most similar key, if any is similar enough, also from other tables.
fn similar(key: &str) -> Option<&'static str> {
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let likeness = |known: &'static str| strsim::jaro(key, known).max(strsim::jaro(key, last(known)));
    let known = all_keys().map(|(known, ..)| (likeness(known), known));
    let (likeness, known) = known.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (likeness > SIMILAR).then_some(known)
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

/// Returns the keys of a file with their argument ids.
pub(crate) fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    all_keys().map(|(key, id, _)| (key, id))
}

fn all_keys() -> impl Iterator<Item = (&'static str, &'static str, Kind)> {
    let limits = limits::keys().map(|(key, id)| (key, id, Kind::Text));
    KEYS.into_iter().chain(limits)
}
