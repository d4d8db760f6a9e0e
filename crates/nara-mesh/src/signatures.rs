/// Which signatures a nara makes and accepts. The client and the server of one nara must have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signatures {
    /// Profile v2 ([`nara_proto::v2`]), and the inherited one with peers that have not proven that they can do
    /// better.
    #[default]
    V2AndV1,
    /// The inherited one only, as v1 peers. Peers that have seen this nara sign with v2 before
    /// refuse it until their operators reset it.
    V1Only,
}
