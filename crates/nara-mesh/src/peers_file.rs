//! Peers files: names, addresses and keys of naras.
//!
//! ```text
//! [[peer]]
//! name = "alice"
//! address = "100.64.0.7"   # ip, ip:port, host or host:port; optional
//! id = "…"                 # nara id; optional
//! key = "…"                # public key, base64; optional
//! tls = "tls-only"         # plain, tls or tls-only; optional
//! ```
//!
//! A key in the file is trusted. A folder is read as its `*.toml` files that are not hidden, in order of their names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::peer::mesh_address;
use serde::Deserialize;
use toml::Spanned;

use crate::clock::{Clock as _, SystemClock};
use crate::defaults;
use crate::identity::LocalNara;
use crate::registry::{KeySource, PeerInfo, PinnedKey};
use crate::text_file;
use crate::tls::TlsPolicy;
use crate::toml_text::{line_of, quoted};

/// The maximum size of a peers file in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// One peer of a peers file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerEntry {
    /// The name.
    pub name: NaraName,
    /// The nara id, if given.
    pub id: Option<NaraId>,
    /// The address, if given, or if the host name was [looked up](PeerEntry::locate).
    pub address: Option<SocketAddr>,
    /// The host name, if given in place of an address.
    pub host: Option<HostAddress>,
    /// Whether the address has no port: then both ports of naras are tried, the port of `address` first.
    pub either_port: bool,
    /// The public key, if given.
    pub key: Option<PublicKey>,
    /// The TLS policy for this peer; `None` for the policy of the client.
    pub tls: Option<TlsPolicy>,
}

/// A host name in place of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The host name.
    pub name: String,
    /// The port, if one is given.
    pub port: Option<u16>,
}

impl FromStr for HostAddress {
    type Err = &'static str;

    /// Parses `host` or `host:port`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ip, ip:port, host or host:port";
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| EXPECTED)?)),
            None => (text, None),
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let labels = name.strip_suffix('.').unwrap_or(name);
        // A numeric last label is a mistyped address.
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let is_host = name.len() <= 253
            && labels.split('.').all(is_label)
            && !labels.rsplit('.').next().is_some_and(is_number);
        if !is_host {
            return Err(EXPECTED);
        }
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The error of a peers file; `Display` names the position and the fault.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", place(.path, *.line))]
#[non_exhaustive]
pub struct PeersFileError {
    /// The path of the file.
    pub path: PathBuf,
    /// The line of the fault, from 1; `None` if the file could not be read.
    pub line: Option<usize>,
    #[source]
    problem: Problem,
}

impl PeersFileError {
    /// Returns whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(&self.problem, Problem::Read(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The fault of a peers file.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// The file cannot be read.
    #[error("the peers file cannot be read: {0}")]
    Read(io::Error),
    /// The file is not TOML, or has an unknown or missing key.
    #[error("{0}")]
    Syntax(String),
    /// A value is malformed.
    #[error("{value:?}: {reason}")]
    Value {
        /// The value.
        value: String,
        /// The expected form.
        reason: String,
    },
    /// Two stanzas have the same name, id or key.
    #[error("the {what} occurs twice{}", also_in(.first))]
    Duplicate {
        /// The name, the id or the key.
        what: String,
        /// The file with the first stanza, if it is another file.
        first: Option<PathBuf>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<Stanza>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stanza {
    name: Spanned<String>,
    id: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    tls: Option<Spanned<String>>,
}

/// Parses the stanzas of a text; returns each with the offset of its name.
fn parse_stanzas(text: &str, path: &Path) -> Result<Vec<(PeerEntry, usize)>, PeersFileError> {
    let wrong = |offset: Option<usize>, problem| PeersFileError {
        path: path.to_owned(),
        line: offset.map(|offset| line_of(text, offset)),
        problem,
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let offset = error.span().map(|span| span.start);
        wrong(offset, Problem::Syntax(error.message().to_owned()))
    })?;
    let mut entries = Vec::with_capacity(file.peer.len());
    for stanza in &file.peer {
        let problem = |field: Field| wrong(Some(field.offset), field.problem);
        let entry = PeerEntry {
            name: field(&stanza.name, str::parse).map_err(problem)?,
            id: optional(stanza.id.as_ref(), str::parse).map_err(problem)?,
            address: stanza
                .address
                .as_ref()
                .and_then(|text| mesh_address(text.get_ref())),
            host: optional(
                stanza
                    .address
                    .as_ref()
                    .filter(|text| mesh_address(text.get_ref()).is_none()),
                str::parse,
            )
            .map_err(problem)?,
            either_port: stanza
                .address
                .as_ref()
                .is_some_and(|text| text.get_ref().parse::<IpAddr>().is_ok()),
            key: optional(stanza.key.as_ref(), PublicKey::from_base64).map_err(problem)?,
            tls: optional(stanza.tls.as_ref(), str::parse).map_err(problem)?,
        };
        entries.push((entry, stanza.name.span().start));
    }
    Ok(entries)
}

/// A malformed value, and its position.
struct Field {
    offset: usize,
    problem: Problem,
}

fn field<'a, T, E: fmt::Display>(
    value: &'a Spanned<String>,
    parse: impl FnOnce(&'a str) -> Result<T, E>,
) -> Result<T, Field> {
    parse(value.get_ref()).map_err(|error| Field {
        offset: value.span().start,
        problem: Problem::Value {
            value: value.get_ref().clone(),
            reason: error.to_string(),
        },
    })
}

fn optional<'a, T, E: fmt::Display>(
    value: Option<&'a Spanned<String>>,
    parse: impl FnOnce(&'a str) -> Result<T, E>,
) -> Result<Option<T>, Field> {
    value.map(|value| field(value, parse)).transpose()
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}: line {line}", path.display()),
        None => path.display().to_string(),
    }
}

