use std::collections::BTreeSet;

use negentropy::{Id, Negentropy};

use super::{ItemId, ItemSet, MAX_FRAME, MAX_ROUNDS};

/// A violation of the reconciliation protocol by a peer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// An item does not represent an event.
    #[error("the frame contains an item that represents no event")]
    ForgedItem,
    /// The bytes are not a frame.
    #[error("the frame is not a negentropy frame")]
    Frame(#[source] negentropy::Error),
    /// The frame has too many bytes.
    #[error("the frame has {got} bytes, and the limit is {MAX_FRAME}")]
    TooLarge {
        /// The number of bytes received.
        got: usize,
    },
    /// An event was not requested.
    #[error("event {id} was not requested")]
    NotAsked {
        /// Its id.
        id: String,
    },
}

impl From<negentropy::Error> for ReconcileError {
    fn from(error: negentropy::Error) -> Self {
        Self::Frame(error)
    }
}

/// Answers a frame of an initiator from this set. The responder keeps no state between rounds.
///
/// # Errors
/// [`ReconcileError`] if the bytes are not a frame.
pub fn respond(set: ItemSet, frame: &[u8]) -> Result<Vec<u8>, ReconcileError> {
    check_size(frame)?;
    Ok(Negentropy::owned(set, MAX_FRAME as u64)?.reconcile(frame)?)
}

fn check_size(frame: &[u8]) -> Result<(), ReconcileError> {
    if frame.len() > MAX_FRAME {
        return Err(ReconcileError::TooLarge { got: frame.len() });
    }
    Ok(())
}

/// The initiator of a reconciliation: it learns what is missing on either side.
///
/// ```
/// # use nara_proto::reconcile::{ItemSet, Reconciler, respond};
/// # let (mine, theirs) = (ItemSet::default(), ItemSet::default());
/// let (mut reconciler, first) = Reconciler::begin(mine)?;
/// let mut next = Some(first);
/// while let Some(frame) = next {
///     let answer = respond(theirs.clone(), &frame)?; // over the network
///     next = reconciler.take(&answer)?;
/// }
/// assert!(reconciler.is_complete() && reconciler.is_in_sync());
/// # Ok::<(), nara_proto::reconcile::ReconcileError>(())
/// ```
#[derive(Debug)]
pub struct Reconciler {
    negentropy: Negentropy<'static, ItemSet>,
    missing_here: BTreeSet<ItemId>,
    missing_there: BTreeSet<ItemId>,
    rounds: usize,
    complete: bool,
}

impl Reconciler {
    /// Starts to compare this set; also returns the first frame.
    ///
    /// # Errors
    /// [`ReconcileError::Frame`], which only a defect of the protocol crate can cause.
    pub fn begin(set: ItemSet) -> Result<(Self, Vec<u8>), ReconcileError> {
        let mut negentropy = Negentropy::owned(set, MAX_FRAME as u64)?;
        let first = negentropy.initiate()?;
        let reconciler = Self {
            negentropy,
            missing_here: BTreeSet::new(),
            missing_there: BTreeSet::new(),
            rounds: 0,
            complete: false,
        };
        Ok((reconciler, first))
    }

    /// Processes the answer to the last frame; returns the next frame, or `None` at the end.
    ///
    /// # Errors
    /// [`ReconcileError`] for an answer that violates the protocol.
    pub fn take(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, ReconcileError> {
        check_size(answer)?;
        self.rounds += 1;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = self.negentropy.reconcile_with_ids(answer, &mut have, &mut need)?;
        for id in need {
            self.missing_here.insert(known(id)?);
        }
        for id in have {
            self.missing_there.insert(known(id)?);
        }
        self.complete = next.is_none();
        Ok(next.filter(|_| self.rounds < MAX_ROUNDS))
    }

    /// Returns the items that only the other side has, as far as known.
    pub fn missing_here(&self) -> &BTreeSet<ItemId> {
        &self.missing_here
    }

    /// Returns the items that only this side has, as far as known.
    pub fn missing_there(&self) -> &BTreeSet<ItemId> {
        &self.missing_there
    }

    /// Returns the number of processed answers.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Returns whether the whole difference is known; `false` before the end, and after too many rounds.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns whether no difference is known.
    pub fn is_in_sync(&self) -> bool {
        self.complete && self.missing_here.is_empty() && self.missing_there.is_empty()
    }
}

fn known(id: Id) -> Result<ItemId, ReconcileError> {
    ItemId::from_bytes(id.to_bytes()).ok_or(ReconcileError::ForgedItem)
}
