//! One verification of a signature: with the table that we make of a key, and as libraries do it.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, VartimeEdwardsPrecomputation};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::VartimePrecomputedMultiscalarMul as _;
use ed25519_dalek::Verifier as _;
use nara_proto::identity::{KeyPair, PreparedKey, PublicKey, Signature, Soul};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha512};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A way to verify the one signature over a message, and its name.
type Kind<'a> = (&'static str, &'a dyn Fn(&[u8]) -> bool);

/// As long as what is signed of a request.
const MESSAGE: [u8; 400] = [b'm'; 400];

/// The tables of `curve25519-dalek` for the two points of the equation, in place of ours.
struct DalekTables {
    key: PublicKey,
    base_and_negated: VartimeEdwardsPrecomputation,
}

impl DalekTables {
    fn new(key: PublicKey) -> Option<Self> {
        let negated = -CompressedEdwardsY(*key.as_bytes()).decompress()?;
        let points = [ED25519_BASEPOINT_POINT, negated];
        Some(Self {
            key,
            base_and_negated: VartimeEdwardsPrecomputation::new(points),
        })
    }

    fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let (r, s) = signature.as_bytes().split_at(32);
        let Some(s) = <[u8; 32]>::try_from(s)
            .ok()
            .and_then(|s| Scalar::from_canonical_bytes(s).into())
        else {
            return false;
        };
        let hash = Sha512::new()
            .chain_update(r)
            .chain_update(self.key.as_bytes())
            .chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        self.base_and_negated
            .vartime_multiscalar_mul([s, k])
            .compress()
            .as_bytes()
            == r
    }
}

/// Nanoseconds for each kind, the median of the rounds, and the ratio of each to ours.
pub(crate) fn measure(count: u32, rounds: usize) -> Result<Value, Error> {
    let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
    let (key, signature) = (keypair.public_key(), keypair.sign(&MESSAGE));
    let prepared = PreparedKey::new(&key);
    let tables = DalekTables::new(key).ok_or("a key is a point")?;
    let aws_lc = UnparsedPublicKey::new(&ED25519, *key.as_bytes());
    let dalek = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes())?;
    let dalek_signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    let zebra = ed25519_zebra::VerificationKey::try_from(*key.as_bytes())?;
    let zebra_signature = ed25519_zebra::Signature::from_bytes(signature.as_bytes());

    let kinds: [Kind<'_>; 5] = [
        ("prepared_key", &|message| {
            prepared.verify(message, &signature).is_ok()
        }),
        ("dalek_tables", &|message| tables.verify(message, &signature)),
        ("aws_lc", &|message| {
            aws_lc.verify(message, signature.as_bytes()).is_ok()
        }),
        ("dalek", &|message| {
            dalek.verify(message, &dalek_signature).is_ok()
        }),
        ("zebra", &|message| {
            zebra.verify(&zebra_signature, message).is_ok()
        }),
    ];
    let mut samples = vec![Vec::new(); kinds.len()];
    for _ in 0..rounds.max(1) {
        for ((kind, verify), samples) in kinds.iter().zip(&mut samples) {
            let start = Instant::now();
            for _ in 0..count.max(1) {
                if !verify(black_box(&MESSAGE)) {
                    return Err(format!("{kind} refuses a signature that is right").into());
                }
            }
            samples.push(start.elapsed().as_nanos() as f64 / f64::from(count.max(1)));
        }
    }
    let medians: Vec<f64> = samples.into_iter().map(median).collect();
    let of = |figure: &dyn Fn(f64) -> f64| -> Map<String, Value> {
        let figures = kinds.iter().zip(&medians);
        figures
            .map(|((kind, _), ns)| ((*kind).to_owned(), json!(figure(*ns))))
            .collect()
    };
    Ok(json!({
        "verify_ns": of(&|ns| ns),
        "ratio_to_prepared_key": of(&|ns| ns / medians[0]),
    }))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
