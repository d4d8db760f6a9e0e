/// The bytes that are signed (RFC 9421, section 2.5): one line for each component, and last the parameters.
#[derive(Debug)]
pub(super) struct SignatureBase(Vec<u8>);

impl SignatureBase {
    pub(super) fn new() -> Self {
        // The base of a usual request fits, so it is allocated once.
        Self(Vec::with_capacity(768))
    }

    /// Adds a component. `id` is its identifier as `Signature-Input` spells it, with quotes.
    pub(super) fn component(&mut self, id: &str, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(id.as_bytes());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
        self
    }

    /// Adds the query, with the `?` that RFC 9421 (section 2.2.7) puts before every one, even before none.
    pub(super) fn query(&mut self, query: &str) -> &mut Self {
        self.0.extend_from_slice(b"\"@query\": ?");
        self.0.extend_from_slice(query.as_bytes());
        self.0.push(b'\n');
        self
    }

    /// The base with its last line.
    pub(super) fn finish(mut self, params: &str) -> Vec<u8> {
        self.0.extend_from_slice(b"\"@signature-params\": ");
        self.0.extend_from_slice(params.as_bytes());
        self.0
    }
}
