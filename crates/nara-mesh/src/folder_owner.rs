//! Root acts in the data folder of a service as the user of that service, who could plant links there.

use std::io;
use std::path::Path;

/// Runs `work`, which makes files beside `file`, such as a database with its log: if root runs it in the folder of another
/// user, then as that user, on Linux. The files belong to that user then, and a link in that folder leads to nothing that only
/// root may change.
///
/// # Errors
/// Root may not act as that user, or the system gives no thread.
#[cfg(target_os = "linux")]
pub fn as_owner_of_folder<T: Send>(file: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    use std::os::unix::fs::MetadataExt as _;

    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let owner = match std::fs::metadata(folder) {
        Ok(owner) if rustix::process::geteuid().is_root() && owner.uid() != 0 => owner,
        // A folder that is missing is reported by `work`.
        _ => return Ok(work()),
    };
    // Linux keeps users by thread. The rest of the process stays root: it may have a soul to read. The thread knows no runtime,
    // whose threads would keep the user.
    std::thread::scope(|scope| {
        let working = std::thread::Builder::new().spawn_scoped(scope, || {
            become_user(owner.uid(), owner.gid()).map_err(|error| {
                let (shown, uid) = (folder.display(), owner.uid());
                let text =
                    format!("{shown} belongs to user {uid}, and root may not act as that user: {error}");
                io::Error::new(error.kind(), text)
            })?;
            Ok(work())
        })?;
        working
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `work`: here threads have no users of their own.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn as_owner_of_folder<T: Send>(_: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    Ok(work())
}

/// Takes user and group, for good, in this thread alone.
#[cfg(target_os = "linux")]
fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    use rustix::io::Errno;
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let becoming = set_thread_res_gid(gid, gid, gid)
        .and_then(|()| set_thread_groups(&[]))
        .and_then(|()| set_thread_res_uid(uid, uid, uid));
    match becoming {
        // This user namespace has no such user, so its root is another user's process and has no more rights than that.
        Err(Errno::INVAL) => Ok(()),
        outcome => Ok(outcome?),
    }
}
