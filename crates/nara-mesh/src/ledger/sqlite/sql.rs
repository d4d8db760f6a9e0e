//! All SQL statements in one place, so that a test can check the query plan of each.
//!
//! `INDEXED BY` makes a statement fail instead of falling back to a full table scan.

/// The columns of a position in an index.
macro_rules! place {
    () => {
        "seq, ts, tie"
    };
}

/// The columns that [`event`](super::columns::event) reads, and the columns that decide whether it is loaded and
/// trusted.
macro_rules! event {
    () => {
        "id, ts, svc, emitter, actor, sig, json, bytes, rank"
    };
}

/// Selects the entries of an index after a cursor, in one direction: `?1` is the time and `?2` the id of the
/// cursor, `?3` the limit, `?4` and `?5` the prefix of the index. Events that share their time are ordered by id,
/// which is their tie; an event alone at its time has an empty tie.
macro_rules! behind {
    ($columns:ident, $index:literal, $about:literal, $direction:literal) => {
        concat!(
            "SELECT ",
            $columns!(),
            " FROM events INDEXED BY ",
            $index,
            " WHERE ",
            $about,
            "(ts, tie) > (?1, ?2) ORDER BY ts ",
            $direction,
            ", tie ",
            $direction,
            " LIMIT ?3"
        )
    };
}

/// Selects all positions, to be filtered one by one.
macro_rules! walk {
    ($direction:literal) => {
        concat!(
            "SELECT seq, svc, actor, target FROM events INDEXED BY events_by_time \
             WHERE (ts, tie) > (?1, ?2) ORDER BY ts ",
            $direction,
            ", tie ",
            $direction
        )
    };
}

/// One statement per direction, and one for the event that is alone at the time of the cursor and after it.
#[derive(Clone, Copy)]
pub(super) struct BothWays {
    pub(super) oldest_first: &'static str,
    pub(super) newest_first: &'static str,
    pub(super) alone: &'static str,
}

macro_rules! both_ways {
    ($columns:ident, $index:literal, $about:literal) => {
        BothWays {
            oldest_first: behind!($columns, $index, $about, "ASC"),
            newest_first: behind!($columns, $index, $about, "DESC"),
            alone: concat!(
                "SELECT ",
                $columns!(),
                " FROM events INDEXED BY ",
                $index,
                " WHERE ",
                $about,
                "ts = ?1 AND tie = x'' AND id > ?2 LIMIT ?3"
            ),
        }
    };
}

/// All events, in the order of the table.
pub(super) const EVENTS: &str = concat!("SELECT ", event!(), " FROM events");

/// Whole events: an unfiltered page needs no positions.
pub(super) const EVENTS_BY_TIME: BothWays = both_ways!(event, "events_by_time", "");
pub(super) const BY_TIME: BothWays = both_ways!(place, "events_by_time", "");
pub(super) const BY_SERVICE: BothWays = both_ways!(place, "events_by_service", "svc = ?4 AND ");
pub(super) const BY_ACTOR: BothWays = both_ways!(place, "events_by_actor", "actor = ?4 AND svc = ?5 AND ");
/// Excludes events whose actor is also the target: `BY_ACTOR` finds them.
pub(super) const BY_TARGET: BothWays = both_ways!(
    place,
    "events_by_target",
    "target <> actor AND target = ?4 AND svc = ?5 AND "
);
pub(super) const WALK: BothWays = BothWays {
    oldest_first: walk!("ASC"),
    newest_first: walk!("DESC"),
    alone: "SELECT seq, svc, actor, target FROM events INDEXED BY events_by_time \
            WHERE ts = ?1 AND tie = x'' AND id > ?2",
};

/// The next service after `?1`.
pub(super) const NEXT_SERVICE: &str =
    "SELECT svc FROM events INDEXED BY events_by_service WHERE svc > ?1 ORDER BY svc LIMIT 1";
pub(super) const SINCE: &str =
    "SELECT seq FROM events INDEXED BY events_by_time WHERE ts >= ?1 ORDER BY seq DESC LIMIT ?2";
/// Earlier versions gave statements about keys the same priority, hence the filter by service.
pub(super) const CHECKPOINTS: &str = "SELECT seq FROM events INDEXED BY events_checkpoints \
     WHERE priority = 5 AND rank > 1 AND svc = 2 ORDER BY seq LIMIT ?1 OFFSET ?2";

/// Events with their arrival columns.
macro_rules! arrivals {
    ($where:literal) => {
        concat!("SELECT ", event!(), ", seq, origin, target FROM events ", $where)
    };
}

