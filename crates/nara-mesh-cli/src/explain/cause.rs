//! Finds the likely cause of a signature that does not verify: tries common signing mistakes.

use nara_proto::identity::{PublicKey, Signature};
use nara_proto::v1::signed_path;
use sha2::{Digest as _, Sha256};

use super::claim::Claim;

/// A mistake that explains a signature.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The bytes that were actually signed.
    pub(crate) base: Vec<u8>,
    /// The mistakes, most important first.
    pub(crate) causes: Vec<String>,
}

/// One candidate value of a part of the signature base; the correct one has no cause.
#[derive(Clone, Debug)]
struct Variant {
    bytes: Vec<u8>,
    cause: Option<String>,
}

impl Variant {
    fn right(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            cause: None,
        }
    }

    fn wrong(bytes: impl Into<Vec<u8>>, cause: impl Into<String>) -> Self {
        Self {
            bytes: bytes.into(),
            cause: Some(cause.into()),
        }
    }
}

/// The candidate values of each part of the base: name, timestamp, method, path and separator.
///
/// The first variant of each part is the correct one.
#[derive(Debug)]
pub(crate) struct Candidates {
    parts: [Vec<Variant>; 5],
    keys: Vec<(PublicKey, Option<String>)>,
}

/// The most mistakes that are combined: the search grows exponentially, and more are unlikely.
const MAX_MISTAKES: usize = 2;

impl Candidates {
    /// Returns the candidates for a claim.
    pub(crate) fn new(claim: &Claim<'_>, key: &PublicKey, others: &[(String, PublicKey)]) -> Self {
        let mut keys = vec![(*key, None)];
        let other_keys = others.iter().filter(|(_, other)| other != key);
        keys.extend(
            other_keys.map(|(name, other)| (*other, Some(format!("it was signed with the key of {name}")))),
        );
        Self {
            parts: [
                distinct(names(claim.name, others)),
                distinct(timestamps(claim.timestamp)),
                distinct(methods(claim.method)),
                distinct(paths(claim.path)),
                separators(),
            ],
            keys,
        }
    }

    /// Returns the first candidate that the signature verifies over, in order of the number of mistakes.
    pub(crate) fn find(&self, signature: &Signature) -> Option<Attempt> {
        (1..=MAX_MISTAKES).find_map(|mistakes| self.find_with(mistakes, &mut Vec::new(), signature))
    }

    /// Chooses a variant for each part in turn; `mistakes` is the number still to be made.
    fn find_with<'a>(
        &'a self,
        mistakes: usize,
        chosen: &mut Vec<&'a Variant>,
        signature: &Signature,
    ) -> Option<Attempt> {
        let Some(variants) = self.parts.get(chosen.len()) else {
            return self.try_keys(mistakes, chosen, signature);
        };
        variants.iter().find_map(|variant| {
            let left = mistakes.checked_sub(usize::from(variant.cause.is_some()))?;
            chosen.push(variant);
            let found = self.find_with(left, chosen, signature);
            chosen.pop();
            found
        })
    }

    /// Tries every key with the chosen parts. A wrong key and a pre-hash count as mistakes; all `mistakes`
    /// must be used up.
    fn try_keys(&self, mistakes: usize, chosen: &[&Variant], signature: &Signature) -> Option<Attempt> {
        let (separator, parts) = chosen.split_last()?;
        let parts: Vec<&[u8]> = parts.iter().map(|part| &*part.bytes).collect();
        let plain = parts.join(&*separator.bytes);
        let hashed = "the string was hashed with SHA-256 before it was signed";
        self.keys.iter().find_map(|(key, other_key)| {
            let left = mistakes.checked_sub(usize::from(other_key.is_some()))?;
            let (base, digest) = match left {
                0 => (plain.clone(), None),
                1 => (Sha256::digest(&plain).to_vec(), Some(hashed.to_owned())),
                _ => return None,
            };
            key.verify(&base, signature).ok()?;
            let of_parts = chosen.last().into_iter().chain(&chosen[..chosen.len() - 1]);
            let of_parts = of_parts.filter_map(|part| part.cause.clone());
            let causes = digest
                .into_iter()
                .chain(other_key.clone())
                .chain(of_parts)
                .collect();
            Some(Attempt { base, causes })
        })
    }
}

fn names(name: &str, others: &[(String, PublicKey)]) -> Vec<Variant> {
    let other_case = "the name was signed in another case";
    let mut names = vec![
        Variant::right(name),
        Variant::wrong(name.to_lowercase(), other_case),
        Variant::wrong(name.to_uppercase(), other_case),
        Variant::wrong(format!("{name} "), "the name was signed with a trailing space"),
        Variant::wrong(format!(" {name}"), "the name was signed with a leading space"),
        Variant::wrong("", "the name was left out"),
    ];
    for (other, _) in others.iter().filter(|(other, _)| other != name) {
        names.push(Variant::wrong(
            other.as_str(),
            format!("the request was signed for the name {other}"),
        ));
    }
    names
}

/// Removes variants whose bytes equal those of an earlier one.
fn distinct(variants: Vec<Variant>) -> Vec<Variant> {
    let mut kept: Vec<Variant> = Vec::with_capacity(variants.len());
    for variant in variants {
        if kept.iter().all(|other| other.bytes != variant.bytes) {
            kept.push(variant);
        }
    }
    kept
}

