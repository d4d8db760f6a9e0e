//! The peers file: who is where, and with which key.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::defaults;
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::{KeySource, PeerInfo, PinnedKey};
use nara_mesh::tls::TlsPolicy;
use nara_proto::identity::{NaraId, NaraName, PublicKey};
use serde::Deserialize;
use toml::Spanned;

use crate::address::parse_address;
use crate::failure::{Failure, Outcome};
use crate::soul_file::toml_string;

/// The part of `--help` about the peers file.
pub(crate) const HELP: &str = "\
The peers file is TOML, one stanza for each peer:

  [[peer]]
  name = \"alice\"                    # its name
  address = \"100.64.0.7\"            # ip or ip:port; the default port is 9632
  id = \"…\"                          # its nara id; optional
  key = \"…\"                         # its public key, base64; optional, but without it nothing that it
                                    # signs can be verified until a ping has told the key
  tls = \"tls-only\"                  # plain, tls (where it can) or tls-only; default: --tls

A key in this file is trusted. `nara-mesh serve` prints the stanza that others need, and so does
`nara-mesh id show --stanza ADDRESS`.";

/// One peer of the file.
#[derive(Clone, Debug)]
pub(crate) struct PeerEntry {
    pub(crate) name: NaraName,
    pub(crate) id: Option<NaraId>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) key: Option<PublicKey>,
    pub(crate) tls: Option<TlsPolicy>,
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

/// Reads a peers file.
pub(crate) fn read(path: &Path) -> Outcome<Vec<PeerEntry>> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("the peers file {shown} cannot be read"))
            .caused_by(error)
            .hint("create it: each peer runs `nara-mesh id show --stanza ADDRESS >> FILE`")
    })?;
    parse(&text, &shown.to_string())
}

fn parse(text: &str, path: &str) -> Outcome<Vec<PeerEntry>> {
    let file: File = toml::from_str(text).map_err(|error| {
        Failure::usage(format!(
            "{path}: {}",
            located(text, error.span(), error.message())
        ))
        .hint("`nara-mesh peers --help` shows the form of the file")
    })?;
    let mut peers: Vec<PeerEntry> = Vec::with_capacity(file.peer.len());
    for stanza in &file.peer {
        let name: NaraName = field(text, path, &stanza.name, |text| text.parse())?;
        if peers.iter().any(|peer| peer.name == name) {
            let message = format!("the name {name} occurs twice");
            let message = located(text, Some(stanza.name.span()), &message);
            return Err(Failure::usage(format!("{path}: {message}")));
        }
        let optional = stanza.id.as_ref();
        let id = optional.map(|value| field(text, path, value, |text| text.parse::<NaraId>()));
        let optional = stanza.key.as_ref();
        let key = optional.map(|value| field(text, path, value, PublicKey::from_base64));
        let optional = stanza.tls.as_ref();
        let tls = optional.map(|value| field(text, path, value, |text| text.parse::<TlsPolicy>()));
        let optional = stanza.address.as_ref();
        let address = optional.map(|value| {
            field(text, path, value, |text| {
                parse_address(text, defaults::MESH_PORT).ok_or("expected ip or ip:port")
            })
        });
        peers.push(PeerEntry {
            name,
            id: id.transpose()?,
            address: address.transpose()?,
            key: key.transpose()?,
            tls: tls.transpose()?,
        });
    }
    Ok(peers)
}

fn field<T, E: std::fmt::Display>(
    text: &str,
    path: &str,
    value: &Spanned<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Outcome<T> {
    parse(value.get_ref()).map_err(|error| {
        let message = located(
            text,
            Some(value.span()),
            &format!("{:?}: {error}", value.get_ref()),
        );
        Failure::usage(format!("{path}: {message}"))
    })
}

/// A message with the line that it is about.
pub(crate) fn located(text: &str, span: Option<std::ops::Range<usize>>, message: &str) -> String {
    let Some(span) = span else {
        return message.to_owned();
    };
    let line = text
        .as_bytes()
        .iter()
        .take(span.start)
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1;
    format!("line {line}: {message}")
}

impl PeerEntry {
    /// The entry that others need for a nara.
    pub(crate) fn of(nara: &LocalNara, address: Option<SocketAddr>) -> Self {
        Self {
            name: nara.name().clone(),
            id: Some(nara.id().clone()),
            address,
            key: Some(nara.public_key()),
            tls: None,
        }
    }

    /// What a registry is told about it.
    pub(crate) fn to_info(&self) -> PeerInfo {
        let mut info = PeerInfo::default();
        info.id.clone_from(&self.id);
        info.name = Some(self.name.clone());
        info.address = self.address;
        info.configured_at = self.address;
        info.tls = self.tls;
        info.key = self.key.map(|key| PinnedKey {
            name: self.name.clone(),
            id: self.id.clone(),
            key,
            source: KeySource::Configured,
            learned_at: SystemClock.now_millis(),
        });
        info
    }

    /// The stanza of this peer.
    pub(crate) fn to_toml(&self) -> String {
        let mut stanza = format!("[[peer]]\nname = {}\n", toml_string(self.name.as_str()));
        if let Some(id) = &self.id {
            stanza.push_str(&format!("id = \"{id}\"\n"));
        }
        if let Some(address) = &self.address {
            stanza.push_str(&format!("address = \"{address}\"\n"));
        }
        if let Some(key) = &self.key {
            stanza.push_str(&format!("key = \"{key}\"\n"));
        }
        if let Some(tls) = &self.tls {
            stanza.push_str(&format!("tls = \"{tls}\"\n"));
        }
        stanza
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_is_read_back() {
        let entry = PeerEntry {
            name: "a \"quoted\" name".parse().unwrap(),
            id: None,
            address: parse_address("127.0.0.1", 9632),
            key: PublicKey::from_base64("19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=").ok(),
            tls: Some(TlsPolicy::Require),
        };
        let read = parse(&entry.to_toml(), "x").unwrap();
        assert_eq!(read[0].name, entry.name);
        assert_eq!(read[0].address, "127.0.0.1:9632".parse().ok());
        assert_eq!(read[0].key, entry.key);
        assert_eq!(read[0].tls, entry.tls);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let first = "[[peer]]\nname = \"a\"\n";
        for (rest, line, word) in [
            ("colour = \"red\"\n", 3, "colour"),
            ("address = \"nowhere\"\n", 3, "nowhere"),
            ("key = \"AAAA\"\n", 3, "public key"),
            ("id = \"0\"\n", 3, "nara id"),
            ("tls = \"maybe\"\n", 3, "tls-only"),
            ("[[peer]]\nname = \"a\"\n", 4, "occurs twice"),
            ("[[peer]]\nname = \"\"\n", 4, "empty"),
        ] {
            let failure = parse(&format!("{first}{rest}"), "peers.toml").unwrap_err();
            assert!(
                failure.message.starts_with(&format!("peers.toml: line {line}: ")),
                "{failure:?}"
            );
            assert!(failure.message.contains(word), "{failure:?}");
        }
    }
}
