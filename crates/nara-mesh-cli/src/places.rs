//! Where the files of a user or of a service are.

use std::ffi::OsString;
use std::path::PathBuf;

/// An environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A credential that systemd passes to this service.
pub(crate) fn credential(name: &str) -> Option<PathBuf> {
    let file = PathBuf::from(variable("CREDENTIALS_DIRECTORY")?).join(name);
    file.is_file().then_some(file)
}

/// The folder of this program in a folder of the user: the one in the variable `name`, else one below the home folder.
pub(crate) fn home_folder(name: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG base directory specification has relative paths ignored.
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(name)
        .or_else(|| Some(absolute("HOME")?.join(below_home)))
        .map(|folder| folder.join("nara-mesh"))
}

/// The folder for the files of the user, if there is a home.
pub(crate) fn config_folder() -> Option<PathBuf> {
    let of_service = || {
        let folder = PathBuf::from(variable("CONFIGURATION_DIRECTORY")?);
        folder.is_absolute().then_some(folder)
    };
    home_folder("XDG_CONFIG_HOME", ".config").or_else(of_service)
}

/// A file or folder of the user that exists.
pub(crate) fn existing_default(file: &str) -> Option<PathBuf> {
    let path = config_folder()?.join(file);
    path.exists().then_some(path)
}
