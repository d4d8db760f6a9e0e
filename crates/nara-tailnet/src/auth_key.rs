use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The maximum length of an auth key in bytes; keys of Tailscale and Headscale have fewer than 100.
const MAX_LEN: usize = 4096;

/// A key with which a node joins a tailnet without a browser.
///
/// The key is a secret: it is wiped from memory on drop and never printed. Take it from a file, the environment or a
/// configuration, not from the command line, which every user of the machine can read.
#[derive(Clone)]
pub struct AuthKey(Zeroizing<String>);

/// The error for an unusable auth key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthKeyError {
    /// The file cannot be read.
    #[error("the auth key file {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The text is not a key: empty, too long, or not one word of printable ASCII.
    #[error(
        "{origin} does not contain an auth key: expected one word of at most {MAX_LEN} printable ASCII characters"
    )]
    Malformed {
        /// The origin of the text, such as a path or a variable.
        origin: String,
    },
}

impl AuthKey {
    /// Creates a key from text. Errors name its `origin`. Surrounding white space is ignored.
    ///
    /// # Errors
    /// [`AuthKeyError::Malformed`] if the text is not a key.
    pub fn new(key: &str, origin: &str) -> Result<Self, AuthKeyError> {
        let key = key.trim();
        let is_word = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_word || key.len() > MAX_LEN {
            return Err(AuthKeyError::Malformed {
                origin: origin.to_owned(),
            });
        }
        Ok(Self(Zeroizing::new(key.to_owned())))
    }

    /// Reads a key from a file that contains nothing else.
    ///
    /// # Errors
    /// If the file cannot be read or does not contain a key.
    pub fn from_file(path: &Path) -> Result<Self, AuthKeyError> {
        let failed = |source| AuthKeyError::File {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = Zeroizing::new(String::with_capacity(MAX_LEN + 2));
        // Bounds the read of a wrong file, such as an endless device.
        io::Read::read_to_string(&mut io::Read::take(file, MAX_LEN as u64 + 2), &mut text).map_err(failed)?;
        Self::new(&text, &path.display().to_string())
    }

    /// Reads a key from an environment variable; `None` if the variable is unset or empty.
    ///
    /// # Errors
    /// [`AuthKeyError::Malformed`] if its value is not a key.
    pub fn from_env(variable: &str) -> Result<Option<Self>, AuthKeyError> {
        match std::env::var(variable).map(Zeroizing::new) {
            Ok(value) if value.is_empty() => Ok(None),
            Ok(value) => Self::new(&value, variable).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(AuthKeyError::Malformed {
                origin: variable.to_owned(),
            }),
        }
    }

    /// Returns the key as text. Do not log it, and do not keep it longer than needed.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_output_of_a_key_does_not_contain_it() {
        let key = AuthKey::new(" tskey-auth-secret\n", "test").unwrap();
        assert_eq!(key.reveal(), "tskey-auth-secret");
        assert!(!format!("{key:?}").contains("secret"));
    }

    #[test]
    fn an_invalid_key_is_refused_without_showing_it() {
        for wrong in ["", " \n", "two words", "kéy"] {
            let error = AuthKey::new(wrong, "KEY_FILE").unwrap_err().to_string();
            assert!(error.contains("KEY_FILE"), "{error}");
            assert!(wrong.trim().is_empty() || !error.contains(wrong), "{error}");
        }
        assert!(AuthKey::new(&"k".repeat(MAX_LEN + 1), "test").is_err());
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "tskey-auth-1\n").unwrap();
        assert_eq!(AuthKey::from_file(&path).unwrap().reveal(), "tskey-auth-1");
        std::fs::write(&path, vec![b'k'; 1 << 20]).unwrap();
        assert!(AuthKey::from_file(&path).is_err());
        assert!(matches!(
            AuthKey::from_file(&folder.path().join("missing")),
            Err(AuthKeyError::File { .. })
        ));
    }
}
