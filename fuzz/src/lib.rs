//! Shared code of the fuzz targets.
#![forbid(unsafe_code)]

pub mod ledger;

use http::{HeaderMap, HeaderName, HeaderValue};
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::go_json::{self, Merge};
use nara_mesh::proto::identity::Soul;
use nara_mesh::proto::time::UnixMillis;
use nara_mesh::registry::PeerRegistry;

/// The fixed time of all targets.
pub const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

/// Parses headers from lines `name: value`; invalid lines are skipped.
pub fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Parses a value, and checks that it survives serializing and parsing again.
pub fn read_twice<T: Merge + serde::Serialize + PartialEq + std::fmt::Debug>(json: &[u8]) -> Option<T> {
    let value: T = go_json::from_slice(json).ok()?;
    let written = go_json::to_vec(&value);
    let again: T = go_json::from_slice_exact(&written).expect("what we write, we read");
    assert_eq!(again, value);
    assert_eq!(go_json::to_vec(&again), written);
    Some(value)
}

/// Splits off the first line.
pub fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Returns a nara whose soul is derived from its name.
pub fn nara(name: &str) -> LocalNara {
    let mut seed = [7; 32];
    for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    let name = name.parse().expect("a name");
    LocalNara::new(&Soul::bond(seed, &format!("{name}")), name).expect("a bonded soul")
}

/// Returns a registry that knows these naras.
pub fn registry(naras: &[&LocalNara]) -> PeerRegistry {
    let registry = PeerRegistry::default();
    for nara in naras {
        registry.register(nara.as_peer(None)).expect("room");
    }
    registry
}
