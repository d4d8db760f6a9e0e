//! Operations on ledgers: locking, backup, restore, check.

use std::fs;
use std::path::PathBuf;

use nara_proto::stream::LedgerEpoch;
use tempfile::TempDir;

use super::*;
use crate::peer::{KeySource, PinnedKey};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    (folder, path)
}

fn daemon(path: &Path) -> SqliteLedger {
    SqliteLedger::open_locked(path, "alice").unwrap()
}

fn epoch(ledger: &SqliteLedger) -> LedgerEpoch {
    ledger.feed().epoch()
}

async fn times(ledger: &SqliteLedger) -> Vec<i64> {
    let page = ledger.page(
        EventFilter::default(),
        Cursor::START,
        ReadLimit::events(usize::MAX),
    );
    let page = page.await.unwrap();
    page.iter().map(|checked| checked.event.ts.get()).collect()
}

fn bob() -> PeerRecord {
    let soul = nara_proto::identity::Soul::bond([7; 32], "bob");
    let name: NaraName = "bob".parse().unwrap();
    PeerRecord {
        key: Some(PinnedKey {
            name: name.clone(),
            id: None,
            key: nara_proto::identity::KeyPair::from_soul(&soul).public_key(),
            source: KeySource::HeyThere { told_by: None },
            learned_at: nara_proto::time::UnixMillis::new(5),
        }),
        seen: true,
        ..PeerRecord::new(name)
    }
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_told_by_whom_and_commands_work_beside() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    let refused = SqliteLedger::open_locked(&path, "bob").unwrap_err();
    let expected = format!("alice (process {})", std::process::id());
    assert!(
        matches!(&refused, LedgerError::Locked { holder: Some(holder), .. } if *holder == expected),
        "{refused}"
    );
    assert!(matches!(
        SqliteLedger::restore(&path, &path),
        Err(LedgerError::Locked { .. })
    ));

    let command = SqliteLedger::open(&path).unwrap();
    command.learn_peers(vec![bob()]).await.unwrap();
    let reader = SqliteLedger::open_to_read(&path).unwrap();
    assert_eq!(reader.count().await.unwrap(), BATCH);
    assert_eq!(reader.peers().await.unwrap(), [bob()]);
    let error = reader.insert_verified(batch(1_000)).await.unwrap_err();
    assert!(matches!(error, LedgerError::ReadOnly(_)), "{error}");
    drop((command, reader, ledger));
    drop(daemon(&path));
}

#[tokio::test]
async fn a_backup_of_a_running_ledger_is_restored_with_keys_and_cursors_and_another_epoch() {
    let (folder, path) = folder();
    let copy = folder.path().join("backup.db");
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    ledger.learn_peers(vec![bob()]).await.unwrap();
    let cursor = Cursor::new(UnixNanos::new(7), "x");
    ledger
        .store_cursor("bob".to_owned(), cursor.clone())
        .await
        .unwrap();
    let copied = ledger.backup(&copy).await.unwrap();
    assert_eq!((copied.events, copied.peers), (BATCH, 1));
    assert_eq!(copied.file_bytes, fs::metadata(&copy).unwrap().len());
    let again = ledger.backup(&copy).await.unwrap_err();
    assert!(
        matches!(again, LedgerError::File { .. }),
        "a backup is not overwritten: {again}"
    );
    ledger.insert_verified(batch(1_000)).await.unwrap();
    let before = epoch(&ledger);
    // As after a kill: its log is still there.
    drop(ledger);
    fs::write(path.with_extension("db-wal"), b"not the log of the backup").unwrap();

    let restored = SqliteLedger::restore(&copy, &path).unwrap();
    assert_eq!((restored.events, restored.peers), (BATCH, 1));
    let ledger = daemon(&path);
    assert_ne!(epoch(&ledger), before);
    assert_eq!(times(&ledger).await, (1..=BATCH as i64).collect::<Vec<_>>());
    assert_eq!(ledger.peers().await.unwrap(), [bob()]);
    assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap(), Some(cursor));
    assert!(ledger.check().await.unwrap().damage.is_empty());
    #[cfg(unix)]
    for path in [&path, &copy] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_ledger_keeps_its_epoch_and_a_copy_gets_another() {
    let (folder, path) = folder();
    let first = epoch(&daemon(&path));
    for _ in 0..2 {
        assert_eq!(epoch(&daemon(&path)), first);
    }
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let copied = epoch(&daemon(&copy));
    assert_ne!(copied, first);
    assert_eq!(epoch(&daemon(&copy)), copied);
    assert_eq!(epoch(&daemon(&path)), first);
}

