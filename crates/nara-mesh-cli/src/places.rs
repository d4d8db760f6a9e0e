//! Locates the files of a user or of a service.

use std::ffi::OsString;
use std::path::PathBuf;

/// Returns an environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns the path of a systemd credential of this service.
pub(crate) fn credential(name: &str) -> Option<PathBuf> {
    let file = PathBuf::from(variable("CREDENTIALS_DIRECTORY")?).join(name);
    file.is_file().then_some(file)
}

/// Returns the folder of this program below a user folder: the one in the variable `name`, else one below the
/// home folder.
pub(crate) fn home_folder(name: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG base directory specification requires relative paths to be ignored.
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(name)
        .or_else(|| Some(absolute("HOME")?.join(below_home)))
        .map(|folder| folder.join("nara-mesh"))
}

/// Returns a folder that systemd created for this service, such as `STATE_DIRECTORY`: the first one in the
/// variable.
pub(crate) fn service_folder(name: &str) -> Option<PathBuf> {
    let folders = variable(name)?;
    std::env::split_paths(&folders).find(|folder| folder.is_absolute())
}

/// Returns the configuration folder of the service or of the user.
pub(crate) fn config_folder() -> Option<PathBuf> {
    service_folder("CONFIGURATION_DIRECTORY").or_else(|| home_folder("XDG_CONFIG_HOME", ".config"))
}

/// Returns an existing default file or folder in the configuration folder.
pub(crate) fn existing_default(file: &str) -> Option<PathBuf> {
    let path = config_folder()?.join(file);
    path.exists().then_some(path)
}
