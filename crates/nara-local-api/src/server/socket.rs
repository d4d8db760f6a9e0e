//! Unix sockets: the mode of the socket and the credentials of the caller decide who may connect.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket};

use super::rights::{Caller, Rights};

/// The longest socket path that every Unix supports, in bytes.
const LONGEST_PATH: usize = 103;

/// The backlog of pending connections.
const BACKLOG: u32 = 256;

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process listens there.
    #[error("another process serves the socket {}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refuses it.
    #[error("the socket {} cannot be created", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path is too long: the operating system would truncate or refuse it without a reason.
    #[error("the path of the socket {} has {length} bytes, but the maximum is {}", path.display(), LONGEST_PATH)]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length, in bytes.
        length: usize,
    },
}

/// Checks that a socket can have this path.
///
/// # Errors
/// [`ListenError::TooLong`].
pub fn check_length(path: &Path) -> Result<(), ListenError> {
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Ok(());
    }
    Err(ListenError::TooLong {
        path: path.to_owned(),
        length,
    })
}

/// Who may connect.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// A group, and the rights of its members.
    pub(super) group: Option<(u32, Rights)>,
}

impl Access {
    /// Returns the caller at the other end; `None` if it has no rights.
    pub(super) fn caller(&self, stream: &tokio::net::UnixStream) -> io::Result<Option<Caller>> {
        let user = stream.peer_cred()?.uid();
        let rights = self.rights_of(user, own_user()?);
        Ok(rights.map(|rights| Caller {
            rights,
            who: format!("user {user}").into(),
        }))
    }

    fn rights_of(&self, caller: u32, own: u32) -> Option<Rights> {
        if caller == 0 || caller == own {
            return Some(Rights::All);
        }
        // The mode of the socket admits only the owner and members of the group. The credentials contain one
        // of several groups, so they cannot decide.
        self.group.map(|(_, rights)| rights)
    }
}

/// Returns the user of this process.
fn own_user() -> io::Result<u32> {
    let (one, _other) = tokio::net::UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Listens at a path. No other user can connect before the mode is set.
pub(super) fn listen(path: &Path, access: &Access) -> Result<UnixListener, ListenError> {
    check_length(path)?;
    let failed = |source| ListenError::Io {
        path: path.to_owned(),
        source,
    };
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse {
            path: path.to_owned(),
        });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let open = || -> io::Result<UnixListener> {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let mode = match access.group {
            Some((group, _)) => {
                chown(path, None, Some(group))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)
    };
    open().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_may_nothing_unless_a_group_is_let_in() {
        let mut access = Access { group: None };
        assert_eq!(access.rights_of(1000, 1000), Some(Rights::All));
        assert_eq!(access.rights_of(0, 1000), Some(Rights::All));
        assert_eq!(access.rights_of(1001, 1000), None);
        access.group = Some((100, Rights::Messages));
        assert_eq!(access.rights_of(1001, 1000), Some(Rights::Messages));
        assert_eq!(access.rights_of(1000, 1000), Some(Rights::All));
    }

    #[tokio::test]
    async fn a_socket_for_a_group_has_its_mode() {
        use std::os::unix::fs::MetadataExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let own = fs::metadata(folder.path()).unwrap().gid();
        let access = Access {
            group: Some((own, Rights::Read)),
        };
        let _listener = listen(&path, &access).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, own));
    }
}
