//! The keys of a node: generated once and stored in a file that only its owner can read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ts_keys::{ExportableKey, NodeKeyPair, NodeState, PersistState};
use zeroize::Zeroizing;

/// The maximum size of a key file in bytes.
const MAX_LEN: u64 = 16 * 1024;

/// The error for a key file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file does not contain node keys.
    #[error("{} does not contain node keys; move the file away to register a new node", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    schema: String,
    keys: PersistState,
}

const SCHEMA: &str = "nara-mesh/node-keys/1";

/// The keys of a node, and the path of their file.
#[derive(Debug)]
pub(super) struct Keys {
    path: Option<PathBuf>,
    state: NodeState,
    previous: Option<ts_keys::NodePublicKey>,
}

impl Keys {
    /// Reads the keys, or generates and stores new ones if the file does not exist. Without a path, they are not
    /// stored.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, KeyFileError> {
        let Some(path) = path else {
            return Ok(Self {
                path: None,
                state: NodeState::generate(),
                previous: None,
            });
        };
        let state = match read(path) {
            Ok(text) => {
                let stored: Stored = serde_json::from_str(&text).map_err(|_| KeyFileError::Malformed {
                    path: path.to_owned(),
                })?;
                if stored.schema != SCHEMA {
                    return Err(KeyFileError::Malformed {
                        path: path.to_owned(),
                    });
                }
                NodeState::from(stored.keys)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = NodeState::generate();
                store(path, &state)?;
                state
            }
            Err(source) => {
                return Err(KeyFileError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            path: Some(path.to_owned()),
            state,
            previous: None,
        })
    }

    pub(super) fn state(&self) -> &NodeState {
        &self.state
    }

    /// Returns the key that the current one replaces, until [`Keys::rotated`].
    pub(super) fn previous(&self) -> Option<ts_keys::NodePublicKey> {
        self.previous
    }

    /// Replaces the expired node key. The machine key stays the same.
    pub(super) fn rotate(&mut self) -> Result<(), KeyFileError> {
        let mut next = self.state.clone();
        next.node_keys = NodeKeyPair::random();
        if let Some(path) = &self.path {
            store(path, &next)?;
        }
        self.previous = Some(self.state.node_keys.public);
        self.state = next;
        Ok(())
    }

    /// Records that the control server has accepted the current key.
    pub(super) fn rotated(&mut self) {
        self.previous = None;
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, MAX_LEN), &mut text)?;
    Ok(text)
}

/// Writes the keys to a temporary file and renames it: a crash leaves the old keys or the new ones, never a mixture.
fn store(path: &Path, state: &NodeState) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    };
    let stored = Stored {
        schema: SCHEMA.to_owned(),
        keys: PersistState {
            machine_key: state.machine_keys.export(),
            network_lock_key: state.network_lock_keys.export(),
            node_key: state.node_keys.export(),
        },
    };
    let text = Zeroizing::new(serde_json::to_string_pretty(&stored).map_err(|error| failed(error.into()))?);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/node.json");
        let first = Keys::open(Some(&path)).unwrap();
        let second = Keys::open(Some(&path)).unwrap();
        assert_eq!(first.state().node_keys.public, second.state().node_keys.public);
        assert_eq!(
            first.state().machine_keys.public,
            second.state().machine_keys.public
        );
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_keys() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        Keys::open(Some(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_rotated_key_is_stored_and_the_previous_one_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        let mut keys = Keys::open(Some(&path)).unwrap();
        let before = keys.state().node_keys.public;
        keys.rotate().unwrap();
        assert_eq!(keys.previous(), Some(before));
        assert_ne!(keys.state().node_keys.public, before);
        let again = Keys::open(Some(&path)).unwrap();
        assert_eq!(again.state().node_keys.public, keys.state().node_keys.public);
        assert_eq!(
            again.state().machine_keys.public,
            keys.state().machine_keys.public
        );
        keys.rotated();
        assert_eq!(keys.previous(), None);
    }

    #[test]
    fn a_file_without_keys_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.json");
        for text in ["", "{}", "not keys", r#"{"schema":"other","keys":{}}"#] {
            fs::write(&path, text).unwrap();
            assert!(
                matches!(Keys::open(Some(&path)), Err(KeyFileError::Malformed { .. })),
                "{text}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn the_debug_output_contains_no_secret_keys() {
        let keys = Keys::open(None).unwrap();
        let shown = format!("{keys:?}");
        let secret = keys.state().node_keys.export().to_string();
        assert!(!shown.contains(&secret), "{shown}");
        assert!(!shown.contains("privkey"), "{shown}");
    }
}
