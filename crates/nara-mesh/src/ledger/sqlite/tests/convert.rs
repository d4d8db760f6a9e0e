//! Conversion of ledgers from version 4 of the schema.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;

use nara_proto::event::{Payload, SocialPayload};
use nara_proto::go_json;

use super::*;
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::sqlite::convert::Converted;

const CONVERTS: &str = "NARA_TEST_CONVERSION_THAT_IS_KILLED";

/// Enough events for several progress callbacks.
const MANY: i64 = 10_500;

/// An event in the spelling of version 4.
struct Old {
    event: SyncEvent,
    rank: Rank,
    account: Option<&'static str>,
    origin: Option<&'static str>,
}

/// Creates a ledger of version 4 with these events.
fn make(path: &Path, events: &[Old]) {
    let connection = schema::make_version(path, 4);
    connection.execute_batch("BEGIN").unwrap();
    let mut add = connection
        .prepare(
            "INSERT INTO events (seq, id, ts, svc, emitter, actor, target, importance, critical, priority, json, origin, \
             rank, account, received) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 2, ?8, ?9, ?10, ?11, ?12)",
        )
        .unwrap();
    for (
        Old {
            event,
            rank,
            account,
            origin,
        },
        seq,
    ) in events.iter().zip(1_i64..)
    {
        add.execute((
            seq,
            &event.id,
            event.ts.get(),
            &event.svc,
            &event.emitter,
            event.actor(),
            event.target(),
            go_json::to_string(event),
            origin,
            rank.0,
            account,
            (!rank.is_verified()).then_some(i64::MAX),
        ))
        .unwrap();
    }
    drop(add);
    connection
        .execute_batch(
            "UPDATE totals SET n = (SELECT count(*) FROM events WHERE events.rank = totals.rank),
                 bytes = (SELECT coalesce(sum(octet_length(json)), 0) FROM events WHERE events.rank = totals.rank);
             INSERT INTO accounts SELECT 0, account, count(*), sum(octet_length(json)) FROM events
                 WHERE account IS NOT NULL GROUP BY account;
             INSERT INTO accounts SELECT 1, coalesce(origin, ''), count(*), sum(octet_length(json)) FROM events
                 WHERE rank < 2 GROUP BY 2;
             INSERT INTO accounts SELECT 2, emitter, count(*), sum(octet_length(json)) FROM events
                 WHERE rank < 2 AND emitter <> '' GROUP BY 2;
             UPDATE feed SET position = (SELECT max(seq) FROM events);
             INSERT INTO cursors VALUES ('bob', 7, 'x');
             COMMIT",
        )
        .unwrap();
}

fn social(ts: i64, target: &str) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: "alice".to_owned(),
        target: target.to_owned(),
        ..SocialPayload::default()
    };
    let mut event = SyncEvent::new(UnixNanos::new(ts), Payload::Social(payload));
    event.emitter = "alice".to_owned();
    event.sig = nara_proto::encoding::base64_encode(&[7; 64]);
    event
}

/// Events of every kind of row: alone at their time or not, of several accounts, signed in several ways.
fn different() -> Vec<Old> {
    let verified = |event, account| Old {
        event,
        rank: Rank::common(Priority::Social),
        account,
        origin: Some("bob"),
    };
    let mut strange = social(4, "line\nfeed and \"quotes\" <&>");
    strange.emitter_id = "ABC".to_owned();
    let mut by_another = social(5, "carol");
    by_another.emitter = "<dave>".to_owned();
    let mut odd = social(6, "carol");
    odd.sig = "c2ln".to_owned();
    let mut unsigned = social(7, "alice");
    unsigned.emitter = String::new();
    unsigned.sig = String::new();
    let mut not_ours = social(8, "carol");
    not_ours.svc = "weather".to_owned();
    let unverified = |event| Old {
        event,
        rank: Rank::UNVERIFIED,
        account: None,
        origin: Some("bob"),
    };
    vec![
        verified(social(3, "b"), Some("alice")),
        verified(social(3, "a"), Some("bob")),
        verified(social(3, "c"), None),
        verified(strange, Some("carol")),
        verified(by_another, Some("alice")),
        verified(odd, Some("alice")),
        unverified(unsigned),
        verified(not_ours, Some("alice")),
        unverified(social(9, "carol")),
        verified(social(-1, "alice"), Some("alice")),
    ]
}

async fn everything(ledger: &SqliteLedger) -> Vec<SyncEvent> {
    // One at a time, to test cursors between events of the same time.
    let (mut events, mut after) = (Vec::new(), Cursor::START);
    loop {
        let page = ledger.page(EventFilter::default(), after, ReadLimit::events(1));
        let Some(checked) = page.await.unwrap().pop() else {
            break;
        };
        after = Cursor::behind(&checked.event);
        events.push(checked.event);
    }
    events
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    (folder, path)
}