/// A file from before the last restart is restored by hand, and other events reuse the positions of the lost
/// ones.
#[tokio::test]
async fn followers_of_a_ledger_that_was_put_back_begin_anew_and_miss_nothing() {
    let (folder, path) = folder();
    let saved = folder.path().join("saved.db");
    drop(daemon(&path));
    fs::copy(&path, &saved).unwrap();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    let read = ledger.position().await.unwrap();
    let before = epoch(&ledger);
    drop(ledger);

    fs::copy(&saved, &path).unwrap();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1_000)).await.unwrap();
    assert_ne!(
        epoch(&ledger),
        before,
        "else a follower would resume behind {read}"
    );
    let everything = ledger.arrived_after(EventFilter::default(), 0, ReadLimit::events(usize::MAX));
    assert_eq!(everything.await.unwrap().events.len(), BATCH);
}

#[tokio::test]
async fn damage_is_noticed_at_the_start() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    for n in 0..20 {
        ledger.insert_verified(batch(n * 100)).await.unwrap();
    }
    drop(ledger);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let error = SqliteLedger::open_locked(&path, "alice").unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
    // It is not accepted as a backup either.
    let sound = path.with_file_name("sound.db");
    let ledger = daemon(&sound);
    ledger.insert_verified(batch(1)).await.unwrap();
    drop(ledger);
    SqliteLedger::restore(&path, &sound).unwrap_err();
    assert_eq!(daemon(&sound).count().await.unwrap(), BATCH);
    // Not a database at all.
    fs::write(&path, b"a text file that ended up here by mistake").unwrap();
    assert!(SqliteLedger::open_locked(&path, "alice").is_err());
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    let limit = |pages: i64| {
        ledger.pool.write(move |transaction| {
            transaction.pragma_update(None, "max_page_count", pages)?;
            Ok(())
        })
    };
    limit(1).await.unwrap();
    let many = (1..200).flat_map(|n| batch(n * 1_000)).collect();
    let error = ledger.insert_verified(many).await.unwrap_err();
    assert!(matches!(error, LedgerError::Full(_)), "{error}");
    assert_eq!(ledger.count().await.unwrap(), BATCH);
    limit(1_000_000).await.unwrap();
    ledger.insert_verified(batch(1_000)).await.unwrap();
    assert_eq!(ledger.count().await.unwrap(), 2 * BATCH);
    assert!(ledger.check().await.unwrap().damage.is_empty());
}

#[tokio::test]
async fn a_ledger_is_read_where_nothing_can_be_written() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    drop(ledger);
    // The shared-memory file of the log cannot be created, not even by root.
    let index = path.with_extension("db-shm");
    fs::create_dir(&index).unwrap();
    let reader = SqliteLedger::open_to_read(&path).unwrap();
    assert_eq!(reader.count().await.unwrap(), BATCH);
    let copied = reader.backup(path.with_file_name("copy.db")).await.unwrap();
    assert_eq!(copied.events, BATCH);
    fs::remove_dir(index).unwrap();
    let missing = SqliteLedger::open_to_read(path.with_file_name("missing.db")).unwrap_err();
    assert!(matches!(missing, LedgerError::File { .. }), "{missing}");
    let old = path.with_file_name("old.db");
    drop(schema::make_version(&old, 2));
    let error = SqliteLedger::open_to_read(&old).unwrap_err();
    assert!(
        matches!(error, LedgerError::OlderSchema { found: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_check_counts_services_and_tellers() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    ledger.insert_verified(batch(1)).await.unwrap();
    let told = batch(1_000).into_iter().map(|mut event| {
        event.sig = "c2ln".to_owned();
        CheckedEvent::new(event, EventTrust::UnknownKey)
    });
    ledger
        .insert(told.take(3).collect(), Some("bob".parse().unwrap()))
        .await
        .unwrap();
    let check = ledger.check().await.unwrap();
    assert!(check.damage.is_empty());
    assert_eq!((check.events.events, check.unverified.events), (BATCH + 3, 3));
    assert_eq!(check.services.len(), 1);
    assert_eq!(
        (check.services[0].0.as_str(), check.services[0].1),
        ("seen", check.events)
    );
    let tellers: Vec<_> = check
        .tellers
        .iter()
        .map(|(name, size)| (name.as_str(), size.events))
        .collect();
    assert_eq!(tellers, [("", BATCH), ("bob", 3)]);
    assert!(check.file_bytes > check.events.bytes as u64);
}

/// Runs on a runtime with a single blocking thread, which the checkpoint gets before the next commit, however busy the machine is.
#[test]
fn the_log_is_moved_into_the_database_beside_the_writer() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).build().unwrap();
    let (_folder, path) = folder();
    let stored = runtime.block_on(async {
        let ledger = SqliteLedger::open(&path)
            .unwrap()
            .with_retention(RetentionPolicy::UNLIMITED);
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        let before = size(&path);
        let mut round = 0;
        // Only a checkpoint writes to the database file, and the writer runs one at 64 MB.
        while size(&path) == before {
            ledger.insert_verified(batch(1 + round * 1_000)).await.unwrap();
            assert!(
                size(&path.with_extension("db-wal")) < 32 << 20,
                "no checkpoint ran"
            );
            round += 1;
        }
        ledger.count().await.unwrap()
    });
    let ledger = SqliteLedger::open(&path).unwrap();
    assert_eq!(runtime.block_on(ledger.count()).unwrap(), stored);
}

