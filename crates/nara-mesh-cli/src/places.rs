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

/// A folder that systemd made for this service, such as `STATE_DIRECTORY`: the first of the variable `name`.
pub(crate) fn service_folder(name: &str) -> Option<PathBuf> {
    let folders = variable(name)?;
    std::env::split_paths(&folders).find(|folder| folder.is_absolute())
}

/// The folder for the files of a service or of the user, if there is one.
pub(crate) fn config_folder() -> Option<PathBuf> {
    service_folder("CONFIGURATION_DIRECTORY").or_else(|| home_folder("XDG_CONFIG_HOME", ".config"))
}

/// A file or folder of the user that exists.
pub(crate) fn existing_default(file: &str) -> Option<PathBuf> {
    let path = config_folder()?.join(file);
    path.exists().then_some(path)
}
