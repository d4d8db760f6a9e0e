/// Which signatures a nara makes and accepts. The client and the server of a nara must use the same setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signatures {
    /// Profile v2 ([`nara_proto::v2`]), and v1 signatures with peers that have not proven to support v2.
    #[default]
    V2AndV1,
    /// V1 signatures only, like v1 peers. Peers that have seen this nara sign with v2 refuse it until their operators
    /// reset it.
    V1Only,
}