pub(super) const LOAD: &str = concat!("SELECT ", event!(), " FROM events WHERE seq = ?1");
pub(super) const LOAD_BY_ID: &str = concat!("SELECT ", event!(), " FROM events WHERE id = ?1");
/// Scans the whole table: a sample weighs every event.
pub(super) const WEIGH: &str = "SELECT seq, ts, id, critical, importance, svc, actor, target, \
     ?1 IN (coalesce(emitter, actor), actor, target) FROM events ORDER BY seq";

/// The events after a position, to be filtered one by one.
pub(super) const ARRIVED: &str = arrivals!("WHERE seq > ?1 ORDER BY seq LIMIT ?2");
pub(super) const POSITION: &str = "SELECT position FROM feed";
pub(super) const FIRST_SINCE: &str = "SELECT min(seq) FROM events INDEXED BY events_by_time WHERE ts >= ?1";
/// Skips positions: events lost in a power failure must not return under positions that peers have seen.
pub(super) const SKIP_PLACES: &str = "UPDATE feed SET position = position + 1048576 WHERE position > 0";
/// Gives a copy its own epoch: followers of the original must not confuse the positions of the two.
pub(super) const MARK_COPY: &str = "UPDATE feed SET epoch = random(), file = '', opens = 1";
pub(super) const NEW_EPOCH: &str = "UPDATE feed SET epoch = random()";
pub(super) const OPENED: &str = "SELECT file, opens FROM feed";
pub(super) const NOTE_OPENED: &str = "UPDATE feed SET file = ?1, opens = ?2";
pub(super) const COPY: &str = "VACUUM INTO ?1";
pub(super) const EPOCH: &str = "SELECT epoch FROM feed";

pub(super) const FIND: &str = "SELECT seq, ts, id, rank FROM events WHERE id = ?1";
pub(super) const MAKER: &str = "SELECT account, emitter, actor, origin FROM events WHERE seq = ?1";
/// The number of voters of a checkpoint.
pub(super) const VOTERS: &str = "SELECT iif(json_valid(json), json_array_length(json, '$.checkpoint.voter_ids'), 0) \
     FROM events WHERE seq = ?1";
/// Any event with this time.
pub(super) const AT_TIME: &str =
    "SELECT seq, tie = x'' FROM events INDEXED BY events_by_time WHERE ts = ?1 LIMIT 1";
/// Marks an event as no longer alone at its time.
pub(super) const TIE: &str = "UPDATE events SET tie = id WHERE seq = ?1";
pub(super) const ADD: &str = "INSERT INTO events \
     (seq, id, ts, tie, svc, emitter, actor, target, importance, critical, priority, rank, account, origin, \
      received, bytes, sig, json) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
pub(super) const ADD_TO_TOTAL: &str = "UPDATE totals SET n = n + ?2, bytes = bytes + ?3 WHERE rank = ?1";
pub(super) const MOVE_POSITION: &str = "UPDATE feed SET position = ?1";
pub(super) const REMOVE: &str = "DELETE FROM events WHERE seq = ?1 \
     RETURNING rank, account, emitter, actor, origin, bytes";
pub(super) const RERANK: &str = "UPDATE events SET rank = ?2 WHERE seq = ?1";
pub(super) const LADDER: &str = "SELECT seq, ts, id, rank, account, emitter, actor, origin, bytes, priority, target \
     FROM events INDEXED BY events_by_rank \
     WHERE (rank, ts, seq) > (?1, ?2, ?3) AND rank < ?4 ORDER BY rank, ts, seq LIMIT ?5";
pub(super) const PINGS: &str = "SELECT seq, ts, id, rank, account, emitter, actor, origin FROM events INDEXED BY events_pings \
     WHERE priority = 0 AND rank > 1 AND target = ?1 ORDER BY rank, ts, seq LIMIT ?2";
pub(super) const COUNT_OBSERVATIONS: &str = "SELECT count(*) FROM \
     (SELECT 1 FROM events INDEXED BY events_by_pair \
      WHERE svc = 4 AND rank > 1 AND actor = ?1 AND target = ?2 LIMIT ?3)";
/// The oldest observation of a pair with one priority.
pub(super) const OLDEST_OBSERVATION: &str = "SELECT seq, ts, id FROM events INDEXED BY events_by_pair \
     WHERE svc = 4 AND rank > 1 AND actor = ?1 AND target = ?2 AND priority = ?3 \
     ORDER BY ts, seq LIMIT 1";
