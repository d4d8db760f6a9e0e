//! Text in TOML files.

use nara_proto::identity::is_hidden;

/// Returns a text as a TOML basic string, with its quotes. Invisible characters are escaped, so that a reader of the
/// file sees them.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            hidden if is_hidden(hidden) => quoted.push_str(&format!("\\U{:08X}", u32::from(hidden))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns the line of a byte, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}
