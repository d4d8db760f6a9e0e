use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use nara_proto::event::{EventTrust, Payload, SeenPayload, SocialPayload};
use rusqlite::Connection;

use super::*;
use crate::ledger::checked::without_trust;

mod convert;
#[cfg(unix)]
mod files;
mod operations;

const ADDS_EVENTS: &str = "NARA_TEST_LEDGER_THAT_IS_KILLED";
const BATCH: usize = 20;

fn batch(first: i64) -> Vec<SyncEvent> {
    (0..BATCH as i64)
        .map(|n| {
            let payload = SeenPayload {
                observer: "alice".to_owned(),
                subject: "bob".to_owned(),
                via: "mesh".to_owned(),
                ..SeenPayload::default()
            };
            SyncEvent::new(UnixNanos::new(first + n), Payload::Seen(payload))
        })
        .collect()
}

/// Starts one test of this program in a child process, with a variable that makes it the process to be killed.
fn start_test(name: &str, variable: &str, path: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(variable, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The process that the test below kills half-way.
#[tokio::test]
async fn child_that_is_killed() {
    let Some(path) = std::env::var_os(ADDS_EVENTS) else {
        return;
    };
    let ledger = SqliteLedger::open(path)
        .unwrap()
        .with_retention(RetentionPolicy::UNLIMITED);
    for round in 0.. {
        ledger.insert_verified(batch(1 + round * 1_000)).await.unwrap();
        println!("stored {}", ledger.count().await.unwrap());
    }
}

#[tokio::test]
async fn a_killed_process_leaves_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    for round in 1..=3 {
        let (mut child, lines) =
            start_test("ledger::sqlite::tests::child_that_is_killed", ADDS_EVENTS, &path);
        let stored = lines
            .map(Result::unwrap)
            .filter(|line| line.contains("stored"))
            .nth(round * 5)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let told: usize = stored.rsplit(' ').next().unwrap().parse().unwrap();
        let ledger = SqliteLedger::open(&path).unwrap();
        let count = ledger.count().await.unwrap();
        assert!(count >= told, "{count} stored of {told} that were reported");
        assert_eq!(count % BATCH, 0);
        let page = ledger
            .page(
                EventFilter::default(),
                Cursor::START,
                ReadLimit::events(usize::MAX),
            )
            .await;
        assert_eq!(page.unwrap().len(), count);
        drop(ledger);
        let connection = Connection::open(&path).unwrap();
        let check: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        // The next child begins with other events.
        connection.execute("DELETE FROM events", []).unwrap();
    }
}

#[tokio::test]
async fn what_is_stored_is_there_when_the_file_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let events = batch(-5);
    let cursor = Cursor::behind(&events[0]);
    {
        let ledger = SqliteLedger::open(&path).unwrap();
        ledger.insert_verified(events.clone()).await.unwrap();
        ledger
            .store_cursor("bob".to_owned(), cursor.clone())
            .await
            .unwrap();
    }
    let ledger = SqliteLedger::open(&path).unwrap();
    let page = ledger
        .page(EventFilter::default(), Cursor::START, ReadLimit::events(100))
        .await;
    assert_eq!(without_trust(page.unwrap()), events);
    assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap(), Some(cursor));
    assert_eq!(ledger.count().await.unwrap(), BATCH);
}

