use bytes::{Bytes, BytesMut};

/// A body that arrives in pieces. Nearly all arrive in one piece, which is not copied.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    first: Bytes,
    /// The whole body, from the second piece on.
    all: BytesMut,
    expected: usize,
}

impl Gathered {
    /// Returns an empty body with an expected length in bytes.
    pub(crate) fn expecting(bytes: usize) -> Self {
        Self {
            expected: bytes,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.expected);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    pub(crate) fn finish(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_order() {
        for pieces in [&[][..], &["a"], &["", "a"], &["a", ""], &["ab", "c", "", "def"]] {
            let mut gathered = Gathered::default();
            for piece in pieces {
                gathered.push(Bytes::from_static(piece.as_bytes()));
            }
            let whole = pieces.concat();
            assert_eq!(gathered.len(), whole.len());
            assert_eq!(gathered.finish(), whole);
        }
    }
}
