//! A statement as words on paper: lines of 24 BIP 39 words, each with its own checksum, so that a mistake can be
//! located.

use bip39::{Language, Mnemonic};

use super::{InvalidSuccession, Succession};
use crate::identity::{NaraName, PublicKey, Signature};
use crate::time::UnixMillis;

/// The number of bytes in one line of words.
const LINE: usize = 32;
const WORDS_PER_LINE: usize = 24;
const VERSION: u8 = 1;
/// The maximum number of lines: the longest name fits.
const MAX_LINES: usize = (3 + 8 + 2 * (32 + 64) + NaraName::MAX_LEN).div_ceil(LINE);

/// The error for words that are not a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWords {
    /// The number of words is not a multiple of 24, or greater than any statement has.
    #[error(
        "there are {0} words; a statement has lines of {WORDS_PER_LINE} words, and at most {MAX_LINES} lines"
    )]
    Count(usize),
    /// A line, counted from 1, has a word that is not in the list, or a wrong checksum.
    #[error("a word in line {0} is wrong")]
    Line(usize),
    /// The lines are valid, but are not a statement, or not in order.
    #[error("the lines are not a statement: perhaps one is missing, or they are not in order")]
    Statement,
    /// The statement in the lines is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidSuccession),
}

impl Succession {
    /// Returns the lines of words, in order, of 24 words each.
    pub fn to_words(&self) -> Vec<String> {
        let mut bytes = vec![VERSION, 0, 0];
        bytes.extend(self.at.get().to_be_bytes());
        bytes.extend(self.old.as_bytes());
        bytes.extend(self.old_signature.as_bytes());
        if let Some((key, signature)) = &self.new {
            bytes.extend(key.as_bytes());
            bytes.extend(signature.as_bytes());
        }
        bytes.extend(self.name.as_str().as_bytes());
        // The length of the name; the highest bit tells whether there is a successor.
        let name_len = u16::try_from(self.name.as_str().len()).expect("at most 1,024");
        let head = name_len | if self.new.is_some() { 0x8000 } else { 0 };
        bytes[1..3].copy_from_slice(&head.to_be_bytes());
        bytes.resize(bytes.len().next_multiple_of(LINE), 0);
        let lines = bytes.chunks_exact(LINE).map(|line| {
            let words = Mnemonic::from_entropy_in(Language::English, line);
            words.expect("32 bytes are 24 words").to_string()
        });
        lines.collect()
    }

    /// Parses the output of [`to_words`](Self::to_words), with any white space between the words and in any case.
    ///
    /// # Errors
    /// [`InvalidWords`].
    pub fn from_words(text: &str) -> Result<Self, InvalidWords> {
        let most = MAX_LINES * WORDS_PER_LINE;
        let words: Vec<String> = text
            .split_whitespace()
            .take(most + 1)
            .map(str::to_lowercase)
            .collect();
        if words.is_empty() || words.len() > most || !words.len().is_multiple_of(WORDS_PER_LINE) {
            return Err(InvalidWords::Count(words.len()));
        }
        let mut bytes = Vec::with_capacity(words.len() / WORDS_PER_LINE * LINE);
        for (index, line) in words.chunks_exact(WORDS_PER_LINE).enumerate() {
            let line = Mnemonic::parse_in_normalized(Language::English, &line.join(" "));
            bytes.extend(line.map_err(|_| InvalidWords::Line(index + 1))?.to_entropy());
        }
        read(&bytes)
            .ok_or(InvalidWords::Statement)?
            .verified()
            .map_err(Into::into)
    }
}

fn read(bytes: &[u8]) -> Option<Succession> {
    let (&version, mut rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    let head = u16::from_be_bytes(take(&mut rest)?);
    let at = i64::from_be_bytes(take(&mut rest)?);
    let old = PublicKey::from_bytes(take(&mut rest)?).ok()?;
    let old_signature = Signature::from_bytes(take(&mut rest)?);
    let new = if head & 0x8000 == 0 {
        None
    } else {
        let key = PublicKey::from_bytes(take(&mut rest)?).ok()?;
        Some((key, Signature::from_bytes(take(&mut rest)?)))
    };
    let (name, padding) = rest.split_at_checked(usize::from(head & 0x7fff))?;
    if padding.len() >= LINE || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Succession {
        name: NaraName::new(std::str::from_utf8(name).ok()?).ok()?,
        old,
        old_signature,
        new,
        at: UnixMillis::new(at),
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}
