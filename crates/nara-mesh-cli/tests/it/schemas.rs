//! Compares the `--json` output of commands with the schemas in docs/schemas.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::{run, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas")
}

/// The published schemas, by the value of the field `schema`.
static PUBLISHED: LazyLock<HashMap<String, Validator>> = LazyLock::new(|| {
    let files = fs::read_dir(folder()).unwrap();
    let validator = |file: PathBuf| {
        let schema: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let id = schema["$id"].as_str().unwrap().to_owned();
        (id, jsonschema::validator_for(&schema).unwrap())
    };
    files.map(|file| validator(file.unwrap().path())).collect()
});

/// Compares the output of a command with its schema, if published.
pub(crate) fn validate(printed: &Value) {
    if let Some(name) = printed["schema"].as_str()
        && PUBLISHED.contains_key(name)
    {
        validate_as(name, printed);
    }
}

/// Compares the output of a command with this schema.
pub(crate) fn validate_as(name: &str, printed: &Value) {
    let validator = &PUBLISHED[name];
    let faults: Vec<String> = validator
        .iter_errors(printed)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}\n{printed:#}");
}

#[test]
fn what_is_no_line_of_a_running_nara_is_told_from_one() {
    let line = |more: Value| {
        let mut line = serde_json::json!({ "schema": "nara-mesh/serve/1" });
        line.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        PUBLISHED["nara-mesh/serve/1"].is_valid(&line)
    };
    assert!(line(serde_json::json!({ "event": "stopped", "graceful": true })));
    for wrong in [
        serde_json::json!({ "event": "stopped" }),
        serde_json::json!({ "event": "stopped", "graceful": "yes" }),
        serde_json::json!({ "event": "exploded" }),
        serde_json::json!({}),
    ] {
        assert!(!line(wrong.clone()), "{wrong}");
    }
}

#[test]
fn a_schema_is_printed_and_a_command_without_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let schema = text(&run(folder.path(), 0, &["schema", "peers", "trust"]).stdout);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["$id"], "nara-mesh/peers-trust/1");
    let written = text(&run(folder.path(), 0, &["schema", "conformance"]).stdout);
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["$id"], "nara-mesh/conformance/1");
    let listed = text(&run(folder.path(), 0, &["schema"]).stdout);
    assert!(listed.contains("\nconformance\n"), "{listed}");
    let unknown = text(&run(folder.path(), 2, &["schema", "fly"]).stderr);
    assert!(unknown.contains("nara-mesh schema"), "{unknown}");
}
