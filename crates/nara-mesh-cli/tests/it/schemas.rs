//! Compares the `--json` output of commands with the schemas in docs/schemas.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::compatible::broken;
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
fn the_published_schemas_are_those_of_the_program() {
    let path = tempfile::tempdir().unwrap();
    let listed = text(&run(path.path(), 0, &["schema"]).stdout);
    let mut names: Vec<String> = vec!["conformance.json".to_owned()];
    for command in listed.lines() {
        let name = format!("{}.json", command.replace(' ', "-"));
        let file = folder().join(&name);
        let words = command.split(' ');
        let args: Vec<&str> = std::iter::once("schema").chain(words).collect();
        let now = text(&run(path.path(), 0, &args).stdout);
        let before = fs::read_to_string(&file).unwrap_or_default();
        if before != now {
            let old: Value = serde_json::from_str(&before).unwrap_or_default();
            let new: Value = serde_json::from_str(&now).unwrap();
            let broken = broken(&old, &new, "");
            assert!(
                broken.is_empty(),
                "{name} differs, and programs that read this JSON break: {broken:#?}"
            );
            assert!(
                std::env::var_os("NARA_WRITE_SCHEMAS").is_some(),
                "{name} differs compatibly: run this test with NARA_WRITE_SCHEMAS=1"
            );
            fs::write(&file, now).unwrap();
        }
        names.push(name);
    }
    for file in fs::read_dir(folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "no command prints {name}");
    }
}

#[test]
fn a_change_that_breaks_users_is_told_from_one_that_does_not() {
    let old = serde_json::json!({
        "type": "object",
        "required": ["name", "peers"],
        "properties": {
            "name": { "type": "string" },
            "peers": { "type": "array", "items": { "$ref": "#/$defs/Peer" } },
        },
        "$defs": { "Peer": { "type": "object", "properties": { "rtt_us": { "type": "integer" } } } },
    });
    let changed = |pointer: &str, value: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        broken(&old, &new, "")
    };
    assert!(broken(&old, &old, "").is_empty());
    let mut more = old.clone();
    more["properties"]["more"] = serde_json::json!({ "type": "string" });
    more["required"] = serde_json::json!(["name", "peers", "more"]);
    assert!(broken(&old, &more, "").is_empty());
    assert_eq!(
        changed("/required", serde_json::json!(["peers"])),
        [".name may be missing"]
    );
    assert_eq!(
        changed("/properties/name/type", "integer".into()),
        [r#".name is "integer", not "string""#]
    );
    assert_eq!(
        changed("/$defs/Peer/properties", serde_json::json!({})),
        ["Peer.rtt_us is gone"]
    );
    assert_eq!(
        changed("/properties/peers/items/$ref", "#/$defs/Other".into()),
        [r##".peers[] is "#/$defs/Other", not "#/$defs/Peer""##]
    );
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
    let unknown = text(&run(folder.path(), 2, &["schema", "fly"]).stderr);
    assert!(unknown.contains("nara-mesh schema"), "{unknown}");
}