fn also_in(first: &Option<PathBuf>) -> String {
    let in_file = |path: &PathBuf| format!(": {} has it already", path.display());
    first.as_ref().map(in_file).unwrap_or_default()
}

impl PeerEntry {
    /// Reads a peers file, or a folder of peers files.
    ///
    /// # Errors
    /// [`PeersFileError`] with the file and the line of the first mistake.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Self>, PeersFileError> {
        let path = path.as_ref();
        let unreadable = |path: &Path, error| PeersFileError {
            path: path.to_owned(),
            line: None,
            problem: Problem::Read(error),
        };
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
            let entries = entries.map_err(|error| unreadable(path, error))?;
            files = entries.into_iter().map(|entry| entry.path()).collect();
            // Editors leave hidden files.
            files.retain(|file| {
                let name = file.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
                name.ends_with(b".toml") && !name.starts_with(b".")
            });
            files.sort();
        }
        let mut peers = Vec::new();
        let mut first_of: HashMap<String, PathBuf> = HashMap::new();
        for file in files {
            let text = text_file::read(&file, MAX_BYTES).map_err(|error| unreadable(&file, error))?;
            for (entry, offset) in parse_stanzas(&text, &file)? {
                for what in entry.unique() {
                    if let Some(first) = first_of.insert(what.clone(), file.clone()) {
                        return Err(PeersFileError {
                            line: Some(line_of(&text, offset)),
                            problem: Problem::Duplicate {
                                what,
                                first: (first != file).then_some(first),
                            },
                            path: file,
                        });
                    }
                }
                peers.push(entry);
            }
        }
        Ok(peers)
    }

    /// Returns what only one stanza may have.
    fn unique(&self) -> impl Iterator<Item = String> {
        let id = self.id.as_ref().map(|id| format!("id {id}"));
        let key = self.key.map(|key| format!("key {key}"));
        [Some(format!("name {}", self.name)), id, key]
            .into_iter()
            .flatten()
    }

    /// Returns a peer with only a name.
    pub fn new(name: NaraName) -> Self {
        Self {
            name,
            id: None,
            address: None,
            host: None,
            either_port: false,
            key: None,
            tls: None,
        }
    }

    /// Returns the entry for this nara that its peers need.
    pub fn of(nara: &LocalNara, address: Option<SocketAddr>) -> Self {
        Self {
            id: Some(nara.id().clone()),
            address,
            key: Some(nara.public_key()),
            ..Self::new(nara.name().clone())
        }
    }

    /// Sets the address of its host name.
    pub fn locate(&mut self, ip: IpAddr) {
        let port = self.host.as_ref().and_then(|host| host.port);
        self.address = Some(SocketAddr::new(ip, port.unwrap_or(defaults::MESH_PORT)));
        self.either_port = port.is_none();
    }

    /// Returns the registry entry; its key counts as configured.
    pub fn to_info(&self) -> PeerInfo {
        PeerInfo {
            id: self.id.clone(),
            name: Some(self.name.clone()),
            address: self.address,
            configured: true,
            configured_at: self.address,
            either_port: self.either_port,
            tls: self.tls,
            key: self.key.map(|key| PinnedKey {
                name: self.name.clone(),
                id: self.id.clone(),
                key,
                source: KeySource::Configured,
                learned_at: SystemClock.now_millis(),
            }),
            ..PeerInfo::default()
        }
    }

    /// Returns the stanza of this peer, with a final line break.
    pub fn to_toml(&self) -> String {
        let mut stanza = format!("[[peer]]\nname = {}\n", quoted(self.name.as_str()));
        let mut line = |key, value: Option<String>| {
            if let Some(value) = value {
                stanza.push_str(&format!("{key} = \"{value}\"\n"));
            }
        };
        line("id", self.id.as_ref().map(ToString::to_string));
        let address = self.address.map(|address| match self.either_port {
            true => address.ip().to_string(),
            false => address.to_string(),
        });
        let host = self.host.as_ref().map(ToString::to_string);
        line("address", host.or(address));
        line("key", self.key.map(|key| key.to_string()));
        line("tls", self.tls.map(|tls| tls.to_string()));
        stanza
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_is_read_back() {
        let mut entry = PeerEntry::new("a \"quoted\" name".parse().unwrap());
        entry.address = mesh_address("127.0.0.1");
        entry.either_port = true;
        entry.key = PublicKey::from_base64("19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=").ok();
        entry.tls = Some(TlsPolicy::Require);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.toml");
        fs::write(&path, entry.to_toml()).unwrap();
        assert_eq!(PeerEntry::read(&path).unwrap(), [entry]);
    }

    #[test]
    fn a_host_name_stands_in_the_place_of_an_address_until_it_is_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.toml");
        for (host, port) in [
            ("bob.tail-net.example", 9632),
            ("bob", 9632),
            ("bob_1.example.:7433", 7433),
        ] {
            let stanza = format!("[[peer]]\nname = \"bob\"\naddress = \"{host}\"\n");
            fs::write(&path, &stanza).unwrap();
            let [mut entry] = <[PeerEntry; 1]>::try_from(PeerEntry::read(&path).unwrap()).unwrap();
            assert_eq!((entry.address, entry.to_toml()), (None, stanza.clone()));
            entry.locate([100, 64, 0, 7].into());
            assert_eq!(entry.address, Some(([100, 64, 0, 7], port).into()));
            assert_eq!((entry.either_port, entry.to_toml()), (port == 9632, stanza));
        }
    }

    #[test]
    fn files_of_editors_in_a_folder_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("a.toml"), "[[peer]]\nname = \"a\"\n").unwrap();
        for left in [
            "a.toml~",
            "#a.toml#",
            ".a.toml.swp",
            "a.toml.bak",
            ".a.toml",
            "README",
        ] {
            fs::write(path.join(left), "half of a file [").unwrap();
        }
        // A lock file of Emacs: a dangling link.
        #[cfg(unix)]
        std::os::unix::fs::symlink("alice@host.1", path.join(".#a.toml")).unwrap();
        assert_eq!(PeerEntry::read(path).unwrap().len(), 1);
        let missing = PeerEntry::read(path.join("missing.toml")).unwrap_err();
        assert!(missing.is_missing(), "{missing}");
        fs::write(path.join("b.toml"), b"# caf\xe9\n").unwrap();
        let broken = PeerEntry::read(path).unwrap_err();
        assert!(
            !broken.is_missing() && broken.to_string().contains("line 1 is not UTF-8"),
            "{broken}"
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.toml");
        let first = "[[peer]]\nname = \"a\"\n";
        for (rest, line, word) in [
            ("colour = \"red\"\n", 3, "colour"),
            ("address = \"no where\"\n", 3, "no where"),
            ("address = \"100.64.0.300\"\n", 3, "100.64.0.300"),
            ("address = \"bob:port\"\n", 3, "bob:port"),
            (
                "address = \"-.a..b\"\n",
                3,
                "expected ip, ip:port, host or host:port",
            ),
            ("key = \"AAAA\"\n", 3, "public key"),
            ("id = \"0\"\n", 3, "nara id"),
            ("tls = \"maybe\"\n", 3, "tls-only"),
            ("[[peer]]\nname = \"a\"\n", 4, "occurs twice"),
            ("[[peer]]\nname = \"\"\n", 4, "empty"),
            (
                "key = \"19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=\"\n[[peer]]\nname = \"b\"\nkey = \
                 \"19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=\"\n",
                5,
                "the key 19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ= occurs twice",
            ),
        ] {
            fs::write(&path, format!("{first}{rest}")).unwrap();
            let error = PeerEntry::read(&path).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("{}: line {line}: ", path.display())),
                "{text}"
            );
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_folder_is_read_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let stanza = |name: &str| format!("[[peer]]\nname = \"{name}\"\n");
        fs::write(folder.path().join("20-b.toml"), stanza("b")).unwrap();
        fs::write(folder.path().join("10-a.toml"), stanza("a")).unwrap();
        fs::write(folder.path().join("30-c.toml.bak"), "no TOML").unwrap();
        let names = |peers: Vec<PeerEntry>| peers.into_iter().map(|peer| peer.name.to_string());
        let read_now = || PeerEntry::read(folder.path()).map(|peers| names(peers).collect::<Vec<_>>());
        assert_eq!(read_now().unwrap(), ["a", "b"]);
        fs::write(folder.path().join("30-c.toml"), stanza("c") + &stanza("a")).unwrap();
        let error = read_now().unwrap_err();
        assert_eq!(error.line, Some(4));
        assert!(error.to_string().contains("10-a.toml has it already"), "{error}");
    }
}
