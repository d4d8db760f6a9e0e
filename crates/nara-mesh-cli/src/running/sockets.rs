//! The sockets of running naras on this machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nara_local_api::client::socket_file;
use nara_proto::identity::KeyId;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::ledger_file::STOP_IT;
use crate::places::{home_folder, variable};

/// The file name of the socket in a data folder.
const SOCKET: &str = "nara.sock";

/// Returns the path of the socket in a data folder.
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

/// Returns the runtime folder for the sockets of this user's naras, if the system has one.
pub(crate) fn runtime_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    folder.is_absolute().then(|| folder.join("nara-mesh"))
}

/// Returns the sockets of the naras that run for this user: those in the runtime folder or, if there are
/// none, those in the data folders.
pub(super) fn sockets() -> Vec<PathBuf> {
    let served = |sockets: Vec<PathBuf>| -> BTreeMap<PathBuf, PathBuf> {
        let served = sockets.into_iter().filter(|socket| is_served(socket));
        // Deduplicated: the folder of a replaced key is a link to the folder of the new key.
        served
            .map(|socket| (socket.canonicalize().unwrap_or_else(|_| socket.clone()), socket))
            .collect()
    };
    let here = served(
        runtime_folder()
            .map(|folder| sockets_in(&folder))
            .unwrap_or_default(),
    );
    let found = if here.is_empty() {
        served(sockets_of_data_folders())
    } else {
        here
    };
    found.into_values().collect()
}

/// Returns the sockets in a folder to which no other user can write.
fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let is_private = || {
        let found = std::fs::symlink_metadata(folder).ok()?;
        (found.is_dir() && found.mode() & 0o022 == 0).then_some(())
    };
    if is_private().is_none() {
        return Vec::new();
    }
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sock");
    entries(folder).filter(is_socket).collect()
}

/// Returns the sockets in the data folders of this user.
fn sockets_of_data_folders() -> Vec<PathBuf> {
    let folder = home_folder("XDG_DATA_HOME", ".local/share");
    let folders = folder.iter().flat_map(|folder| entries(folder));
    folders.map(|folder| socket_in(&folder)).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Checks that a nara listens on the chosen socket. `on_command_line`: the socket is an argument, not from
/// the environment.
pub(super) fn check(socket: &Path, on_command_line: bool) -> Outcome<()> {
    let Err(error) = UnixStream::connect(socket) else {
        return Ok(());
    };
    let shown = socket.display();
    let found = std::fs::metadata(socket);
    let (exit, message) = match (&found, error.kind()) {
        (Err(_), io::ErrorKind::NotFound) => (Exit::Unreachable, format!("there is no socket {shown}")),
        (Ok(found), _) if !found.file_type().is_socket() => {
            let what = if found.is_dir() { "a folder" } else { "a file" };
            (
                Exit::Usage,
                format!("{shown} is {what}, not the socket of a nara"),
            )
        }
        (Ok(_), io::ErrorKind::ConnectionRefused) => (
            Exit::Unreachable,
            format!("no nara listens on {shown}: the socket was left behind by a killed nara"),
        ),
        (_, io::ErrorKind::PermissionDenied) => {
            let owner = found.map(|found| format!("it belongs to user {}", found.uid()));
            let owner = owner.unwrap_or_else(|_| "its folder belongs to another user".to_owned());
            (
                Exit::Usage,
                format!("permission denied to use the nara behind {shown}: {owner}"),
            )
        }
        _ => (Exit::Failed, format!("the socket {shown} cannot be used")),
    };
    let other = if on_command_line {
        "omit --api-socket to use the nara that runs for this user"
    } else {
        "run `unset NARA_MESH_SOCKET` to use the nara that runs for this user"
    };
    let hint = match exit {
        Exit::Unreachable => {
            format!(
                "its nara does not serve, or not yet: start it, or wait until `nara-mesh health` succeeds; or {other}"
            )
        }
        _ => other.to_owned(),
    };
    Err(Failure::new(exit, message).caused_by(error).hint(hint))
}

/// The failure of a command that needs a data folder for itself.
pub(crate) fn runs_already(folder: &Path) -> Failure {
    Failure::failed(format!("a nara runs on {} already", folder.display())).hint(STOP_IT)
}

pub(super) fn is_served(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Returns the data folder of the nara behind a socket, which need not answer: where its process has a ledger
/// open. `None` if the system does not say.
pub(crate) async fn folder_behind(socket: &Path) -> Option<PathBuf> {
    let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
    let process = stream.peer_cred().ok()?.pid()?;
    let files = entries(Path::new(&format!("/proc/{process}/fd")));
    let mut open = files.filter_map(|file| std::fs::read_link(file).ok());
    let ledger = open.find(|file| file.file_name() == Some(OsStr::new("ledger.db")))?;
    Some(ledger.parent()?.to_owned())
}

/// Returns whether the nara behind a socket can have this name and key, judged by the path: the socket is
/// named after the nara, or is in a data folder, which is usually named after the key.
pub(super) fn may_be(socket: &Path, name: &str, key: Option<KeyId>) -> bool {
    let file = socket.file_name();
    let key_of_folder = || socket.parent()?.file_name()?.to_str()?.parse::<KeyId>().ok();
    let is_other_key = || key.is_some_and(|key| key_of_folder().is_some_and(|other| other != key));
    file == Some(OsStr::new(&socket_file(name))) || (file == Some(OsStr::new(SOCKET)) && !is_other_key())
}

/// Formats sockets as a list.
pub(super) fn shown(sockets: &[PathBuf]) -> String {
    let shown: Vec<String> = sockets
        .iter()
        .map(|socket| socket.display().to_string())
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_socket_tells_whose_it_is_not() {
        let [own, other] = [[1; 32], [2; 32]].map(|seed| {
            let soul = nara_proto::identity::Soul::bond(seed, "bob");
            KeyId::from(&nara_proto::identity::KeyPair::from_soul(&soul).public_key())
        });
        let in_folder = |folder: &str| may_be(&Path::new(folder).join(SOCKET), "bob", Some(own));
        assert!(in_folder("given") && in_folder(&own.to_string()) && !in_folder(&other.to_string()));
        let named = |file: &str| may_be(&Path::new("run").join(file), "bob", None);
        assert!(named("bob.sock") && named(SOCKET) && !named("carol.sock"));
    }
}
