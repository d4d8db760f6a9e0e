macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What went wrong with a call: for a program to decide on, where [`ClientError`](super::ClientError)
        /// itself is for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ClientErrorKind { $($(#[$doc])* $kind,)* }

        impl ClientErrorKind {
            /// A name in snake case, as metrics and traces have it.
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
    /// The body of the answer is not what the endpoint answers.
    Decode = "decode",
    /// No connection came about.
    Dial = "dial",
    /// No connection came about within the limit of dialling.
    DialTimeout = "dial_timeout",
    /// `/ping` does not tell a name and a key, or those of another nara.
    Discovery = "discovery",
    /// The answer does less than the peer has proven that it can.
    Downgrade = "downgrade",
    /// A runtime message with the same id waits for its reply already.
    DuplicateMessage = "duplicate_message",
    /// The opening of a stream does not prove who serves it.
    Hello = "hello",
    /// The key or id of the responder contradicts what the registry knows, or the registry is full.
    Identity = "identity",
    /// The signature inside the body of the answer does not verify.
    InnerSignature = "inner_signature",
    /// The text that was given for a peer names none.
    InvalidPeer = "invalid_peer",
    /// The request cannot be sent as it is.
    InvalidRequest = "invalid_request",
    /// The trust policy does not believe the key of the responder.
    KeyRefused = "key_refused",
    /// The key of the peer was replaced or removed while its answer came.
    KeyReplaced = "key_replaced",
    /// No peer that answered knows the nara that was searched for.
    NobodyKnows = "nobody_knows",
    /// The reply to a runtime message did not come in time.
    NoReply = "no_reply",
    /// What answers is not HTTP.
    NotHttp = "not_http",
    /// Whoever answers at the address of a peer holds another key than the pinned one.
    OtherKey = "other_key",
    /// The reply to a runtime message is of another kind than was asked for.
    OtherReply = "other_reply",
    /// The peer breaks the rules of paging.
    Page = "page",
    /// The peer breaks the rules of reconciliation.
    Reconcile = "reconcile",
    /// The v2 signature of the answer does not verify.
    Signature = "signature",
    /// The stash that a peer gives back cannot be opened.
    Stash = "stash",
    /// The peer does not keep the stash that it was given.
    StashRefused = "stash_refused",
    /// The answer has another status than 200: see [`ClientError::status`](super::ClientError::status).
    Status = "status",
    /// The deadline of the call passed.
    Timeout = "timeout",
    /// No TLS connection came about.
    Tls = "tls",
    /// No TLS connection came about with a peer that has proven TLS, and without one it is not called.
    TlsGone = "tls_gone",
    /// The answer is larger than its limit.
    TooLarge = "too_large",
    /// Too many runtime messages wait for their replies.
    TooManyPending = "too_many_pending",
    /// The v1 signature of the answer does not verify, or is missing.
    Unauthenticated = "unauthenticated",
    /// The responder is not known, and its key cannot be learned.
    UnknownKey = "unknown_key",
    /// The registry does not have the peer, or not its address.
    UnknownPeer = "unknown_peer",
    /// The operator does not trust the peer.
    Untrusted = "untrusted",
}
