//! `identity.json`, `identity_resolve.json`, `self_encryption.json`.

use nara_proto::identity::{HardwareFingerprint, KeyPair, NaraId, SealKey, Soul, is_generated_mode};

use crate::harness::{Case, Unreadable};

const fn verdict(ok: bool) -> &'static str {
    if ok { "valid" } else { "invalid" }
}

pub(crate) fn identity(case: &Case<'_>) -> Result<(), Unreadable> {
    let name = case.text("name")?;
    let text = case.text("soul")?;
    let Ok(soul) = text.parse::<Soul>() else {
        case.check("expect", "error");
        return Ok(());
    };
    let bonded = soul.is_bonded_to(name);
    case.check("expect", verdict(bonded));
    case.check("bond_valid", bonded);
    case.check("soul", soul.expose().as_str());
    case.check("name_utf8_hex", hex::encode(name));
    case.check("seed_hex", hex::encode(seed(&soul)));
    case.check("tag_hex", hex::encode(soul.tag()));
    case.check("nara_id", NaraId::derive(&soul, name).as_str());
    case.check(
        "public_key_b64",
        KeyPair::from_soul(&soul).public_key().to_base64(),
    );
    case.check(
        "encryption_key_hex",
        hex::encode(SealKey::from_soul(&soul).expose()),
    );
    let rebonded = Soul::bond(case.hex32("seed_hex")?, name);
    case.claim(
        "soul",
        "the seed and the name give this soul, if they are bonded",
        (rebonded.expose() == soul.expose()) == bonded || name.is_empty(),
    );
    if case.has("hw_fingerprint_hex") {
        let hardware = HardwareFingerprint::new(case.hex32("hw_fingerprint_hex")?);
        let native = match case.text("category")? {
            "generated" => hardware.soul_for_generated(name),
            _ => hardware.soul_for(name),
        };
        case.check("soul", native.expose().as_str());
    }
    Ok(())
}

fn seed(soul: &Soul) -> Vec<u8> {
    let mut bytes = bs58::decode(soul.expose().as_str())
        .into_vec()
        .unwrap_or_default();
    bytes.truncate(Soul::SEED_LEN);
    bytes
}

pub(crate) fn resolve(case: &Case<'_>) -> Result<(), Unreadable> {
    let (argument, hostname) = (case.text("name_arg")?, case.text("hostname")?);
    let effective = if argument.is_empty() { hostname } else { argument };
    let generated = is_generated_mode(effective);
    case.check("generated_mode", generated);

    // Names are not generated here: a generated name is taken from the case.
    let name = if generated { case.text("name")? } else { effective };
    case.check("name", name);
    let hardware = HardwareFingerprint::new(case.hex32("hw_fingerprint_hex")?);
    let native = if generated {
        hardware.soul_for_generated(name)
    } else {
        hardware.soul_for(name)
    };
    let soul: Soul = match case.text("soul_arg")? {
        "" => native.clone(),
        argument => match argument.parse() {
            Ok(soul) => soul,
            // V1 peers continue with an unusable identity. Here it is an error with a reason.
            Err(error) => {
                case.claim(
                    "expect",
                    &format!("an argument that is no soul gives no identity: {error}"),
                    case.text("expect")? != "valid",
                );
                return Ok(());
            }
        },
    };
    case.check("soul", soul.expose().as_str());
    case.check("nara_id", NaraId::derive(&soul, name).as_str());
    case.check("native", soul.expose() == native.expose());
    let bonded = soul.is_bonded_to(name);
    case.check("bond_valid", bonded);
    case.check("expect", verdict(bonded));
    Ok(())
}

pub(crate) fn self_encryption(case: &Case<'_>) -> Result<(), Unreadable> {
    let key = SealKey::from_soul(&case.parsed("soul")?);
    case.check("encryption_key_hex", hex::encode(key.expose()));
    let (nonce, ciphertext) = (case.hex("nonce_hex")?, case.hex("ciphertext_hex")?);
    let opened = key.open(&nonce, &ciphertext);
    case.check("expect", verdict(opened.is_ok()));
    case.check_optional("plaintext_hex", opened.as_ref().ok().map(hex::encode));
    if let (Ok(plaintext), Ok(nonce)) = (opened, nonce.try_into()) {
        case.check("ciphertext_hex", hex::encode(key.seal(&nonce, &plaintext)));
    }
    Ok(())
}