pub(super) const HAS_CHECKPOINT: &str = "SELECT 1 FROM events INDEXED BY events_checkpoints_about \
     WHERE priority = 5 AND rank > 1 AND svc = 2 AND target = ?1 LIMIT 1";
pub(super) const FIRST_UNVERIFIED: &str = "SELECT seq, ts, id, rank FROM events INDEXED BY events_unverified \
     WHERE rank < 2 ORDER BY rank, seq LIMIT 1";
pub(super) const FIRST_UNVERIFIED_TOLD_BY: &str = "SELECT seq, ts, id, rank FROM events \
     INDEXED BY events_unverified_by_teller \
     WHERE rank < 2 AND coalesce(origin, '') = ?1 ORDER BY rank, seq LIMIT 1";
pub(super) const FIRST_UNVERIFIED_OF: &str = "SELECT seq, ts, id, rank FROM events \
     INDEXED BY events_unverified_by_emitter \
     WHERE rank < 2 AND coalesce(emitter, actor) = ?1 ORDER BY rank, seq LIMIT 1";
pub(super) const UNVERIFIED_OF: &str =
    arrivals!("INDEXED BY events_unverified WHERE rank < 2 AND actor = ?1 ORDER BY rank, seq");
pub(super) const UNVERIFIED_BEFORE: &str = "SELECT seq, ts, id FROM events INDEXED BY events_received \
     WHERE received < ?1 ORDER BY received LIMIT ?2";

pub(super) const TOTALS: &str = "SELECT rank, n, bytes FROM totals";
pub(super) const ACCOUNT: &str = "SELECT n, bytes FROM accounts WHERE kind = ?1 AND name = ?2";
pub(super) const ACCOUNTS_OVER: &str =
    "SELECT name, n, bytes FROM accounts WHERE kind = ?1 AND (n > ?2 OR bytes > ?3)";
pub(super) const STORE_ACCOUNT: &str =
    "INSERT OR REPLACE INTO accounts (kind, name, n, bytes) VALUES (?1, ?2, ?3, ?4)";
pub(super) const REMOVE_ACCOUNT: &str = "DELETE FROM accounts WHERE kind = ?1 AND name = ?2";

pub(super) const STORE_PEER: &str = "INSERT OR REPLACE INTO peers \
     (name, id, key, source, learned_at, v2, tls, raw_public_key, verdict, decided_at, seen) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
pub(super) const PEER: &str = "SELECT name, id, key, source, learned_at, v2, tls, raw_public_key, verdict, \
     decided_at, seen FROM peers WHERE name = ?1";
pub(super) const FORGET_PEER: &str = "DELETE FROM peers WHERE name = ?1";
pub(super) const COUNT_PEERS: &str = "SELECT count(*) FROM peers";
pub(super) const PEERS: &str = "SELECT name, id, key, source, learned_at, v2, tls, raw_public_key, verdict, \
     decided_at, seen FROM peers ORDER BY name";
pub(super) const STORE_CURSOR: &str = "INSERT OR REPLACE INTO cursors (peer, ts, id) VALUES (?1, ?2, ?3)";
pub(super) const CURSOR: &str = "SELECT ts, id FROM cursors WHERE peer = ?1";
pub(super) const STORE_ARRIVAL_CURSOR: &str =
    "INSERT OR REPLACE INTO arrival_cursors (peer, epoch, seq) VALUES (?1, ?2, ?3)";
pub(super) const ARRIVAL_CURSOR: &str = "SELECT epoch, seq FROM arrival_cursors WHERE peer = ?1";

/// Changes when another connection has committed.
pub(super) const FOREIGN_COMMITS: &str = "PRAGMA data_version";
/// The entries of the inventory. Scans the whole table, once per process.
pub(super) const ITEMS: &str = "SELECT svc, ts, id FROM events NOT INDEXED WHERE rank > 1";
pub(super) const REJECT: &str = "INSERT INTO rejected (peer, item, awaits) VALUES (?1, ?2, ?3) \
     ON CONFLICT (peer, item) DO UPDATE SET awaits = excluded.awaits";
pub(super) const FORGIVE: &str = "DELETE FROM rejected WHERE awaits = ?1";
pub(super) const FORGET_REJECTIONS: &str =
    "DELETE FROM rejected WHERE seq <= (SELECT max(seq) FROM rejected) - ?1";
pub(super) const REJECTED: &str = "SELECT 1 FROM rejected WHERE peer = ?1 AND item = ?2";
