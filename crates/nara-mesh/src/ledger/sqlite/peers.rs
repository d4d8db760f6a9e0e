use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::failure::Failure;
use super::sql;
use crate::ledger::LedgerError;
use crate::peer::{
    OperatorDecision, PeerChange, PeerChangeError, PeerProtocol, PeerRecord, PinnedKey, Verdict,
};

pub(super) fn learn(transaction: &Transaction<'_>, learned: Vec<PeerRecord>) -> Result<(), Failure> {
    for record in learned {
        let before = find(transaction, &record.name)?;
        let mut after = before
            .clone()
            .unwrap_or_else(|| PeerRecord::new(record.name.clone()));
        after.learn(record);
        if before.as_ref() != Some(&after) {
            store(transaction, &after)?;
        }
    }
    Ok(())
}

pub(super) fn change(
    transaction: &Transaction<'_>,
    name: NaraName,
    change: PeerChange,
) -> Result<Result<PeerRecord, PeerChangeError>, Failure> {
    let known = find(transaction, &name)?;
    let mut record = known.unwrap_or_else(|| PeerRecord::new(name));
    if let Err(error) = record.apply(change) {
        return Ok(Err(error));
    }
    store(transaction, &record)?;
    Ok(Ok(record))
}

pub(super) fn load(snapshot: &Transaction<'_>) -> Result<Vec<PeerRecord>, Failure> {
    let mut statement = snapshot.prepare_cached(sql::PEERS)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(Stored::read(row)?.into_record()?);
    }
    Ok(records)
}

pub(super) fn forget_ghosts(
    transaction: &Transaction<'_>,
    names: Option<Vec<NaraName>>,
) -> Result<usize, Failure> {
    let names = match names {
        Some(names) => names,
        None => load(transaction)?.into_iter().map(|record| record.name).collect(),
    };
    let mut forgotten = 0;
    for name in names {
        if find(transaction, &name)?.is_some_and(|record| record.is_ghost()) {
            forgotten += transaction
                .prepare_cached(sql::FORGET_PEER)?
                .execute([name.as_str()])?;
        }
    }
    Ok(forgotten)
}

fn find(transaction: &Transaction<'_>, name: &NaraName) -> Result<Option<PeerRecord>, Failure> {
    let mut statement = transaction.prepare_cached(sql::PEER)?;
    let stored = statement.query_row([name.as_str()], Stored::read).optional()?;
    Ok(stored.map(Stored::into_record).transpose()?)
}

fn store(transaction: &Transaction<'_>, record: &PeerRecord) -> rusqlite::Result<()> {
    let key = record.key.as_ref();
    let PeerProtocol {
        v2,
        tls,
        raw_public_key,
    } = record.protocol;
    transaction.prepare_cached(sql::STORE_PEER)?.execute((
        record.name.as_str(),
        record.id.as_ref().map(AsRef::<str>::as_ref),
        key.map(|key| key.key.to_base64()),
        key.map(|key| key.source.to_string()),
        key.map(|key| key.learned_at.get()),
        v2,
        tls,
        raw_public_key,
        record.decision.map(|decision| decision.verdict.as_str()),
        record.decision.map(|decision| decision.at.get()),
        record.seen,
    ))?;
    Ok(())
}

/// A row of the table `peers` before parsing.
struct Stored {
    name: String,
    id: Option<String>,
    key: Option<String>,
    source: Option<String>,
    learned_at: Option<i64>,
    protocol: PeerProtocol,
    verdict: Option<String>,
    decided_at: Option<i64>,
    seen: bool,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            id: row.get(1)?,
            key: row.get(2)?,
            source: row.get(3)?,
            learned_at: row.get(4)?,
            protocol: PeerProtocol {
                v2: row.get(5)?,
                tls: row.get(6)?,
                raw_public_key: row.get(7)?,
            },
            verdict: row.get(8)?,
            decided_at: row.get(9)?,
            seen: row.get(10)?,
        })
    }

    fn into_record(self) -> Result<PeerRecord, LedgerError> {
        let shown = self.name.clone();
        let damaged = |reason: &dyn ToString| LedgerError::DamagedPeer {
            name: shown.clone(),
            reason: reason.to_string(),
        };
        let name: NaraName = self.name.parse().map_err(|error| damaged(&error))?;
        let id = match self.id {
            Some(id) => Some(id.parse().map_err(|error| damaged(&error))?),
            None => None,
        };
        let key = match self.key {
            Some(key) => Some(PinnedKey {
                name: name.clone(),
                id: id.clone(),
                key: PublicKey::from_base64(&key).map_err(|error| damaged(&error))?,
                source: (self.source.unwrap_or_default().parse()).map_err(|error| damaged(&error))?,
                learned_at: UnixMillis::new(self.learned_at.unwrap_or_default()),
            }),
            None => None,
        };
        let decision = match self.verdict {
            Some(word) => Some(OperatorDecision {
                verdict: Verdict::from_word(&word).ok_or_else(|| damaged(&"unknown verdict"))?,
                at: UnixMillis::new(self.decided_at.unwrap_or_default()),
            }),
            None => None,
        };
        Ok(PeerRecord {
            name,
            id,
            key,
            protocol: self.protocol,
            decision,
            seen: self.seen,
        })
    }
}
