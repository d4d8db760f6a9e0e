//! Files of a ledger that another program removed, emptied or protected.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::folder_owner::as_owner_of_folder;

/// Returns a folder that other users can enter, and the path of a ledger with a batch of events that a daemon used.
async fn used() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("alice").join("ledger.db");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let ledger = SqliteLedger::open_locked(&path, "alice").unwrap();
    ledger.insert_verified(batch(1)).await.unwrap();
    (folder, path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    path.with_extension(format!("db{suffix}"))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Permissions do not stop root. It gives the files to another user, as whom it opens a ledger.
fn give_away(path: &Path) {
    let folder = path.parent().unwrap();
    if fs::metadata(folder).unwrap().uid() == 0 {
        let inside = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        for path in inside.chain([folder.to_owned()]) {
            lchown(path, Some(65_534), Some(65_534)).unwrap();
        }
    }
}

/// Opens a ledger read-only, as the owner of its folder.
fn look(path: &Path) -> Result<SqliteLedger, LedgerError> {
    as_owner_of_folder(path, || SqliteLedger::open_to_read(path)).unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_second_daemon_is_refused_although_the_lock_file_was_removed() {
    let (_folder, path) = used().await;
    let ledger = SqliteLedger::open_locked(&path, "alice").unwrap();
    let copy = path.with_file_name("copy.db");
    ledger.backup(&copy).await.unwrap();
    fs::remove_file(beside(&path, ".lock")).unwrap();
    for _ in 0..2 {
        let second = SqliteLedger::open_locked(&path, "bob").map(drop);
        assert!(matches!(second, Err(LedgerError::Locked { .. })), "{second:?}");
        let restored = SqliteLedger::restore(&copy, &path).map(drop);
        assert!(
            matches!(restored, Err(LedgerError::Locked { .. })),
            "{restored:?}"
        );
    }
    // Commands still work beside it.
    let command = SqliteLedger::open(&path).unwrap();
    command.insert_verified(batch(1_000)).await.unwrap();
    assert_eq!(ledger.count().await.unwrap(), 2 * BATCH);
    drop((command, ledger));
    drop(SqliteLedger::open_locked(&path, "alice").unwrap());
    SqliteLedger::restore(&copy, &path).unwrap();
}

#[tokio::test]
async fn an_emptied_ledger_is_refused_and_the_leftover_of_a_first_start_is_not() {
    let (_folder, path) = used().await;
    fs::write(&path, "").unwrap();
    for opened in [
        SqliteLedger::open(&path),
        SqliteLedger::open_locked(&path, "alice"),
        SqliteLedger::open_to_read(&path),
    ] {
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    let first = path.with_file_name("first.db");
    fs::write(&first, "").unwrap();
    drop(SqliteLedger::open_locked(&first, "alice").unwrap());
}

#[tokio::test]
async fn a_ledger_that_was_read_while_it_was_protected_is_used_again_afterwards() {
    let (_folder, path) = used().await;
    set_mode(&path, 0o400);
    give_away(&path);
    assert_eq!(look(&path).unwrap().count().await.unwrap(), BATCH);
    let protected = SqliteLedger::open(&path).map(drop);
    assert!(
        matches!(protected, Err(LedgerError::ReadOnly(_))),
        "{protected:?}"
    );
    set_mode(&path, 0o600);
    let ledger = SqliteLedger::open_locked(&path, "alice").unwrap();
    ledger.insert_verified(batch(1_000)).await.unwrap();
}

#[tokio::test]
async fn a_ledger_in_a_protected_folder_is_read_and_backed_up() {
    let (folder, path) = used().await;
    give_away(&path);
    set_mode(path.parent().unwrap(), 0o500);
    let copy = folder.path().join("copies").join("copy.db");
    fs::create_dir(copy.parent().unwrap()).unwrap();
    let ledger = look(&path).unwrap();
    assert_eq!(ledger.count().await.unwrap(), BATCH);
    assert!(ledger.check().await.unwrap().damage.is_empty());
    assert_eq!(ledger.backup(&copy).await.unwrap().events, BATCH);
    drop(ledger);
    set_mode(path.parent().unwrap(), 0o700);
}