fn accounts(connection: &Connection) -> Vec<(i64, String, i64, i64)> {
    let mut read = connection
        .prepare("SELECT kind, name, n, bytes FROM accounts ORDER BY 1, 2")
        .unwrap();
    let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_ledger_of_the_fourth_version_keeps_every_event_its_trust_and_its_account() {
    let (_folder, path) = file();
    let old = different();
    make(&path, &old);
    let before = accounts(&Connection::open(&path).unwrap());

    let ledger = SqliteLedger::open(&path)
        .unwrap()
        .with_retention(RetentionPolicy::UNLIMITED);
    let mut expected: Vec<_> = old.iter().map(|old| old.event.clone()).collect();
    expected.sort_by(|a, b| (a.ts, &a.id).cmp(&(b.ts, &b.id)));
    assert_eq!(everything(&ledger).await, expected);
    let all = ReadLimit::events(usize::MAX);
    let arrived = ledger
        .arrived_after(EventFilter::default(), 0, all)
        .await
        .unwrap();
    for (arrival, old) in arrived.events.iter().zip(&old) {
        assert_eq!(arrival.event, old.event);
        assert_eq!(arrival.trust == EventTrust::Verified, old.rank.is_verified());
        assert_eq!(arrival.origin.as_ref().map(NaraName::as_str), old.origin);
    }
    assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap().unwrap().id(), "x");
    let check = ledger.check().await.unwrap();
    assert!(check.damage.is_empty(), "{:?}", check.damage);
    assert_eq!(check.schema, 6);
    let bytes: usize = old.iter().map(|old| go_json::to_string(&old.event).len()).sum();
    assert_eq!((check.events.events, check.events.bytes), (old.len(), bytes));
    assert!(check.services.iter().any(|(service, _)| service == "weather"));
    drop(ledger);

    // Charges are reversed exactly as they were made.
    let connection = Connection::open(&path).unwrap();
    assert_eq!(accounts(&connection), before);
    let ledger = SqliteLedger::open(&path).unwrap();
    ledger
        .pool
        .write(|transaction| {
            let mut shelf = SqliteShelf::new(transaction)?;
            for seq in 1..=10 {
                let place = transaction.query_row(
                    "SELECT seq, ts, id FROM events WHERE seq = ?1",
                    [seq],
                    columns::place,
                )?;
                shelf.remove(&place)?;
            }
            shelf.finish()?;
            Ok(())
        })
        .await
        .unwrap();
    assert!(accounts(&connection).is_empty(), "{:?}", accounts(&connection));
    assert_eq!(ledger.check().await.unwrap().events, EventSize::default());
}

#[tokio::test]
async fn a_ledger_of_the_fourth_version_charges_configured_peers_and_keeps_statements() {
    let (_folder, path) = file();
    let stated = |ts: i64| {
        let payload = nara_proto::event::SuccessionPayload {
            name: "dora".to_owned(),
            ..Default::default()
        };
        SyncEvent::new(UnixNanos::new(ts), Payload::Succession(payload))
    };
    let old = |event, rank, account, origin| Old {
        event,
        rank,
        account,
        origin,
    };
    let kept = Rank::common(Priority::Restart);
    let configured = Rank::configured(Priority::Social);
    make(
        &path,
        &[
            old(stated(1), kept, Some("dora"), Some("dora")),
            old(stated(2), kept, Some("eve"), Some("eve")),
            old(social(3, "bob"), configured, Some("alice"), Some("bob")),
        ],
    );
    drop(SqliteLedger::open(&path).unwrap());
    let accounts = accounts(&Connection::open(&path).unwrap());
    let accounts: Vec<_> = accounts
        .iter()
        .map(|account| (account.0, &*account.1, account.2))
        .collect();
    assert_eq!(accounts, [(0, "eve", 1), (3, "alice", 1), (4, "dora", 1)]);
    let ranks = |connection: Connection| {
        let sizes = rows::sizes(&connection).unwrap();
        let held = sizes.into_iter().filter(|(_, size)| !size.is_zero());
        held.map(|(rank, size)| (rank, size.events)).collect::<Vec<_>>()
    };
    assert_eq!(
        ranks(Connection::open(&path).unwrap()),
        [(kept, 1), (configured, 1), (Rank::STATEMENT, 1)]
    );
}

#[test]
fn the_readable_view_spells_out_names() {
    let (_folder, path) = file();
    make(&path, &different());
    drop(SqliteLedger::open(&path).unwrap());
    let row: (String, String, String, String) = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT id, svc, emitter, json FROM readable WHERE ts = 5",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    let event = &different()[4].event;
    assert_eq!(
        (row.0.as_str(), row.1.as_str(), row.2.as_str()),
        (event.id.as_str(), "social", "<dave>")
    );
    assert!(serde_json::from_str::<serde_json::Value>(&row.3).unwrap()["social"].is_object());
}

fn many() -> Vec<Old> {
    let events = (0..MANY).map(|n| Old {
        event: social(n / 2, &n.to_string()),
        rank: Rank::common(Priority::Social),
        account: Some("alice"),
        origin: None,
    });
    events.collect()
}

