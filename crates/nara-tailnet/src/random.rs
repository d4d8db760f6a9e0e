/// Returns a random number for [`Backoff`](nara_mesh::proto::backoff::Backoff). Without randomness, pauses have no
/// jitter.
pub(crate) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}
