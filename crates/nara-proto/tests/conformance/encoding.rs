//! `json_encoding.json` and `event_decode.json`.

use nara_proto::event::{InvalidEvent, SyncEvent};
use nara_proto::go_json::{self, Bytes, Timestamp, one_decimal};
use nara_proto::time::UnixNanos;

use crate::harness::{Case, Unreadable};

pub(crate) fn json_encoding(case: &Case<'_>) -> Result<(), Unreadable> {
    let json = if case.has("value_utf8_hex") {
        string(case)?
    } else if case.has("bits_hex") {
        float(case)?
    } else if case.has("value_hex") {
        let bytes = (!case.flag("is_nil")?)
            .then(|| case.hex("value_hex"))
            .transpose()?;
        case.check("value_hex", hex::encode(bytes.as_deref().unwrap_or_default()));
        read_back(case, &Bytes(bytes.clone()))?;
        go_json::to_string(&Bytes(bytes))
    } else {
        let offset = i32::try_from(case.int("offset_s")?).unwrap_or(i32::MAX);
        let time = Timestamp::new(UnixNanos::new(case.int("unix_ns")?), offset);
        let time = time.ok_or_else(|| case.fail("offset_s", "an offset below a day", offset))?;
        // Seconds of an offset are not written, so they cannot be read back.
        if offset % 60 == 0 {
            read_back(case, &time)?;
        }
        go_json::to_string(&time)
    };
    case.check("json", json.as_str());
    case.check("json_hex", hex::encode(&json));
    case.check("expect", "ok");
    Ok(())
}

fn read_back<T: go_json::Merge + PartialEq>(case: &Case<'_>, value: &T) -> Result<(), Unreadable> {
    let again = go_json::from_slice::<T>(case.text("json")?.as_bytes());
    case.claim(
        "json",
        "reads back as the value",
        again.is_ok_and(|again| again == *value),
    );
    Ok(())
}

/// Our texts are always UTF-8, so for invalid text only the output of v1 peers can be checked: we must spell the valid
/// parts the same, and read their text like the invalid one.
fn string(case: &Case<'_>) -> Result<String, Unreadable> {
    let bytes = case.hex("value_utf8_hex")?;
    if let Ok(text) = String::from_utf8(bytes.clone()) {
        read_back(case, &text)?;
        return Ok(go_json::to_string(&text));
    }
    let (mut theirs, mut broken) = (String::new(), Vec::new());
    for chunk in bytes.utf8_chunks() {
        let sound = go_json::to_string(chunk.valid());
        let sound = sound
            .trim_start_matches('"')
            .strip_suffix('"')
            .unwrap_or_default();
        theirs.push_str(sound);
        broken.extend_from_slice(sound.as_bytes());
        for byte in chunk.invalid() {
            theirs.push_str("\\ufffd");
            broken.push(*byte);
        }
    }
    let ours = go_json::from_slice::<String>(&[b"\"", broken.as_slice(), b"\""].concat());
    let ours = ours.map_err(|error| case.fail("json", "readable text", error.to_string()))?;
    read_back(case, &ours)?;
    Ok(format!("\"{theirs}\""))
}

fn float(case: &Case<'_>) -> Result<String, Unreadable> {
    let bits = case.hex("bits_hex")?;
    let bits = <[u8; 8]>::try_from(bits).map_err(|bits| case.fail("bits_hex", "8 bytes", bits.len()))?;
    let value = f64::from_be_bytes(bits);
    case.check("one_decimal", one_decimal(value));
    let again = go_json::from_slice::<f64>(case.text("json")?.as_bytes());
    case.claim(
        "bits_hex",
        "the text reads back as these bits",
        again.is_ok_and(|again| again.to_bits() == value.to_bits()),
    );
    Ok(go_json::to_string(&value))
}

pub(crate) fn event_decode(case: &Case<'_>) -> Result<(), Unreadable> {
    let Ok(event) = go_json::from_slice::<SyncEvent>(case.text("json")?.as_bytes()) else {
        case.check("expect", "error");
        // The Go program's own texts and classes of errors.
        case.prose(&["error", "error_class"]);
        return Ok(());
    };
    case.check("expect", "ok");
    case.check("reencoded", go_json::to_string(&event));
    let validity = event.validate();
    if case.has("content_panics") {
        case.check("content_panics", false);
        let refused = matches!(validity, Err(InvalidEvent::MissingPayload(_)));
        case.claim("json", "an event without payload is invalid", refused);
    } else {
        case.check("content_string", event.content());
        case.check("event_valid", validity.is_ok());
        case.check("recomputed_id", event.compute_id());
    }
    Ok(())
}