/// Checks that a ledger of version 4 was not converted.
fn assert_untouched(path: &Path, events: usize) {
    let connection = Connection::open(path).unwrap();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT user_version FROM pragma_user_version"), 4);
    assert_eq!(
        number("SELECT count(*) FROM events WHERE json LIKE '{\"id\":%'"),
        events as i64
    );
    let check: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// The process that the test below kills half-way.
#[test]
fn child_that_is_killed_while_it_converts() {
    let Some(path) = std::env::var_os(CONVERTS) else {
        return;
    };
    let path = PathBuf::from(path);
    let mut connection = Connection::open(&path).unwrap();
    // Otherwise a transaction of this size would stay in memory until it ends.
    connection.pragma_update(None, "cache_size", 10).unwrap();
    let converted = Arc::new(Converted::default());
    let looked_at = converted.clone();
    let stop = move || {
        let (done, all) = looked_at.progress();
        if done > all / 2 {
            println!("converted {done} of {all}");
            for () in std::iter::repeat(()) {
                std::thread::park();
            }
        }
        false
    };
    connection.progress_handler(10_000, Some(stop)).unwrap();
    schema::migrate(&mut connection, &path, &converted).unwrap();
}

#[tokio::test]
async fn opening_reports_the_progress_of_a_conversion_and_holds_the_lock() {
    let (_folder, path) = file();
    make(&path, &many());
    let told = Arc::new(Mutex::new(Vec::new()));
    let (heard, held) = (told.clone(), path.clone());
    let opening = move |done, all| {
        let other = SqliteLedger::open_locked(&held, "bob").unwrap_err();
        let LedgerError::Locked { holder, .. } = other else {
            panic!("{other}");
        };
        assert_eq!(holder, Some(format!("alice (process {})", std::process::id())));
        heard.lock().unwrap().push((done, all));
        ControlFlow::Continue(())
    };
    let ledger = SqliteLedger::open_watched(&path, "alice", Some(Box::new(opening))).unwrap();
    assert_eq!(ledger.count().await.unwrap(), MANY as usize);
    let told = told.lock().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    assert!(
        told.iter().any(|(done, all)| *done > 0 && *all == MANY as u64),
        "{told:?}"
    );
}

#[test]
fn a_conversion_that_is_stopped_leaves_the_ledger_as_it_was() {
    let (_folder, path) = file();
    make(&path, &many());
    let opening = |done, _| match done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let stopped = SqliteLedger::open_watched(&path, "alice", Some(Box::new(opening))).unwrap_err();
    assert!(matches!(stopped, LedgerError::Stopped), "{stopped}");
    assert_untouched(&path, MANY as usize);
}

#[tokio::test]
async fn a_conversion_that_is_killed_leaves_the_ledger_as_it_was_and_the_next_one_succeeds() {
    let (_folder, path) = file();
    make(&path, &many());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "journal_mode", "wal")
        .unwrap();
    let (mut child, mut lines) = start_test(
        "ledger::sqlite::tests::convert::child_that_is_killed_while_it_converts",
        CONVERTS,
        &path,
    );
    let told = lines.find(|line| line.as_ref().unwrap().contains("converted"));
    assert!(told.unwrap().unwrap().contains(&format!(" of {MANY}")));
    child.kill().unwrap();
    child.wait().unwrap();

    assert_untouched(&path, MANY as usize);
    let ledger = SqliteLedger::open(&path).unwrap();
    assert_eq!(ledger.count().await.unwrap(), MANY as usize);
    let check = ledger.check().await.unwrap();
    assert!(check.damage.is_empty(), "{:?}", check.damage);
}

#[tokio::test]
async fn a_full_disk_stops_a_conversion_and_the_ledger_stays_as_it_was() {
    let (_folder, path) = file();
    // Larger than the space that the old indexes free.
    let large = (0..500).map(|n| {
        let mut old = different().remove(0);
        let payload = SocialPayload {
            reason: "x".repeat(3_000),
            ..*old.event.social.unwrap()
        };
        old.event = SyncEvent::new(UnixNanos::new(n), Payload::Social(payload));
        old
    });
    let large: Vec<_> = large.collect();
    make(&path, &large);
    let mut connection = Connection::open(&path).unwrap();
    let pages: i64 = connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    connection
        .pragma_update(None, "max_page_count", pages + 20)
        .unwrap();
    let failure = schema::migrate(&mut connection, &path, &Converted::default()).unwrap_err();
    assert!(matches!(LedgerError::from(failure), LedgerError::Full(_)));
    drop(connection);
    assert_untouched(&path, large.len());
    let ledger = SqliteLedger::open(&path).unwrap();
    assert_eq!(ledger.count().await.unwrap(), large.len());
}

#[test]
fn a_converted_ledger_gives_back_the_room_that_it_does_not_need() {
    let (_folder, path) = file();
    make(&path, &many());
    let before = std::fs::metadata(&path).unwrap().len();
    drop(SqliteLedger::open(&path).unwrap());
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after < before * 2 / 3, "{before} bytes became {after}");
}
