//! Root acts in the data folder of a service as the service's user, because that user could plant links there.

use std::io;
use std::path::Path;

/// Runs `work`, which creates files beside `file`, such as a database with its log. On Linux, if root runs it in the
/// folder of another user, it runs as that user. So the files belong to that user, and a link in that folder cannot
/// lead to a file that only root may change.
///
/// # Errors
/// If root may not act as that user, or no thread can be created.
#[cfg(target_os = "linux")]
pub fn as_owner_of_folder<T: Send>(file: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    use std::os::unix::fs::MetadataExt as _;

    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let owner = match std::fs::metadata(folder) {
        Ok(owner) if rustix::process::geteuid().is_root() && owner.uid() != 0 => owner,
        // `work` reports a missing folder.
        _ => return Ok(work()),
    };
    // On Linux, user ids are per thread. The rest of the process stays root: it may have a soul to read. The thread is
    // not part of the runtime, whose threads would keep the user id.
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

/// Runs `work`: on this system, user ids are not per thread.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn as_owner_of_folder<T: Send>(_: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    Ok(work())
}

/// Sets user and group of this thread, permanently.
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
        // This user namespace has no such user: its root is another user's process and has no more rights than that
        // user.
        Err(Errno::INVAL) => Ok(()),
        outcome => Ok(outcome?),
    }
}
