//! How much memory a message may take that is read from JSON.
//!
//! A limit on the bytes of a text does not protect its reader: `{}` or `""` takes up a hundred times as much when it is
//! read. No genuine message gets near to these bounds: an event without a signature takes twice what its text does.

use std::cell::Cell;

/// Bytes of lists and objects for each byte of JSON.
const FACTOR: usize = 4;

/// What may come on top, so that small messages are never refused.
const ANYWAY: usize = 64 << 10;

thread_local! {
    /// What is left for the message that this thread reads. A message is read in one go.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The budget of one message; dropped, that of the one around it applies again.
pub(super) struct Budget {
    outer: usize,
}

impl Budget {
    /// The budget of a message with so many bytes of JSON.
    pub(super) fn of(json: usize) -> Self {
        let outer = LEFT.replace(json.saturating_mul(FACTOR).saturating_add(ANYWAY));
        Self { outer }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.set(self.outer);
    }
}

/// Takes the bytes of one more value.
pub(super) fn spend<T, E: serde::de::Error>() -> Result<(), E> {
    let left = LEFT.get().checked_sub(size_of::<T>());
    LEFT.set(left.ok_or_else(|| E::custom("it takes too much memory for the length of its text"))?);
    Ok(())
}
