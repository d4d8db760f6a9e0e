use super::{ArrivalCursor, InvalidArrivalCursor, LedgerEpoch};
use crate::identity::{InvalidName, KeyPair, NaraId, NaraName, PublicKey, Signature};
use crate::time::UnixMillis;
use crate::wire_struct;

wire_struct! {
    /// The first message of a stream: the server and the parameters of the stream, signed for the request that it
    /// answers.
    pub struct Hello {
        /// The name of the server.
        pub from: String = "from",
        /// The nara id of the server.
        pub id: String = "id",
        /// The time of signing, in **milliseconds**.
        pub ts: UnixMillis = "ts",
        /// The epoch of the server's ledger: see [`LedgerEpoch`].
        pub epoch: String = "epoch",
        /// The position of the newest event in the ledger: the stream has caught up when it reaches it.
        pub position: i64 = "position",
        /// The position behind which the stream begins.
        pub start: i64 = "start",
        /// The reason for this position: see [`StreamStart`].
        pub reason: String = "reason",
        /// The longest pause between messages, in **milliseconds**: then a `ping` follows.
        pub keep_alive_ms: i64 = "keep_alive_ms",
        /// Further capabilities of the server: words of letters, digits, `-` and `/`.
        pub capabilities: Option<Vec<String>> = "capabilities",
        /// The signature, base64: see [`Hello::signed_text`].
        pub sig: String = "sig",
    }
}

/// The parts of the request that a `hello` answers. A v1 signature covers neither query nor headers, so the signature
/// of the `hello` does.
#[derive(Clone, Copy, Debug)]
pub struct StreamOpening<'a> {
    /// The signature of the request, base64: the v2 signature if the request carries both.
    pub request_signature: &'a str,
    /// The query of the request as on the request line, without `?`; empty without one.
    pub query: &'a str,
    /// The `Last-Event-ID` of the request; empty without one.
    pub last_event_id: &'a str,
}

/// The reason for the position at which a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamStart {
    /// It begins behind the cursor of the request.
    Cursor,
    /// It begins with the next event to arrive: the request has neither cursor nor `since`.
    Now,
    /// It begins with the oldest event: the cursor of the request belongs to another ledger, and the request has no
    /// `since`.
    ReplacedOldest,
    /// It begins with `since`: the cursor of the request belongs to another ledger.
    ReplacedSince,
    /// It begins with `since`: the request has no cursor.
    Since,
}

impl StreamStart {
    const ALL: [Self; 5] = [
        Self::Cursor,
        Self::Now,
        Self::ReplacedOldest,
        Self::ReplacedSince,
        Self::Since,
    ];

    /// Returns the word in [`Hello::reason`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::Now => "now",
            Self::ReplacedOldest => "replaced-oldest",
            Self::ReplacedSince => "replaced-since",
            Self::Since => "since",
        }
    }

    /// Returns whether the cursor of the request was unusable, because it belongs to another ledger.
    pub const fn is_replaced(self) -> bool {
        matches!(self, Self::ReplacedOldest | Self::ReplacedSince)
    }
}

