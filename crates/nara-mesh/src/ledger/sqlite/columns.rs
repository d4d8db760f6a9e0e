//! The encoding of events in rows: envelope fields have columns, in their shortest form; the rest stays JSON, for
//! [`sql::ADD`](super::sql::ADD) and for readers of the database.

use std::borrow::Cow;

use nara_proto::encoding::{base64_decode_canonical, base64_encode, hex_encode};
use nara_proto::event::{Service, SyncEvent};
use nara_proto::go_json;
use nara_proto::reconcile::ItemId;
use nara_proto::sync::Cursor;
use nara_proto::time::UnixNanos;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Row, ToSql, params};

use super::failure::Failure;
use super::rows::sql_limit;
use crate::ledger::LedgerError;
use crate::ledger::held::Place;

/// The id of an event: its hash of 16 bytes.
///
/// Bytes sort like their lower-case hex digits. Any other text is stored as is, with a mark appended if it is as
/// long as a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdKey {
    Hash([u8; HASH]),
    Other(Vec<u8>),
}

const HASH: usize = 16;

/// This byte never occurs in UTF-8 text.
const MARK: u8 = 0xff;

impl IdKey {
    pub(super) fn new(id: &str) -> Self {
        let mut hash = [0; HASH];
        let is_upper = |byte: u8| byte.is_ascii_uppercase();
        if id.len() == 2 * HASH && !id.bytes().any(is_upper) && hex::decode_to_slice(id, &mut hash).is_ok() {
            return Self::Hash(hash);
        }
        let mut other = id.as_bytes().to_vec();
        if other.len() == HASH {
            other.push(MARK);
        }
        Self::Other(other)
    }

    /// Returns the id of the event that an item refers to.
    pub(super) fn of_item(item: &ItemId) -> Self {
        Self::Hash(item.event_hash())
    }

    /// Returns the id of a cursor. A cursor behind all ids sorts behind all hashes.
    pub(super) fn of_cursor(cursor: &Cursor) -> Self {
        if cursor.id().starts_with(char::MAX) {
            return Self::Other(vec![MARK; HASH + 1]);
        }
        Self::new(cursor.id())
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Hash(hash) => hash,
            Self::Other(other) => other,
        }
    }
}

impl ToSql for IdKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.as_bytes())))
    }
}

/// The text of an id column.
pub(super) struct IdText(pub(super) String);

impl FromSql for IdText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        if bytes.len() == HASH {
            return Ok(Self(hex_encode(bytes)));
        }
        let text = bytes.strip_suffix(&[MARK]).unwrap_or(bytes);
        Ok(Self(String::from_utf8_lossy(text).into_owned()))
    }
}

/// Reads the columns `seq, ts, id`.
pub(super) fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        seq: row.get(0)?,
        ts: UnixNanos::new(row.get(1)?),
        id: row.get::<_, IdText>(2)?.0.into(),
    })
}

/// The service of an event: a number, or the name of an unknown service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServiceKey {
    Known(Service),
    Other(String),
}

/// The numbers are stored in databases.
const SERVICES: [(i64, Service); 8] = [
    (1, Service::Chau),
    (2, Service::Checkpoint),
    (3, Service::HeyThere),
    (4, Service::Observation),
    (5, Service::Ping),
    (6, Service::Seen),
    (7, Service::Social),
    (8, Service::Succession),
];

impl ServiceKey {
    pub(super) fn new(name: &str) -> Self {
        let known = SERVICES.iter().find(|(_, service)| service.as_str() == name);
        known.map_or_else(
            || Self::Other(name.to_owned()),
            |(_, service)| Self::Known(*service),
        )
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Known(service) => service.as_str(),
            Self::Other(name) => name,
        }
    }

    pub(super) fn service(&self) -> Option<Service> {
        match self {
            Self::Known(service) => Some(*service),
            Self::Other(_) => None,
        }
    }
}

impl ToSql for ServiceKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let known = SERVICES
            .iter()
            .find(|(_, service)| Some(*service) == self.service());
        Ok(match known {
            Some((number, _)) => ToSqlOutput::from(*number),
            None => ToSqlOutput::from(self.name()),
        })
    }
}

impl FromSql for ServiceKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Integer(number) => {
                let known = SERVICES.iter().find(|(stored, _)| *stored == number);
                let (_, service) = known.ok_or(FromSqlError::OutOfRange(number))?;
                Ok(Self::Known(*service))
            }
            other => Ok(Self::Other(other.as_str()?.to_owned())),
        }
    }
}

/// The names in an event row that its account can refer to.
#[derive(Clone, Copy)]
struct Parties<'a> {
    emitter: &'a str,
    origin: Option<&'a str>,
}

const EMITTER: i64 = 1;
const TELLER: i64 = 2;

