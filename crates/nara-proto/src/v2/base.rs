use super::fields::append_byte_sequence;

/// The bytes that are signed (RFC 9421, section 2.5): one line for each component, and last the parameters.
#[derive(Debug)]
pub(super) struct SignatureBase(String);

impl SignatureBase {
    pub(super) fn new() -> Self {
        // The base of a usual request fits, so it is allocated once.
        Self(String::with_capacity(768))
    }

    /// Adds a component. `id` is its identifier as `Signature-Input` spells it, with quotes.
    pub(super) fn component(&mut self, id: &str, value: &str) -> &mut Self {
        self.line(id, |line| line.push_str(value))
    }

    /// Adds a field that holds one byte sequence.
    pub(super) fn byte_sequence(&mut self, id: &str, prefix: &str, bytes: &[u8]) -> &mut Self {
        self.line(id, |line| append_byte_sequence(prefix, bytes, line))
    }

    /// Adds the query, with the `?` that RFC 9421 (section 2.2.7) puts before every one, even before none.
    pub(super) fn query(&mut self, query: &str) -> &mut Self {
        self.line("\"@query\"", |line| {
            line.push('?');
            line.push_str(query);
        })
    }

    /// The base with its last line.
    pub(super) fn finish(mut self, params: &str) -> Vec<u8> {
        self.0.push_str("\"@signature-params\": ");
        self.0.push_str(params);
        self.0.into_bytes()
    }

    fn line(&mut self, id: &str, write_value: impl FnOnce(&mut String)) -> &mut Self {
        self.0.push_str(id);
        self.0.push_str(": ");
        write_value(&mut self.0);
        self.0.push('\n');
        self
    }
}