/// The reason why a `hello` does not prove the server of the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// A capability is malformed.
    #[error("a capability in the hello is malformed")]
    Capability,
    /// The epoch or a position is malformed.
    #[error("the epoch or a position in the hello is malformed")]
    Cursor(#[from] InvalidArrivalCursor),
    /// The nara id is malformed.
    #[error("the nara id in the hello is malformed")]
    Id,
    /// The name is malformed.
    #[error("the name in the hello is malformed")]
    Name(#[from] InvalidName),
    /// The reason is unknown.
    #[error("the hello gives an unknown reason")]
    Reason,
    /// The signature is not the server's over this `hello` and this request.
    #[error("the signature of the hello does not verify for this request")]
    Signature,
}

impl Hello {
    /// Returns the text that is signed: eleven lines, joined with `\n`, without a final one.
    ///
    /// ```text
    /// nara-mesh/stream/1
    /// {signature of the request, base64}
    /// {query of the request}
    /// {Last-Event-ID of the request}
    /// {from}
    /// {id}
    /// {ts, ms}
    /// {epoch}:{start}
    /// {position}
    /// {reason} {keep_alive_ms}
    /// {capabilities, joined with one space}
    /// ```
    ///
    /// No other signature of a nara covers a text with this first line: names have no control characters, and requests
    /// and responses begin with a name and a time without a separator. No line can contain a line break, which
    /// [`Hello::check`] ensures. Since a client never signs two requests with the same time, a `hello` is valid for one
    /// request only.
    pub fn signed_text(&self, opening: StreamOpening<'_>) -> String {
        let capabilities = self.capabilities.as_deref().unwrap_or_default().join(" ");
        format!(
            "nara-mesh/stream/1\n{}\n{}\n{}\n{}\n{}\n{}\n{}:{}\n{}\n{} {}\n{capabilities}",
            opening.request_signature,
            opening.query,
            opening.last_event_id,
            self.from,
            self.id,
            self.ts,
            self.epoch,
            self.start,
            self.position,
            self.reason,
            self.keep_alive_ms,
        )
    }

    /// Signs this `hello` as the answer to a request.
    pub fn sign(&mut self, opening: StreamOpening<'_>, keypair: &KeyPair) {
        self.sig = keypair.sign(self.signed_text(opening).as_bytes()).to_base64();
    }

    /// Checks the form of every part; returns the name of the claimed server.
    ///
    /// # Errors
    /// All variants of [`HelloError`] except [`HelloError::Signature`].
    pub fn check(&self) -> Result<NaraName, HelloError> {
        let name = NaraName::new(&self.from)?;
        self.id.parse::<NaraId>().map_err(|_| HelloError::Id)?;
        self.start()?;
        if self.position < 0 {
            return Err(InvalidArrivalCursor.into());
        }
        self.reason()?;
        let words = self.capabilities.iter().flatten();
        let mut letters = words.map(|word| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/');
            !word.is_empty() && word.bytes().all(plain)
        });
        if letters.any(|plain| !plain) {
            return Err(HelloError::Capability);
        }
        Ok(name)
    }

    /// Verifies that the holder of `key` made this `hello` for this request.
    ///
    /// # Errors
    /// [`HelloError::Signature`], and the errors of [`Hello::check`].
    pub fn verify(&self, opening: StreamOpening<'_>, key: &PublicKey) -> Result<(), HelloError> {
        self.check()?;
        let signature = Signature::from_base64(&self.sig).map_err(|_| HelloError::Signature)?;
        key.verify(self.signed_text(opening).as_bytes(), &signature)
            .map_err(|_| HelloError::Signature)
    }

    /// Returns the position at which the stream begins.
    ///
    /// # Errors
    /// [`HelloError::Cursor`].
    pub fn start(&self) -> Result<ArrivalCursor, HelloError> {
        let start = format!("{}:{}", self.epoch, self.start);
        Ok(start.parse()?)
    }

    /// Returns the epoch of the ledger.
    ///
    /// # Errors
    /// [`HelloError::Cursor`].
    pub fn epoch(&self) -> Result<LedgerEpoch, HelloError> {
        Ok(self.start()?.epoch)
    }

    /// Returns the reason for the start position.
    ///
    /// # Errors
    /// [`HelloError::Reason`].
    pub fn reason(&self) -> Result<StreamStart, HelloError> {
        let mut all = StreamStart::ALL.into_iter();
        all.find(|reason| reason.as_str() == self.reason)
            .ok_or(HelloError::Reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Soul;

    const OPENING: StreamOpening<'static> = StreamOpening {
        request_signature: "c2ln",
        query: "services=seen",
        last_event_id: "00000000000000ab:3",
    };

    fn keypair() -> KeyPair {
        KeyPair::from_soul(&Soul::bond([3; 32], "bob"))
    }

    fn hello() -> Hello {
        let mut hello = Hello {
            from: "bob".to_owned(),
            id: NaraId::derive(&Soul::bond([3; 32], "bob"), "bob").to_string(),
            ts: UnixMillis::new(1_769_100_000_250),
            epoch: "00000000000000ab".to_owned(),
            position: 7,
            start: 3,
            reason: "cursor".to_owned(),
            keep_alive_ms: 15_000,
            capabilities: Some(vec!["stream/1".to_owned()]),
            sig: String::new(),
        };
        hello.sign(OPENING, &keypair());
        hello
    }

    #[test]
    fn a_hello_belongs_to_its_request() {
        let hello = hello();
        let key = keypair().public_key();
        assert_eq!(hello.verify(OPENING, &key), Ok(()));
        for other in [
            StreamOpening {
                request_signature: "c2lo",
                ..OPENING
            },
            StreamOpening { query: "", ..OPENING },
            StreamOpening {
                last_event_id: "",
                ..OPENING
            },
        ] {
            assert_eq!(hello.verify(other, &key), Err(HelloError::Signature), "{other:?}");
        }
    }

    #[test]
    fn every_field_of_a_hello_is_signed() {
        let key = keypair().public_key();
        let changes: [fn(&mut Hello); 9] = [
            |hello| hello.from.push('x'),
            |hello| hello.id = NaraId::derive(&Soul::bond([4; 32], "bob"), "bob").to_string(),
            |hello| hello.ts = UnixMillis::new(1),
            |hello| hello.epoch = "00000000000000ac".to_owned(),
            |hello| hello.position += 1,
            |hello| hello.start += 1,
            |hello| hello.reason = "now".to_owned(),
            |hello| hello.keep_alive_ms += 1,
            |hello| hello.capabilities = None,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = hello();
            change(&mut changed);
            assert_eq!(
                changed.verify(OPENING, &key),
                Err(HelloError::Signature),
                "change {index}"
            );
        }
    }

    #[test]
    fn a_hello_with_a_line_break_is_refused_even_if_signed() {
        let key = keypair().public_key();
        let changes: [fn(&mut Hello); 5] = [
            |hello| hello.from.push('\n'),
            |hello| hello.id.push('\n'),
            |hello| hello.epoch.push('\n'),
            |hello| hello.reason.push('\n'),
            |hello| hello.capabilities = Some(vec!["a\nb".to_owned()]),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = hello();
            change(&mut changed);
            changed.sign(OPENING, &keypair());
            assert!(changed.check().is_err(), "change {index}");
            assert!(changed.verify(OPENING, &key).is_err(), "change {index}");
        }
    }

    #[test]
    fn the_signed_text_is_as_documented() {
        let hello = hello();
        let expected = format!(
            "nara-mesh/stream/1\nc2ln\nservices=seen\n00000000000000ab:3\nbob\n{}\n1769100000250\n\
             00000000000000ab:3\n7\ncursor 15000\nstream/1",
            hello.id
        );
        assert_eq!(hello.signed_text(OPENING), expected);
    }
}
