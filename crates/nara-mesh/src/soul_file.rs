//! Soul files: the secret of a nara on disk.
//!
//! ```text
//! name = "alice"
//! soul = "…"
//! ```
//!
//! A file may also hold the bare text of a soul. Every user who can read the file can act as the nara, so a file
//! that other users can read is refused unless the caller accepts it ([`Access::Group`]).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nara_proto::identity::{InvalidName, InvalidSoul, NaraName, Soul};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::toml_text::quoted;
use crate::{new_file, text_file};

/// The maximum size of a soul file in bytes; most of it is the name.
const MAX_BYTES: u64 = 64 << 10;

/// The permissions that a soul file may have. Checked on Unix, for regular files only: a pipe or a file descriptor
/// (`/dev/fd/3`) was opened by the process that passed it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Only the owner may read or write the file: mode 0600 or 0400.
    #[default]
    Owner,
    /// The group may also read it (0640, 0440), like secrets that are mounted into containers.
    Group,
}

/// A soul and, if present, the name to which it is bonded.
#[derive(Debug)]
#[non_exhaustive]
pub struct SoulFile {
    /// The name; `None` if the file holds a bare soul.
    pub name: Option<NaraName>,
    /// The soul.
    pub soul: Soul,
}

/// The reason why a soul file cannot be used. No variant contains text of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoulFileError {
    /// The file cannot be read.
    #[error("the soul file {} cannot be read", .path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The permissions let other users read or change the file.
    #[error("the soul file {} has mode {mode:04o}: other users can {} it", .path.display(), verb(*.mode))]
    Exposed {
        /// The path of the file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// The text is neither `name` and `soul` in TOML nor a bare soul.
    #[error(
        "{origin} is not a soul file: expected the lines `name = \"…\"` and `soul = \"…\"`, or the bare soul"
    )]
    Form {
        /// The origin of the text.
        origin: String,
    },
    /// The soul is malformed.
    #[error("{origin} has no valid soul: {source}")]
    Soul {
        /// The origin of the text.
        origin: String,
        /// The cause.
        source: InvalidSoul,
    },
    /// The name is malformed.
    #[error("the name in {origin} is not valid: {source}")]
    Name {
        /// The origin of the text.
        origin: String,
        /// The cause.
        source: InvalidName,
    },
    /// A new soul file would replace an existing file.
    #[error("{} exists: a soul is never overwritten", .path.display())]
    Exists {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file cannot be written. No partial file is left.
    #[error("the soul file {} cannot be written", .path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    soul: String,
}

impl SoulFile {
    /// Reads a soul file.
    ///
    /// # Errors
    /// [`SoulFileError`] if it cannot be read, if its permissions exceed `access`, or if its text is malformed.
    pub fn read(path: impl AsRef<Path>, access: Access) -> Result<Self, SoulFileError> {
        let path = path.as_ref();
        check_mode(path, access)?;
        // A soul may be passed through a pipe.
        let text = fs::File::open(path).and_then(|file| text_file::read_open(file, MAX_BYTES));
        let text = text.map(Zeroizing::new);
        let text = text.map_err(|source| SoulFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, format_args!("the soul file {}", path.display()))
    }

    /// Parses the text of a soul file. Errors name it as `origin`, such as "the environment variable SOUL".
    ///
    /// # Errors
    /// [`SoulFileError`] if the text is malformed.
    pub fn parse(text: &str, origin: impl fmt::Display) -> Result<Self, SoulFileError> {
        let bare = text.trim();
        let (name, soul) = if bare.contains('=') {
            // The parser's message would quote the line, which may be the one with the soul.
            let text: Text = toml::from_str(text).map_err(|_| SoulFileError::Form {
                origin: origin.to_string(),
            })?;
            (Some(text.name), Zeroizing::new(text.soul))
        } else {
            (None, Zeroizing::new(bare.to_owned()))
        };
        let soul = soul.trim().parse().map_err(|source| SoulFileError::Soul {
            origin: origin.to_string(),
            source,
        })?;
        let name = name.map(|name| name.parse()).transpose();
        let name = name.map_err(|source| SoulFileError::Name {
            origin: origin.to_string(),
            source,
        })?;
        Ok(Self { name, soul })
    }

