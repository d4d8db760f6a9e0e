//! The memory budget of a message that is read from JSON.
//!
//! A limit on the length of the text does not protect the reader: `{}` or `""` takes a hundred times as much memory.
//! Genuine messages stay far below these bounds: an unsigned event takes twice the length of its text.

use std::cell::Cell;

/// Bytes of lists and objects per byte of JSON.
const FACTOR: usize = 4;

/// The allowance on top, so that small messages are never refused.
const ALLOWANCE: usize = 64 << 10;

thread_local! {
    /// The remaining budget of the message that this thread reads. A message is read without interruption.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The budget of one message; dropping it restores the budget of the enclosing message.
pub(super) struct Budget {
    outer: usize,
}

impl Budget {
    /// Sets the budget of a message with this many bytes of JSON.
    pub(super) fn of(json: usize) -> Self {
        let outer = LEFT.replace(json.saturating_mul(FACTOR).saturating_add(ALLOWANCE));
        Self { outer }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.set(self.outer);
    }
}

/// Spends the bytes of one more value.
pub(super) fn spend<T, E: serde::de::Error>() -> Result<(), E> {
    let left = LEFT.get().checked_sub(size_of::<T>());
    LEFT.set(left.ok_or_else(|| E::custom("it takes too much memory for the length of its text"))?);
    Ok(())
}
