use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::time::UnixMillis;

use super::{KeyConflict, KeySource, PeerProtocol, PinnedKey};

/// What the operator last decided about a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorDecision {
    /// What.
    pub verdict: Verdict,
    /// When, in milliseconds. A later decision has a later time, whatever the clock says.
    pub at: UnixMillis,
}

/// What an operator can decide about a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Forgotten: everything learned until then is void, and the nara is a stranger.
    Forgotten,
    /// Trusted with its key.
    Trusted,
    /// Banned: neither its requests nor calls to it are allowed, whatever key it has.
    Untrusted,
}

/// What outlives the process about a nara.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its name.
    pub name: NaraName,
    /// Its id, if known.
    pub id: Option<NaraId>,
    /// Its key, with how, when and from where it was learned.
    pub key: Option<PinnedKey>,
    /// The protocols that the holder of this key has proven.
    pub protocol: PeerProtocol,
    /// The last decision of the operator.
    pub decision: Option<OperatorDecision>,
    /// Whether it has proven once that it holds this key.
    pub seen: bool,
}

/// A change of a peer record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerChange {
    /// Learned data. It never replaces a key, except by a configured one, and never undoes a decision of the
    /// operator.
    Learn(Box<PeerRecord>),
    /// The operator trusts it.
    Trust {
        /// Its key; `None` for the known key. Without any, a ban is lifted, and nothing else is decided.
        key: Option<PublicKey>,
        /// Whether to replace another key. The protocols proven with the old key are then void.
        replace: bool,
        /// When, in milliseconds.
        at: UnixMillis,
    },
    /// The operator bans it.
    Untrust {
        /// When, in milliseconds.
        at: UnixMillis,
    },
    /// The operator forgets it, decisions included.
    Forget {
        /// When, in milliseconds.
        at: UnixMillis,
    },
}

/// Why a decision of the operator cannot be applied. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerChangeError {
    /// Another key is known.
    #[error(transparent)]
    KeyConflict(#[from] KeyConflict),
    /// No key is known that could be trusted.
    #[error("no key is known for {0}: give the key to trust")]
    NoKey(NaraName),
}

impl PeerRecord {
    /// Nothing but a name.
    pub fn new(name: NaraName) -> Self {
        Self {
            name,
            id: None,
            key: None,
            protocol: PeerProtocol::default(),
            decision: None,
            seen: false,
        }
    }

    /// Whether it is known only because another nara introduced it, and nothing was decided about it.
    pub fn is_ghost(&self) -> bool {
        !self.seen
            && self.decision.is_none()
            && self
                .key
                .as_ref()
                .is_some_and(|key| key.source.introducer().is_some())
    }

    /// Makes a change.
    ///
    /// # Errors
    /// [`PeerChangeError`]; nothing is changed then.
    pub fn apply(&mut self, change: PeerChange) -> Result<(), PeerChangeError> {
        match change {
            PeerChange::Learn(learned) => self.learn(*learned),
            PeerChange::Trust { key, replace, at } => return self.trust(key, replace, at),
            PeerChange::Untrust { at } => self.decide(Verdict::Untrusted, at),
            PeerChange::Forget { at } => {
                *self = Self {
                    decision: self.decision,
                    ..Self::new(self.name.clone())
                };
                self.decide(Verdict::Forgotten, at);
            }
        }
        Ok(())
    }

    /// Takes over what was learned: see [`PeerChange::Learn`].
    pub(crate) fn learn(&mut self, learned: Self) {
        let Some(key) = learned.key else { return };
        match self.decision {
            Some(decision) if decision.verdict == Verdict::Untrusted => return,
            // Whoever learned it has not heard of the decision yet.
            Some(decision) if decision.verdict == Verdict::Forgotten && key.learned_at <= decision.at => {
                return;
            }
            _ => {}
        }
        match &self.key {
            Some(known) if known.key == key.key => {}
            Some(_) if key.source != KeySource::Configured => return,
            _ => {
                self.id = None;
                self.protocol = PeerProtocol::default();
                self.seen = false;
                self.key = Some(key);
            }
        }
        self.seen |= learned.seen;
        self.id = self.id.take().or(learned.id);
        self.protocol = self.protocol.union(learned.protocol);
    }

    fn trust(
        &mut self,
        key: Option<PublicKey>,
        replace: bool,
        at: UnixMillis,
    ) -> Result<(), PeerChangeError> {
        let known = self.key.as_ref();
        let Some(key) = key.or_else(|| known.map(|known| known.key)) else {
            // A ban is lifted without a key: what is configured or learned from now on counts.
            if self
                .decision
                .is_some_and(|decision| decision.verdict == Verdict::Untrusted)
            {
                self.decide(Verdict::Forgotten, at);
                return Ok(());
            }
            return Err(PeerChangeError::NoKey(self.name.clone()));
        };
        let other = known.filter(|known| known.key != key);
        if let Some(other) = other.filter(|_| !replace) {
            return Err(PeerChangeError::KeyConflict(KeyConflict {
                name: self.name.clone(),
                pinned: Box::new(other.clone()),
                offered: key,
                offered_by: KeySource::Operator,
            }));
        }
        if other.is_some() {
            // Another soul has another id.
            self.id = None;
            self.seen = false;
        }
        if replace {
            self.protocol = PeerProtocol::default();
        }
        self.key = Some(PinnedKey {
            name: self.name.clone(),
            id: self.id.clone(),
            key,
            source: KeySource::Operator,
            learned_at: at,
        });
        self.decide(Verdict::Trusted, at);
        Ok(())
    }

