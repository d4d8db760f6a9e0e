//! Finds files of a nara that other users can read or change although they must not.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::settings::Settings;

/// A file whose permissions are too wide.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooWide {
    what: &'static str,
    path: PathBuf,
    mode: u32,
    wanted: u32,
}

impl fmt::Display for TooWide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.mode & 0o022 == 0 { "read" } else { "change" };
        let Self { what, mode, path, .. } = self;
        write!(
            f,
            "other users can {verb} the {what} {} (mode {mode:04o})",
            path.display()
        )
    }
}

impl TooWide {
    /// Returns the command that fixes it.
    pub(crate) fn remedy(&self) -> String {
        format!("chmod {:o} {}", self.wanted, self.path.display())
    }
}

/// Returns the files of the settings whose permissions are too wide. The soul file is excluded: it is refused
/// instead.
pub(crate) fn problems(settings: &Settings) -> Vec<TooWide> {
    let auth_key = settings
        .auth_key_file()
        .map(|path| ("auth key file", path, 0o600));
    let peers = settings.peers_path().map(|path| {
        let wanted = if path.is_dir() { 0o755 } else { 0o644 };
        ("peers file", path.to_owned(), wanted)
    });
    let config = settings
        .sources
        .config_file()
        .map(|path| ("configuration file", path.to_owned(), 0o644));
    let ledger = settings.ledger_path().ok().flatten();
    let folder = ledger.as_deref().and_then(Path::parent);
    let folder = folder.map(|path| ("data folder", path.to_owned(), 0o755));
    let ledger = ledger.filter(|path| !path.is_dir());
    let ledger = ledger.map(|path| ("ledger", path, 0o644));
    let files = [auth_key, peers, config, folder, ledger];
    let check = |(what, path, wanted): (&'static str, PathBuf, u32)| too_wide(what, &path, wanted);
    files.into_iter().flatten().filter_map(check).collect()
}

#[cfg(unix)]
fn too_wide(what: &'static str, path: &Path, wanted: u32) -> Option<TooWide> {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    // Group access may be intended.
    (mode & !wanted & 0o007 != 0).then(|| TooWide {
        what,
        path: path.to_owned(),
        mode,
        wanted,
    })
}

#[cfg(not(unix))]
fn too_wide(_: &'static str, _: &Path, _: u32) -> Option<TooWide> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_other_users_are_too_many() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = |mode, wanted| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            too_wide("file", file.path(), wanted).map(|found| found.to_string())
        };
        assert_eq!(found(0o644, 0o644), None);
        assert_eq!(found(0o640, 0o600), None);
        assert!(found(0o644, 0o600).unwrap().contains("can read the file"));
        assert!(found(0o666, 0o644).unwrap().contains("can change the file"));
    }
}