fn timestamps(text: &str) -> Vec<Variant> {
    let Ok(value) = text.parse::<i64>() else {
        return vec![Variant::wrong(text, "the timestamp is not a number")];
    };
    let wrong = |value: i64, unit| {
        let cause = format!("the timestamp was signed in {unit}, the header has milliseconds");
        Variant::wrong(value.to_string(), cause)
    };
    vec![
        Variant::right(value.to_string()),
        Variant::wrong(text, "the timestamp was signed in the spelling of the header"),
        wrong(value.div_euclid(1_000), "seconds"),
        wrong(value.saturating_mul(1_000), "microseconds"),
        wrong(value.saturating_mul(1_000_000), "nanoseconds"),
        Variant::wrong("", "the timestamp was left out"),
    ]
}

fn methods(method: &str) -> Vec<Variant> {
    let mut methods = vec![
        Variant::right(method),
        Variant::wrong(method.to_lowercase(), "the method was signed in lower case"),
        Variant::wrong(method.to_uppercase(), "the method was signed in upper case"),
    ];
    for other in ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"] {
        methods.push(Variant::wrong(
            other,
            format!("the request was signed for the method {other}"),
        ));
    }
    methods.push(Variant::wrong("", "the method was left out"));
    methods
}

fn paths(path: &str) -> Vec<Variant> {
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    let decoded = signed_path(bare).into_owned();
    let mut paths = vec![
        Variant::right(decoded.clone()),
        Variant::wrong(bare, "the path was signed without percent-decoding"),
    ];
    if !query.is_empty() {
        let cause = "the query was signed too";
        paths.push(Variant::wrong(
            [decoded.as_slice(), b"?", query.as_bytes()].concat(),
            cause,
        ));
        paths.push(Variant::wrong(signed_path(path), cause));
        paths.push(Variant::wrong(
            path,
            "the query was signed too, and the path was not percent-decoded",
        ));
    }
    if let Ok(text) = std::str::from_utf8(&decoded) {
        let twice = signed_path(text).into_owned();
        paths.push(Variant::wrong(twice, "the path was percent-decoded twice"));
        let toggled = text
            .strip_suffix('/')
            .map_or_else(|| format!("{text}/"), str::to_owned);
        paths.push(Variant::wrong(
            toggled,
            "the path was signed with a different trailing slash",
        ));
        let without = text
            .strip_prefix('/')
            .map_or_else(|| format!("/{text}"), str::to_owned);
        paths.push(Variant::wrong(
            without,
            "the path was signed with a different leading slash",
        ));
        paths.push(Variant::wrong(
            text.replace('+', " "),
            "+ in the path was read as a space",
        ));
        paths.push(Variant::wrong(
            text.to_lowercase(),
            "the path was signed in lower case",
        ));
    }
    paths.push(Variant::wrong(
        "",
        "the path was left out (a URL without a path is sent as /)",
    ));
    paths
}

fn separators() -> Vec<Variant> {
    let mut separators = vec![Variant::right("")];
    for (bytes, word) in [
        ("\n", "a line break"),
        (":", "a colon"),
        ("|", "a bar"),
        (" ", "a space"),
        ("+", "a plus"),
    ] {
        separators.push(Variant::wrong(
            bytes,
            format!("the parts were joined with {word}; they must be joined without a separator"),
        ));
    }
    separators
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::*;

    fn keypair(seed: u8) -> KeyPair {
        KeyPair::from_soul(&Soul::bond([seed; 32], "x"))
    }

    #[test]
    fn each_mistake_is_named() {
        let claim = Claim {
            name: "alice",
            timestamp: "1769100000250",
            signature: "",
            method: "POST",
            path: "/caf%C3%A9",
        };
        let others = [("bob".to_owned(), keypair(2).public_key())];
        let candidates = Candidates::new(&claim, &keypair(1).public_key(), &others);
        let query = Claim {
            path: "/a%20b?x=1",
            ..claim.clone()
        };
        let with_query = Candidates::new(&query, &keypair(1).public_key(), &[]);
        let time = "1769100000250";
        for (candidates, signer, base, cause) in [
            (
                &candidates,
                1,
                format!("alice{time}POST/caf%C3%A9"),
                "without percent-decoding",
            ),
            (&candidates, 1, format!("alice{time}post/café"), "lower case"),
            (&candidates, 1, "alice1769100000POST/café".to_owned(), "seconds"),
            (
                &candidates,
                1,
                "alice1769100000250000000POST/café".to_owned(),
                "nanoseconds",
            ),
            (&candidates, 1, format!("bob{time}POST/café"), "the name bob"),
            (
                &candidates,
                1,
                format!("alice\n{time}\nPOST\n/café"),
                "a line break",
            ),
            (&candidates, 2, format!("alice{time}POST/café"), "the key of bob"),
            (
                &with_query,
                1,
                format!("alice{time}POST/a b?x=1"),
                "query was signed too",
            ),
        ] {
            let found = candidates.find(&keypair(signer).sign(base.as_bytes()));
            let found = found.unwrap_or_else(|| panic!("{cause}: not found"));
            assert_eq!(found.base, base.as_bytes());
            assert!(found.causes[0].contains(cause), "{:?} for {cause}", found.causes);
        }
        assert!(candidates.find(&keypair(3).sign(b"anything")).is_none());
    }

    #[test]
    fn two_mistakes_at_once_are_found() {
        let claim = Claim {
            name: "alice",
            timestamp: "1769100000250",
            signature: "",
            method: "POST",
            path: "/dm",
        };
        let candidates = Candidates::new(&claim, &keypair(1).public_key(), &[]);
        let digest = Sha256::digest(b"alice1769100000post/dm").to_vec();
        assert!(candidates.find(&keypair(1).sign(&digest)).is_none(), "three");
        let found = candidates
            .find(&keypair(1).sign(b"alice1769100000post/dm"))
            .unwrap();
        assert_eq!(found.causes.len(), 2);
    }
}