#[tokio::test]
async fn an_event_that_was_changed_in_the_file_is_damage() {
    let (_folder, path) = folder();
    let ledger = daemon(&path);
    let mut events = batch(1);
    events.push(SyncEvent::new(
        UnixNanos::new(7_000),
        Payload::Social(SocialPayload {
            reason: "three".to_owned(),
            ..SocialPayload::default()
        }),
    ));
    ledger.insert_verified(events.clone()).await.unwrap();
    assert_eq!(ledger.check().await.unwrap().damage, Vec::<String>::new());
    let stranger = Connection::open(&path).unwrap();
    let changed = stranger.execute("UPDATE events SET json = replace(json, 'three', 'forge')", []);
    assert_eq!(changed.unwrap(), events.len());
    stranger
        .execute("UPDATE events SET json = '{' WHERE ts = 3", [])
        .unwrap();
    let damage = ledger.check().await.unwrap().damage;
    assert_eq!(damage.len(), 2, "{damage:?}");
    for event in [&events[2], &events[events.len() - 1]] {
        assert!(damage.iter().any(|found| found.contains(&event.id)), "{damage:?}");
    }
}

#[tokio::test]
async fn what_somebody_added_to_the_schema_is_told_and_does_not_run() {
    for (kind, statement) in [
        (
            "trigger",
            "CREATE TRIGGER \"o\n\" AFTER INSERT ON events BEGIN DELETE FROM events WHERE seq < new.seq; END",
        ),
        ("view", "CREATE VIEW \"o\n\" AS SELECT 1"),
        (
            "trigger",
            "DROP TRIGGER events_removed; CREATE TRIGGER events_removed AFTER DELETE ON events BEGIN SELECT 1; END",
        ),
    ] {
        let (folder, path) = folder();
        let copy = folder.path().join("copy.db");
        drop(daemon(&path));
        let stranger = Connection::open(&path).unwrap();
        stranger.execute_batch(statement).unwrap();
        drop(stranger);
        fs::copy(&path, &copy).unwrap();
        let check = SqliteLedger::open_to_read(&path).unwrap().check().await.unwrap();
        assert!(check.damage[0].contains(kind), "{:?}", check.damage);
        assert!(!check.damage.iter().any(|found| found.contains('\n')));
        for refused in [
            SqliteLedger::open(&path).map(drop),
            SqliteLedger::open_locked(&path, "alice").map(drop),
        ] {
            assert!(matches!(refused, Err(LedgerError::Altered { .. })), "{refused:?}");
        }
        let restored = SqliteLedger::restore(&copy, folder.path().join("new.db"));
        assert!(
            matches!(restored, Err(LedgerError::Altered { .. })),
            "{restored:?}"
        );
    }
    // An index added by the operator is harmless: it is reported, and used.
    let (_folder, path) = folder();
    drop(daemon(&path));
    let stranger = Connection::open(&path).unwrap();
    stranger
        .execute_batch("CREATE INDEX mine ON events (bytes)")
        .unwrap();
    drop(stranger);
    assert_eq!(daemon(&path).check().await.unwrap().damage.len(), 1);
}