#[tokio::test]
async fn nothing_is_stored_if_one_event_cannot_be() {
    let ledger = SqliteLedger::open_in_memory().unwrap();
    let writes = ledger.pool.write(|transaction| {
        transaction.execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.ts = 10
             BEGIN SELECT raise(ABORT, 'disk full'); END",
        )?;
        Ok(())
    });
    writes.await.unwrap();
    let error = ledger.insert_verified(batch(1)).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("disk full"), "{error}: {cause}");
    assert_eq!(ledger.count().await.unwrap(), 0);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(SqliteLedger::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    for _ in 0..2 {
        let error = SqliteLedger::open(&path).unwrap_err();
        assert!(
            matches!(error, LedgerError::NewerSchema { found: 99, known: 6 }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_ledger_of_the_first_version_opens_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let key = nara_proto::identity::KeyPair::from_soul(&nara_proto::identity::Soul::bond([7; 32], "bob"));
    schema::make_version_1(&path, &key.public_key().to_base64());
    for _ in 0..2 {
        let peers = SqliteLedger::open(&path).unwrap().peers().await.unwrap();
        assert_eq!(peers.len(), 1);
        assert!(peers[0].protocol.is_empty() && peers[0].decision.is_none());
        let pinned = peers[0].key.as_ref().unwrap();
        assert_eq!(pinned.key, key.public_key());
        assert_eq!(pinned.source.to_string(), "ping 100.64.0.7:9632");
        assert_eq!(pinned.learned_at.get(), 5);
    }
}

/// Stores an event as versions 1 and 2 of the schema did.
fn store_as_version_2(connection: &Connection, event: &SyncEvent, priority: u8, stranger: bool, seq: i64) {
    connection
        .execute(
            "INSERT INTO events (id, ts, svc, emitter, actor, target, importance, critical, priority, stranger, \
             json, origin, seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?8, ?9, 'carol', ?10)",
            (
                &event.id,
                event.ts.get(),
                &event.svc,
                &event.emitter,
                event.actor(),
                event.target(),
                priority,
                stranger,
                nara_proto::go_json::to_string(event),
                seq,
            ),
        )
        .unwrap();
    connection
        .execute("UPDATE totals SET n = n + 1 WHERE priority = ?1", [priority])
        .unwrap();
    connection
        .execute("UPDATE feed SET position = ?1", [seq])
        .unwrap();
}

#[tokio::test]
async fn a_ledger_of_the_second_version_loses_nothing_and_what_is_not_signed_counts_as_unverified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let mut events = batch(1);
    for event in &mut events[..10] {
        event.emitter = "alice".to_owned();
        event.sig = "c2ln".to_owned();
    }
    let connection = schema::make_version(&path, 2);
    for (event, seq) in events.iter().zip(1..) {
        store_as_version_2(&connection, event, 1, seq % 2 == 0, seq);
    }
    connection
        .execute("INSERT INTO cursors VALUES ('bob', 7, 'x')", [])
        .unwrap();
    drop(connection);

    for _ in 0..2 {
        let ledger = SqliteLedger::open(&path).unwrap();
        assert_eq!(ledger.count().await.unwrap(), BATCH);
        let everything = ReadLimit::events(usize::MAX);
        let page = ledger.page(EventFilter::default(), Cursor::START, everything);
        assert_eq!(without_trust(page.await.unwrap()), events);
        let arrived = ledger
            .arrived_after(EventFilter::default(), 0, everything)
            .await
            .unwrap();
        let verified = arrived
            .events
            .iter()
            .filter(|arrival| arrival.trust == EventTrust::Verified);
        assert_eq!(verified.count(), 10);
        assert_eq!(ledger.items(Scope::all()).await.unwrap().len(), 10);
        assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap().unwrap().id(), "x");
    }
    // Unverified events expire, the rest stays.
    let clock = crate::clock::ManualClock::new(SystemClock.now_nanos());
    clock.advance(std::time::Duration::from_secs(25 * 60 * 60));
    let ledger = SqliteLedger::open(&path).unwrap().with_clock(Arc::new(clock));
    ledger.insert_verified(vec![]).await.unwrap();
    assert_eq!(ledger.count().await.unwrap(), 10);
}

#[test]
fn a_database_of_another_program_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE accounts (owner TEXT)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteLedger::open(&path).unwrap_err();
    assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("ledger.db");
    let error = SqliteLedger::open(&path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn several_programs_may_open_a_new_ledger_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(SqliteLedger::open(&path).unwrap()));
        }
    });
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
    ledger.insert_verified(batch(1)).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.path().display());
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log and the index of the log");
}

#[tokio::test]
async fn a_damaged_event_is_named() {
    let ledger = SqliteLedger::open_in_memory().unwrap();
    let events = batch(1);
    ledger.insert_verified(events.clone()).await.unwrap();
    let damage = ledger.pool.write(|transaction| {
        transaction.execute("UPDATE events SET json = '{' WHERE ts = 3", [])?;
        Ok(())
    });
    damage.await.unwrap();
    let error = ledger
        .recent(EventFilter::default(), ReadLimit::events(100))
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&events[2].id), "{error}");
}

#[tokio::test]
async fn a_damaged_peer_is_named() {
    let ledger = SqliteLedger::open_in_memory().unwrap();
    let damage = ledger.pool.write(|transaction| {
        transaction.execute("INSERT INTO peers (name, key) VALUES ('bob', '?')", [])?;
        Ok(())
    });
    damage.await.unwrap();
    let error = ledger.peers().await.unwrap_err();
    assert!(error.to_string().contains("bob"), "{error}");
}

#[tokio::test]
async fn readers_do_not_wait_for_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(SqliteLedger::open(folder.path().join("ledger.db")).unwrap());
    ledger.insert_verified(batch(1)).await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let writer = ledger.clone();
    let write = tokio::spawn(async move {
        let deletion = writer.pool.write(move |transaction| {
            transaction.execute("DELETE FROM events", [])?;
            begun.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        });
        deletion.await
    });
    has_begun.await.unwrap();
    // The write is in progress: the read sees the previous state.
    assert_eq!(ledger.count().await.unwrap(), BATCH);
    assert_eq!(
        ledger
            .recent(EventFilter::default(), ReadLimit::events(3))
            .await
            .unwrap()
            .len(),
        3
    );
    release.send(()).unwrap();
    write.await.unwrap().unwrap();
    assert_eq!(ledger.count().await.unwrap(), 0);
}

