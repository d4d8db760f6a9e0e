//! Bearer tokens: one with all rights in a file, and others of which only the hash is stored.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nara_proto::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::secret::{self, Hashed};
use super::storage::{self, StorageError};
use crate::model::{MadeToken, NewToken, Rights, Token};
use crate::server::rights::Caller;

/// The most tokens besides the one in the file.
const MOST: usize = 64;

/// The most bytes of a name.
const LONGEST_NAME: usize = 64;

/// The name of the token in the file.
const OWN: &str = "api";

/// A created token.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    name: String,
    rights: Rights,
    sha256: Hashed,
    created_at_ms: i64,
}

/// The tokens of a nara.
#[derive(Debug)]
pub(crate) struct Tokens {
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    own: Option<Hashed>,
    made: Vec<Made>,
}

/// Why a token cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("name: 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`")]
    Name,
    #[error("the token {0} already exists")]
    Taken(String),
    #[error("there are already {MOST} tokens")]
    TooMany,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Tokens {
    /// Reads the files in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, StorageError> {
        let own = storage::read(&own_file(folder))?;
        let own = own.map(|text| Hashed::of(text.trim()));
        let made = storage::read_json(&made_file(folder))?.unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            known: Mutex::new(Known { own, made }),
        })
    }

    /// Creates the token with all rights, unless it exists. Returns its file.
    pub(super) fn ensure_own(&self) -> Result<PathBuf, StorageError> {
        let mut known = self.known();
        if known.own.is_none() {
            known.own = Some(self.write_own()?);
        }
        Ok(own_file(&self.folder))
    }

    fn write_own(&self) -> Result<Hashed, StorageError> {
        let token = secret::new();
        storage::write(&own_file(&self.folder), &format!("{token}\n"))?;
        Ok(Hashed::of(&token))
    }

    /// Returns the holder of a token. Compares with every token, so that the time reveals nothing.
    pub(super) fn caller(&self, token: &str) -> Option<Caller> {
        let given = Hashed::of(token);
        let known = self.known();
        let own = known.own.iter().map(|own| (own, Rights::All, OWN));
        let made = known
            .made
            .iter()
            .map(|made| (&made.sha256, made.rights, &*made.name));
        let holder = own
            .chain(made)
            .fold(None, |found, (hash, rights, name)| match hash.is(&given) {
                true => Some((rights, name)),
                false => found,
            });
        holder.map(|(rights, name)| Caller {
            rights,
            who: format!("token {name}").into(),
        })
    }

    pub(crate) fn list(&self) -> Vec<Token> {
        let known = self.known();
        let own = known.own.iter().map(|_| Token {
            name: OWN.to_owned(),
            rights: Rights::All,
            created_at_ms: None,
        });
        let made = known.made.iter().map(|made| Token {
            name: made.name.clone(),
            rights: made.rights,
            created_at_ms: Some(made.created_at_ms),
        });
        let mut tokens: Vec<Token> = own.chain(made).collect();
        tokens.sort_by(|one, other| one.name.cmp(&other.name));
        tokens
    }

    pub(crate) fn make(&self, wanted: NewToken, now: UnixMillis) -> Result<MadeToken, TokenError> {
        let mut known = self.known();
        let is_taken = |name: &str| name == OWN || known.made.iter().any(|made| made.name == name);
        if known.made.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        let rights = wanted.rights;
        let free = || (1..=MOST + 1).map(|number| format!("{}-{number}", rights.as_str()));
        let name = wanted
            .name
            .or_else(|| free().find(|name| !is_taken(name)))
            .unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            return Err(TokenError::Name);
        }
        if is_taken(&name) {
            return Err(TokenError::Taken(name));
        }
        let token = secret::new();
        let mut made = known.made.clone();
        made.push(Made {
            name: name.clone(),
            rights,
            sha256: Hashed::of(&token),
            created_at_ms: now.get(),
        });
        storage::write_json(&made_file(&self.folder), &made)?;
        known.made = made;
        Ok(MadeToken { name, rights, token })
    }

    /// Revokes a token; the one in the file is replaced. Returns whether it existed.
    pub(crate) fn revoke(&self, name: &str) -> Result<bool, StorageError> {
        let mut known = self.known();
        if name == OWN {
            let was_there = known.own.is_some();
            if was_there {
                known.own = Some(self.write_own()?);
            }
            return Ok(was_there);
        }
        let mut made = known.made.clone();
        made.retain(|made| made.name != name);
        if made.len() == known.made.len() {
            return Ok(false);
        }
        storage::write_json(&made_file(&self.folder), &made)?;
        known.made = made;
        Ok(true)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every update is complete.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn own_file(folder: &Path) -> PathBuf {
    folder.join("api.token")
}

fn made_file(folder: &Path) -> PathBuf {
    folder.join("api-tokens.json")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: UnixMillis = UnixMillis::new(1);

    fn wanted(name: Option<&str>, rights: Rights) -> NewToken {
        NewToken {
            name: name.map(str::to_owned),
            rights,
        }
    }

    #[test]
    fn tokens_are_kept_as_hashes_in_a_file_of_the_owner_and_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::read(folder.path()).unwrap();
        let own_file = tokens.ensure_own().unwrap();
        let own = fs::read_to_string(&own_file).unwrap();
        let read = tokens.make(wanted(None, Rights::Read), NOW).unwrap();
        assert_eq!(read.name, "read-1");
        let kept = fs::read_to_string(made_file(folder.path())).unwrap();
        assert!(!kept.contains(&read.token));
        for file in [&own_file, &made_file(folder.path())] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let tokens = Tokens::read(folder.path()).unwrap();
        let rights = |token: &str| tokens.caller(token).map(|caller| caller.rights);
        assert_eq!(rights(own.trim()), Some(Rights::All));
        assert_eq!(rights(&read.token), Some(Rights::Read));
        assert_eq!(rights(""), None);
        assert!(tokens.revoke("read-1").unwrap() && !tokens.revoke("read-1").unwrap());
        assert_eq!(rights(&read.token), None);
        assert!(tokens.revoke(OWN).unwrap());
        assert_eq!(rights(own.trim()), None);
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Tokens::read(folder.path()).unwrap().ensure_own().unwrap();
        let file = own_file(folder.path());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Tokens::read(folder.path()).unwrap_err();
        assert!(
            matches!(refused, StorageError::Open { mode: 0o644, .. }),
            "{refused}"
        );
    }

    #[test]
    fn names_are_plain_and_tokens_are_few() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::read(folder.path()).unwrap();
        for name in ["", "a b", "../x", OWN, &"x".repeat(65)] {
            assert!(
                tokens.make(wanted(Some(name), Rights::Read), NOW).is_err(),
                "{name}"
            );
        }
        for _ in 0..MOST {
            tokens.make(wanted(None, Rights::Messages), NOW).unwrap();
        }
        let more = tokens.make(wanted(None, Rights::Messages), NOW);
        assert!(matches!(more, Err(TokenError::TooMany)));
    }
}