    /// Writes a new soul file with mode 0600. The file appears atomically.
    ///
    /// # Errors
    /// [`SoulFileError::Exists`] if the file exists, [`SoulFileError::Write`] if it cannot be written.
    pub fn write_new(path: impl AsRef<Path>, name: &NaraName, soul: &Soul) -> Result<(), SoulFileError> {
        let path = path.as_ref();
        let text = Zeroizing::new(format!(
            "# The soul of a nara. Its holder is this nara: keep it secret, and keep a copy.\n\
             name = {}\nsoul = \"{}\"\n",
            quoted(name.as_str()),
            *soul.expose()
        ));
        let write = |file: &mut fs::File| file.write_all(text.as_bytes());
        new_file::create(path, 0o600, write).map_err(|source| {
            let path = path.to_owned();
            if source.kind() == io::ErrorKind::AlreadyExists {
                SoulFileError::Exists { path }
            } else {
                SoulFileError::Write { path, source }
            }
        })
    }
}

fn verb(mode: u32) -> &'static str {
    if mode & 0o022 == 0 { "read" } else { "change" }
}

#[cfg(unix)]
fn check_mode(path: &Path, access: Access) -> Result<(), SoulFileError> {
    use std::os::unix::fs::PermissionsExt as _;

    // An opened descriptor was passed on purpose. The reader reports a missing file.
    let Some(metadata) = fs::metadata(path).ok().filter(|_| !text_file::is_passed_on(path)) else {
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    let refused = match access {
        Access::Owner => 0o077,
        Access::Group => 0o037,
    };
    if metadata.is_file() && mode & refused != 0 {
        return Err(SoulFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: Access) -> Result<(), SoulFileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> (NaraName, Soul) {
        ("alice".parse().unwrap(), Soul::bond([1; 32], "alice"))
    }

    #[test]
    fn a_written_file_is_read_back_with_any_name() {
        let folder = tempfile::tempdir().unwrap();
        for (number, name) in ["alice", "a \"b\\ c", "é ☃", "tab\there"].into_iter().enumerate() {
            let path = folder.path().join(number.to_string());
            let soul = Soul::bond([number as u8; 32], name);
            SoulFile::write_new(&path, &name.parse().unwrap(), &soul).unwrap();
            let read = SoulFile::read(&path, Access::Owner).unwrap();
            assert_eq!(read.name.unwrap().as_str(), name);
            assert_eq!(*read.soul.expose(), *soul.expose());
        }
    }

    #[test]
    fn a_soul_is_never_in_an_error() {
        let soul = alice().1.expose();
        let origin = "the environment variable SOUL";
        let error = SoulFile::parse(&format!("name = 5\nsoul = \"{}\"\n", *soul), origin).unwrap_err();
        assert!(!format!("{error:?} {error}").contains(soul.as_str()));
    }

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soul");
        fs::write(&path, "mine").unwrap();
        let (name, soul) = alice();
        let refused = SoulFile::write_new(&path, &name, &soul);
        assert!(
            matches!(refused, Err(SoulFileError::Exists { .. })),
            "{refused:?}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_mode_decides_who_may_read() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soul");
        let (name, soul) = alice();
        SoulFile::write_new(&path, &name, &soul).unwrap();
        for (mode, owner, group) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o440, false, true),
            (0o640, false, true),
            (0o444, false, false),
            (0o660, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for (access, accepted) in [(Access::Owner, owner), (Access::Group, group)] {
                let read = SoulFile::read(&path, access);
                assert_eq!(read.is_ok(), accepted, "{mode:o} {access:?}");
            }
        }
    }
}