    fn decide(&mut self, verdict: Verdict, at: UnixMillis) {
        let at = match self.decision {
            // A clock that was set back must not make a new decision look like an old one.
            Some(before) if at <= before.at => UnixMillis::new(before.at.get().saturating_add(1)),
            _ => at,
        };
        self.decision = Some(OperatorDecision { verdict, at });
    }
}

impl Verdict {
    /// All of them.
    const ALL: [Self; 3] = [Self::Forgotten, Self::Trusted, Self::Untrusted];

    /// Its word: for databases and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forgotten => "forgotten",
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }

    /// The verdict with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == word)
    }
}

impl OperatorDecision {
    /// Whether it was made later than another one.
    pub(crate) fn is_newer_than(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| self.at > other.at)
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::*;

    const V2: PeerProtocol = PeerProtocol {
        v2: true,
        tls: false,
        raw_public_key: false,
    };

    fn bob() -> PeerRecord {
        PeerRecord::new("bob".parse().unwrap())
    }

    fn at(ms: i64) -> UnixMillis {
        UnixMillis::new(ms)
    }

    fn public_key(seed: u8) -> PublicKey {
        KeyPair::from_soul(&Soul::bond([seed; 32], "bob")).public_key()
    }

    fn key(seed: u8, source: KeySource, learned_at: i64) -> PinnedKey {
        PinnedKey {
            name: "bob".parse().unwrap(),
            id: None,
            key: public_key(seed),
            source,
            learned_at: at(learned_at),
        }
    }

    fn learn(record: &mut PeerRecord, key: PinnedKey, protocol: PeerProtocol) {
        let learned = PeerRecord {
            key: Some(key),
            protocol,
            ..bob()
        };
        record.apply(PeerChange::Learn(Box::new(learned))).unwrap();
    }

    fn hearsay(seed: u8, learned_at: i64) -> PinnedKey {
        key(seed, KeySource::HeyThere { told_by: None }, learned_at)
    }

    #[test]
    fn what_is_learned_never_replaces_a_key_nor_lends_it_what_another_has_proven() {
        let mut record = bob();
        learn(&mut record, hearsay(1, 1), PeerProtocol::default());
        learn(&mut record, hearsay(2, 2), V2);
        assert_eq!(record.key, Some(hearsay(1, 1)));
        assert!(record.protocol.is_empty());
        learn(&mut record, hearsay(1, 3), V2);
        assert_eq!((record.key.clone(), record.protocol), (Some(hearsay(1, 1)), V2));
        // What is proven stays proven.
        learn(&mut record, hearsay(1, 4), PeerProtocol::default());
        assert_eq!(record.protocol, V2);
        learn(
            &mut record,
            key(3, KeySource::Configured, 5),
            PeerProtocol::default(),
        );
        assert_eq!(record.key, Some(key(3, KeySource::Configured, 5)));
        assert!(record.protocol.is_empty(), "that was proven with another key");
    }

    #[test]
    fn only_with_replace_another_key_is_trusted_and_then_nothing_is_proven() {
        let mut record = bob();
        learn(&mut record, hearsay(1, 1), V2);
        let trust = |key, replace| PeerChange::Trust {
            key,
            replace,
            at: at(5),
        };
        let error = record.apply(trust(Some(public_key(2)), false)).unwrap_err();
        assert!(matches!(error, PeerChangeError::KeyConflict(_)));
        assert_eq!(record.key, Some(hearsay(1, 1)));

        // To confirm the key keeps what was proven with it; to replace it by itself resets that.
        record.apply(trust(None, false)).unwrap();
        assert_eq!(
            (record.key.clone(), record.protocol),
            (Some(key(1, KeySource::Operator, 5)), V2)
        );
        record.apply(trust(None, true)).unwrap();
        assert!(record.protocol.is_empty());
        learn(&mut record, hearsay(1, 6), V2);
        record.apply(trust(Some(public_key(2)), true)).unwrap();
        assert_eq!(record.key, Some(key(2, KeySource::Operator, 5)));
        assert!(record.protocol.is_empty());
        assert_eq!(
            bob().apply(trust(None, true)),
            Err(PeerChangeError::NoKey("bob".parse().unwrap()))
        );
    }

    #[test]
    fn nothing_is_learned_of_an_untrusted_nara() {
        let mut record = bob();
        record.apply(PeerChange::Untrust { at: at(5) }).unwrap();
        learn(&mut record, hearsay(1, 9), V2);
        assert_eq!(record.key, None);
    }

    #[test]
    fn what_was_learned_before_it_was_forgotten_does_not_come_back() {
        let mut record = bob();
        learn(&mut record, hearsay(1, 4), V2);
        record.apply(PeerChange::Forget { at: at(5) }).unwrap();
        assert_eq!((&record.key, record.protocol.is_empty()), (&None, true));
        learn(&mut record, hearsay(1, 5), V2);
        assert_eq!(record.key, None);
        learn(&mut record, hearsay(2, 6), V2);
        assert_eq!(record.key, Some(hearsay(2, 6)));
    }

    #[test]
    fn a_later_decision_has_a_later_time_though_the_clock_was_set_back() {
        let mut record = bob();
        record.apply(PeerChange::Untrust { at: at(5) }).unwrap();
        record.apply(PeerChange::Forget { at: at(3) }).unwrap();
        let decision = record.decision.unwrap();
        assert_eq!((decision.verdict, decision.at), (Verdict::Forgotten, at(6)));
    }
}
