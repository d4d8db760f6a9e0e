macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kind of a failed call: for programs, where [`ClientError`](super::ClientError) itself is for
        /// people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ClientErrorKind { $($(#[$doc])* $kind,)* }

        impl ClientErrorKind {
            /// Returns the kind in snake case, as used in metrics and traces.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// The peer asked for a pause: see [`ClientError::retry_after`](super::ClientError::retry_after).
    AskedToWait = "asked_to_wait",
    /// The connection broke before the answer was complete.
    Broken = "broken",
    /// The peer did not answer before and was not called: its circuit breaker is open.
    CircuitOpen = "circuit_open",
    /// The clocks of both sides are too far apart.
    ClockSkew = "clock_skew",
    /// The body of the answer does not have the format of the endpoint.
    Decode = "decode",
    /// No connection was established.
    Dial = "dial",
    /// No connection was established within the limit of dialling.
    DialTimeout = "dial_timeout",
    /// `/ping` gives no name and key, or another nara's.
    Discovery = "discovery",
    /// The answer proves less than the peer has proven before.
    Downgrade = "downgrade",
    /// A runtime message with the same id already awaits its reply.
    DuplicateMessage = "duplicate_message",
    /// The opening of a stream does not prove the identity of its server.
    Hello = "hello",
    /// The key or id of the responder contradicts what the registry knows, or the registry is full.
    Identity = "identity",
    /// The signature inside the body of the answer does not verify.
    InnerSignature = "inner_signature",
    /// The text does not identify a peer.
    InvalidPeer = "invalid_peer",
    /// The request is invalid.
    InvalidRequest = "invalid_request",
    /// The trust policy does not accept the key of the responder.
    KeyRefused = "key_refused",
    /// The key of the peer was replaced or removed during the call.
    KeyReplaced = "key_replaced",
    /// No peer that answered knows the nara that was searched for.
    NobodyKnows = "nobody_knows",
    /// The reply to a runtime message did not come in time.
    NoReply = "no_reply",
    /// The other end does not speak HTTP.
    NotHttp = "not_http",
    /// The other end holds a key other than the pinned one.
    OtherKey = "other_key",
    /// The reply to a runtime message is not of the requested kind.
    OtherReply = "other_reply",
    /// The peer violates the paging protocol.
    Page = "page",
    /// The peer violates the reconciliation protocol.
    Reconcile = "reconcile",
    /// The v2 signature of the answer does not verify.
    Signature = "signature",
    /// The stash that a peer returns cannot be opened.
    Stash = "stash",
    /// The peer refused to keep the stash.
    StashRefused = "stash_refused",
    /// The answer has another status than 200: see [`ClientError::status`](super::ClientError::status).
    Status = "status",
    /// The deadline of the call passed.
    Timeout = "timeout",
    /// No TLS connection was established.
    Tls = "tls",
    /// No TLS connection was established with a peer that has proven TLS; it is not called without.
    TlsGone = "tls_gone",
    /// The answer is larger than its limit.
    TooLarge = "too_large",
    /// Too many runtime messages await their replies.
    TooManyPending = "too_many_pending",
    /// The v1 signature of the answer does not verify, or is missing.
    Unauthenticated = "unauthenticated",
    /// The responder is unknown, and its key cannot be learned.
    UnknownKey = "unknown_key",
    /// The registry lacks the peer or its address.
    UnknownPeer = "unknown_peer",
    /// The operator banned the peer.
    Untrusted = "untrusted",
    /// The name or the id is that of this nara itself, and the registry has no such peer.
    OwnNara = "own_nara",
}