impl<'a> Parties<'a> {
    fn key(self, account: Option<&'a str>) -> ToSqlOutput<'a> {
        match account {
            None => ToSqlOutput::from(rusqlite::types::Null),
            Some(name) if name == self.emitter => ToSqlOutput::from(EMITTER),
            Some(name) if Some(name) == self.origin => ToSqlOutput::from(TELLER),
            Some(name) => ToSqlOutput::from(name),
        }
    }

    fn account(self, key: ValueRef<'_>) -> FromSqlResult<Option<String>> {
        Ok(match key {
            ValueRef::Null => None,
            ValueRef::Integer(EMITTER) => Some(self.emitter.to_owned()),
            ValueRef::Integer(TELLER) => self.origin.map(str::to_owned),
            other => Some(other.as_str()?.to_owned()),
        })
    }
}

/// Reads the account from the columns `account, emitter, actor, origin`, starting at this index.
pub(super) fn account(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<String>> {
    let parties = Parties {
        emitter: emitter(row, first + 1)?,
        origin: row.get_ref(first + 3)?.as_str_or_null()?,
    };
    Ok(parties.account(row.get_ref(first)?)?)
}

/// Reads the emitter from the columns `emitter, actor`: it is stored only if it differs from the actor.
pub(super) fn emitter<'a>(row: &'a Row<'_>, first: usize) -> rusqlite::Result<&'a str> {
    let emitter = row.get_ref(first)?.as_str_or_null()?;
    Ok(match emitter {
        Some(emitter) => emitter,
        None => row.get_ref(first + 1)?.as_str()?,
    })
}

/// Size of a signature in bytes.
const SIGNATURE: usize = 64;

/// Encodes a signature as bytes, or as text if the bytes would not encode back to it.
fn signature_key(sig: &str) -> ToSqlOutput<'_> {
    if sig.is_empty() {
        return ToSqlOutput::from(rusqlite::types::Null);
    }
    match base64_decode_canonical(sig.as_bytes()) {
        Ok(bytes) if bytes.len() == SIGNATURE => ToSqlOutput::from(bytes),
        _ => ToSqlOutput::from(sig),
    }
}

/// A row of the table `events`.
pub(super) struct EventRow<'a> {
    pub(super) seq: i64,
    pub(super) id: &'a IdKey,
    pub(super) ts: i64,
    /// Whether another event has the same time.
    pub(super) is_tied: bool,
    pub(super) svc: &'a ServiceKey,
    pub(super) emitter: &'a str,
    pub(super) actor: &'a str,
    pub(super) target: &'a str,
    pub(super) importance: i64,
    pub(super) critical: bool,
    pub(super) priority: u8,
    pub(super) rank: u8,
    pub(super) account: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
    pub(super) received: Option<i64>,
    /// Size of the whole event as JSON.
    pub(super) bytes: usize,
    pub(super) sig: &'a str,
    /// The fields that have no column.
    pub(super) json: &'a str,
}

impl EventRow<'_> {
    /// Stores the row with the statement [`sql::ADD`](super::sql::ADD).
    pub(super) fn store(&self, add: &mut CachedStatement<'_>) -> rusqlite::Result<()> {
        let tie = if self.is_tied { self.id.as_bytes() } else { &[] };
        let emitter = (self.emitter != self.actor).then_some(self.emitter);
        let parties = Parties {
            emitter: self.emitter,
            origin: self.origin,
        };
        add.execute(params![
            self.seq,
            self.id,
            self.ts,
            tie,
            self.svc,
            emitter,
            self.actor,
            self.target,
            self.importance,
            self.critical,
            self.priority,
            self.rank,
            parties.key(self.account),
            self.origin,
            self.received,
            sql_limit(self.bytes),
            signature_key(self.sig),
            self.json,
        ])?;
        Ok(())
    }
}

/// Returns the JSON of an event without the fields that have columns.
pub(super) fn without_columns<'a>(event: &SyncEvent, json: &'a str) -> Cow<'a, str> {
    let Some(rest) = behind_columns(event, json) else {
        // A field is spelled differently in JSON, for example escaped. Storing it twice does no harm.
        return Cow::Borrowed(json);
    };
    let mut kept = String::with_capacity(json.len());
    kept.push('{');
    if event.emitter_id.is_empty() {
        kept.push_str(rest.strip_prefix(',').unwrap_or(rest));
    } else {
        for part in ["\"emitter_id\":\"", &event.emitter_id, "\"", rest] {
            kept.push_str(part);
        }
    }
    Cow::Owned(kept)
}