/// Something else holds the writer until both insertions wait for it, so the order does not depend on time.
#[tokio::test]
async fn an_insertion_of_many_events_lets_others_have_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(folder.path().join("ledger.db"))
        .unwrap()
        .with_retention(RetentionPolicy::UNLIMITED);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let held = ledger.pool.write(move |_| {
        released.recv().unwrap();
        Ok(())
    });
    let rounds = 0..=2 * TURN / BATCH;
    let many: Vec<_> = rounds.flat_map(|round| batch(1 + 1_000 * round as i64)).collect();
    let (count, one) = (many.len(), vec![batch(-5).remove(0)]);
    let waiting = async {
        tokio::task::yield_now().await;
        assert!(ledger.pool.waiting()());
        release.send(()).unwrap();
    };
    let (_, stored, alone, ()) = tokio::join!(
        held,
        ledger.insert_verified(many),
        ledger.insert_verified(one),
        waiting
    );
    alone.unwrap();
    assert_eq!(stored.unwrap(), vec![Insertion::Stored; count]);
    let arrived = ledger.arrived_after(EventFilter::default(), 0, ReadLimit::events(usize::MAX));
    let arrived = arrived.await.unwrap().events;
    assert_eq!(arrived.len(), count + 1);
    let place = arrived.iter().position(|arrival| arrival.event.ts.get() == -5);
    assert_eq!(place, Some(TURN));
}

#[tokio::test]
async fn a_reader_that_panics_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
    for _ in 0..20 {
        let panicking = ledger.pool.read::<()>(|_| panic!("this is part of the test"));
        assert!(matches!(panicking.await, Err(LedgerError::Closed)));
    }
    assert_eq!(ledger.count().await.unwrap(), 0);
}

/// Returns the steps of a statement as SQLite plans it.
fn plan(connection: &Connection, statement: &str) -> Vec<String> {
    let mut explained = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
        .unwrap();
    let steps = explained.raw_query().mapped(|row| row.get(3));
    steps.collect::<Result<_, _>>().unwrap()
}

#[test]
fn no_statement_reads_the_whole_table_or_sorts_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    drop(SqliteLedger::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();

    let both = |of: sql::BothWays| [of.oldest_first, of.newest_first, of.alone];
    let ordered = [
        sql::EVENTS_BY_TIME,
        sql::BY_TIME,
        sql::BY_SERVICE,
        sql::BY_ACTOR,
        sql::BY_TARGET,
        sql::WALK,
    ]
    .into_iter()
    .flat_map(both)
    .chain([
        sql::CHECKPOINTS,
        sql::PINGS,
        sql::OLDEST_OBSERVATION,
        sql::LADDER,
        sql::FIRST_UNVERIFIED,
        sql::FIRST_UNVERIFIED_TOLD_BY,
        sql::FIRST_UNVERIFIED_OF,
        sql::UNVERIFIED_OF,
        sql::UNVERIFIED_BEFORE,
        sql::NEXT_SERVICE,
        sql::AT_TIME,
    ]);
    for statement in ordered {
        let plan = plan(&connection, statement);
        assert!(
            plan.iter().all(|step| step.contains(" INDEX events_")),
            "{statement}: {plan:?}"
        );
    }
    let others = [
        sql::SINCE,
        sql::LOAD,
        sql::FIND,
        sql::VOTERS,
        sql::ADD,
        sql::TIE,
        sql::LOAD_BY_ID,
        sql::ARRIVED,
        sql::REMOVE,
        sql::RERANK,
        sql::ACCOUNT,
        sql::STORE_ACCOUNT,
        sql::REMOVE_ACCOUNT,
        sql::COUNT_OBSERVATIONS,
        sql::HAS_CHECKPOINT,
        sql::CURSOR,
        sql::STORE_CURSOR,
        sql::STORE_PEER,
        sql::PEER,
    ];
    for statement in others {
        let plan = plan(&connection, statement);
        assert!(
            !plan.iter().any(|step| ["events", "cursors", "peers"]
                .iter()
                .any(|table| step.starts_with(&format!("SCAN {table}")))),
            "{statement}: {plan:?}"
        );
    }
    // The sample and the inventory read the whole table, which shows that this test would notice.
    assert_eq!(plan(&connection, sql::WEIGH), ["SCAN events"]);
    assert_eq!(plan(&connection, sql::ITEMS), ["SCAN events"]);
}
