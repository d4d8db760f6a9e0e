//! The file that holds a soul: who can read it, can be the nara.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use nara_proto::identity::{NaraName, Soul};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome};

/// What a soul file says.
#[derive(Debug)]
pub(crate) struct SoulFile {
    /// The name to which the soul is bonded, if the file says it.
    pub(crate) name: Option<String>,
    /// The soul.
    pub(crate) soul: Soul,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stanza {
    name: String,
    soul: String,
}

/// Reads a soul file: `name` and `soul` as TOML, or the bare text of a soul.
pub(crate) fn read(path: &Path) -> Outcome<SoulFile> {
    let shown = path.display();
    check_mode(path)?;
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let failure = Failure::usage(format!("the soul file {shown} cannot be read")).caused_by(error);
        failure.hint("create one with `nara-mesh id new --name NAME --out FILE`")
    })?;
    let bare = text.trim();
    let (name, soul) = if bare.contains('=') {
        // The parser's message would quote the line, which may be the one with the soul.
        let stanza: Stanza = toml::from_str(&text).map_err(|_| {
            Failure::usage(format!("{shown} is not a soul file"))
                .hint("it holds the two lines `name = \"…\"` and `soul = \"…\"`, or the bare soul")
        })?;
        (Some(stanza.name), Zeroizing::new(stanza.soul))
    } else {
        (None, Zeroizing::new(bare.to_owned()))
    };
    Ok(SoulFile {
        name,
        soul: parse(&soul, &format!("the soul file {shown}"))?,
    })
}

/// Reads the text of a soul; `origin` says where it came from. The text is in no message.
pub(crate) fn parse(text: &str, origin: &str) -> Outcome<Soul> {
    text.trim()
        .parse()
        .map_err(|error| Failure::usage(format!("{origin} has no valid soul: {error}")))
}

/// Writes a new soul file that only its owner can read.
pub(crate) fn write_new(path: &Path, name: &NaraName, soul: &Soul) -> Outcome<()> {
    let shown = path.display();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Failure::failed(format!("{shown} exists: a soul is never overwritten"))
                .hint("choose another file with --out; without its soul, the nara in that file would be lost")
        } else {
            Failure::failed(format!("the soul file {shown} cannot be created")).caused_by(error)
        }
    })?;
    let name = toml_string(name.as_str());
    let text = Zeroizing::new(format!(
        "# The soul of a nara. Its holder is this nara: keep it secret, and keep a copy.\nname = \
         {name}\nsoul = \"{}\"\n",
        *soul.expose()
    ));
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::failed(format!("the soul file {shown} cannot be written")).caused_by(error))
}

/// A text as a TOML basic string.
pub(crate) fn toml_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{0}'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\u{:04X}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;

    // A file that is not there is told by the reader.
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        let shown = path.display();
        return Err(Failure::usage(format!(
            "the soul file {shown} has mode {mode:04o}: others could read or change it"
        ))
        .hint(format!("run: chmod 600 {shown}")));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Outcome<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_whatever_the_name() {
        let folder = tempfile::tempdir().unwrap();
        for (number, name) in ["alice", "a \"b\\ c", "é ☃", "tab\there"].into_iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let soul = Soul::bond([number as u8; 32], name);
            write_new(&path, &name.parse().unwrap(), &soul).unwrap();
            let read = read(&path).unwrap();
            assert_eq!(read.name.as_deref(), Some(name));
            assert_eq!(*read.soul.expose(), *soul.expose());
        }
    }

    #[test]
    fn a_soul_is_never_in_a_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soul");
        let soul = Soul::bond([1; 32], "alice").expose();
        write_new(&path, &"alice".parse().unwrap(), &Soul::bond([1; 32], "alice")).unwrap();
        fs::write(&path, format!("name = 5\nsoul = \"{}\"\n", *soul)).unwrap();
        let failure = read(&path).unwrap_err();
        assert!(!format!("{failure:?}").contains(soul.as_str()));
    }
}