/// Returns the JSON of an event after the fields that have columns, if these are spelled verbatim.
fn behind_columns<'a>(event: &SyncEvent, json: &'a str) -> Option<&'a str> {
    let ts = event.ts.to_string();
    let parts = [
        "{\"id\":\"",
        &event.id,
        "\",\"ts\":",
        &ts,
        ",\"svc\":\"",
        &event.svc,
        "\"",
    ];
    let mut rest = json;
    for part in parts {
        rest = rest.strip_prefix(part)?;
    }
    for (key, value) in [
        (",\"emitter\":\"", &event.emitter),
        (",\"emitter_id\":\"", &event.emitter_id),
        (",\"sig\":\"", &event.sig),
    ] {
        if !value.is_empty() {
            rest = rest
                .strip_prefix(key)?
                .strip_prefix(value.as_str())?
                .strip_prefix('"')?;
        }
    }
    Some(rest)
}

/// Reads an event from a row that begins with the columns of [`sql::LOAD`](super::sql::LOAD).
pub(super) fn event(row: &Row<'_>) -> Result<SyncEvent, Failure> {
    let IdText(id) = row.get(0)?;
    let json = row.get_ref(6)?.as_bytes().map_err(rusqlite::Error::from)?;
    let mut event = match go_json::from_slice_exact::<SyncEvent>(json) {
        Ok(event) => event,
        Err(error) => {
            let reason = error.to_string();
            return Err(LedgerError::Damaged { id, reason }.into());
        }
    };
    event.id = id;
    event.ts = UnixNanos::new(row.get(1)?);
    row.get::<_, ServiceKey>(2)?.name().clone_into(&mut event.svc);
    emitter(row, 3)?.clone_into(&mut event.emitter);
    match row.get_ref(5)? {
        ValueRef::Blob(bytes) => event.sig = base64_encode(bytes),
        ValueRef::Text(text) => event.sig = String::from_utf8_lossy(text).into_owned(),
        _ => {}
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use nara_proto::event::{Payload, SocialPayload};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_ordered_like_their_text_and_read_back() {
        let ids = [
            "",
            "00000000000000000000000000000000",
            "0fffffffffffffffffffffffffffffff",
            "fffffffffffffffffffffffffffffff0",
        ];
        let keys = ids.map(|id| IdKey::new(id).as_bytes().to_vec());
        assert!(keys.is_sorted());
        let behind_all = Cursor::after_time(UnixNanos::new(i64::MAX));
        assert!(keys[3].as_slice() < IdKey::of_cursor(&behind_all).as_bytes());
        let others = ["x", "sixteen letters.", "0FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "é"];
        for id in ids.iter().chain(&others) {
            let key = IdKey::new(id);
            let IdText(text) = FromSql::column_result(ValueRef::Blob(key.as_bytes())).unwrap();
            assert_eq!(text, *id);
        }
        assert!(matches!(IdKey::new(others[2]), IdKey::Other(_)));
    }

    #[test]
    fn every_service_has_a_number() {
        for service in Service::ALL {
            let key = ServiceKey::new(service.as_str());
            assert_eq!(key, ServiceKey::Known(service));
            assert!(matches!(key.to_sql().unwrap(), ToSqlOutput::Owned(_)));
        }
        assert_eq!(
            ServiceKey::new("unheard"),
            ServiceKey::Other("unheard".to_owned())
        );
    }

    proptest! {
        #[test]
        fn an_event_is_read_back_as_it_was(
            emitter in ".{0,8}", emitter_id in "[a-z\"<]{0,4}", sig in "[a-zA-Z]{0,4}", actor in ".{0,8}", ts in any::<i64>(),
        ) {
            let payload = SocialPayload { actor, ..SocialPayload::default() };
            let mut written = SyncEvent::new(UnixNanos::new(ts), Payload::Social(payload));
            written.emitter = emitter;
            written.emitter_id = emitter_id;
            written.sig = if sig.len() == 4 { base64_encode(&[7; SIGNATURE]) } else { sig };
            let json = go_json::to_string(&written);
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            connection.execute_batch(
                "CREATE TABLE events (seq, id, ts, tie, svc, emitter, actor, target, importance, critical, priority, \
                 rank, account, origin, received, bytes, sig, json)",
            ).unwrap();
            let kept = without_columns(&written, &json);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&kept).unwrap().is_object());
            EventRow {
                seq: 1,
                id: &IdKey::new(&written.id),
                ts,
                is_tied: false,
                svc: &ServiceKey::new(&written.svc),
                emitter: &written.emitter,
                actor: written.actor(),
                target: written.target(),
                importance: 0,
                critical: false,
                priority: 0,
                rank: 0,
                account: None,
                origin: None,
                received: None,
                bytes: json.len(),
                sig: &written.sig,
                json: &kept,
            }
            .store(&mut connection.prepare_cached(super::super::sql::ADD).unwrap())
            .unwrap();
            let mut load = connection.prepare(super::super::sql::LOAD).unwrap();
            let read = load.query_row([1], |row| Ok(event(row).unwrap())).unwrap();
            prop_assert_eq!(read, written);
        }
    }
}
