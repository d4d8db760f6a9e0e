//! Generates seeds from the conformance vectors: real messages are the best starting point.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The targets that read the JSON of each vector file.
const READERS: &[(&str, &[&str])] = &[
    ("attestation", &["bodies"]),
    ("event_", &["event", "go_json"]),
    ("import_request", &["bodies"]),
    ("json_encoding", &["go_json"]),
    ("runtime_message", &["runtime_message"]),
    ("sync_response", &["sync"]),
    ("sync_select", &["sync"]),
    ("world", &["world"]),
    ("zine", &["bodies"]),
];

/// Fields whose text has a format of its own.
const TEXTS: &[&str] = &[
    "name",
    "nara_id",
    "next_cursor",
    "public_key_b64",
    "signature_b64",
    "soul",
];

pub(super) fn write(root: &Path, seeds: &Path) -> Result<(), String> {
    let vectors = root.join("crates/nara-proto/tests/vectors");
    let entries = fs::read_dir(&vectors).map_err(|error| format!("{}: {error}", vectors.display()))?;
    let mut count = 0;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let Some(file) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let cases: Value = serde_json::from_slice(&text).map_err(|error| format!("{file}: {error}"))?;
        for (index, case) in cases.as_array().into_iter().flatten().enumerate() {
            for (number, (target, seed)) in of_case(file, case).into_iter().enumerate() {
                let folder = seeds.join(target);
                let path = folder.join(format!("{file}-{index}-{number}"));
                fs::create_dir_all(&folder)
                    .and_then(|()| fs::write(&path, seed))
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                count += 1;
            }
        }
    }
    println!("fuzz: {count} seeds from the vectors");
    Ok(())
}

/// Returns the targets and seeds of one case.
fn of_case(file: &str, case: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let text = |field: &str| case[field].as_str().filter(|text| !text.is_empty());
    let mut seeds = Vec::new();
    for (prefix, targets) in READERS {
        if !file.starts_with(prefix) {
            continue;
        }
        for json in ["json", "request_json", "response_body"]
            .into_iter()
            .filter_map(text)
        {
            seeds.extend(targets.iter().map(|target| (*target, json.as_bytes().to_vec())));
        }
    }
    for field in TEXTS {
        seeds.extend(text(field).map(|text| ("text", text.as_bytes().to_vec())));
    }
    for field in ["headers", "received_headers", "request_headers"] {
        let path = text("request_target").unwrap_or("/");
        if let Some(headers) = case[field].as_object().filter(|headers| !headers.is_empty()) {
            let mut lines = path.to_owned();
            for (name, value) in headers {
                lines.push_str(&format!("\n{name}: {}", value.as_str().unwrap_or_default()));
            }
            seeds.push(("auth_headers", lines.into_bytes()));
        }
    }
    if let (Some(method), Some(target)) = (text("method"), text("request_target")) {
        let body = text("request_body").or_else(|| text("body")).unwrap_or_default();
        for profile in ["", "+"] {
            seeds.push((
                "server",
                format!("{profile}{method} {target}\n{body}").into_bytes(),
            ));
        }
        let raw = format!(
            "!{method} {target} HTTP/1.1\r\nHost: bob\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        seeds.push(("server", raw.into_bytes()));
    }
    if let Some(body) = text("response_body").or_else(|| text("server_body")) {
        // The first letter selects the call that is answered.
        for call in "pdszqcr".chars() {
            seeds.push(("client", format!("{call}{body}").into_bytes()));
        }
        let raw = format!("SHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        seeds.push(("client", raw.into_bytes()));
        seeds.push(("bodies", body.as_bytes().to_vec()));
    }
    seeds
}
