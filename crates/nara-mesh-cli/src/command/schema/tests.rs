#[path = "../../../../nara-local-api/tests/support/compatible.rs"]
mod compatible;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use self::compatible::broken;
use super::PUBLISHED;

#[test]
fn the_published_schemas_are_those_of_the_printed_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    let mut names: Vec<String> = vec!["conformance.json".to_owned()];
    for printed in PUBLISHED {
        let name = format!("{}.json", printed.command);
        let now = format!("{:#}\n", printed.generate());
        if printed.schema != now {
            let old: Value = serde_json::from_str(printed.schema).unwrap_or_default();
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
            fs::write(folder.join(&name), now).unwrap();
        }
        names.push(name);
    }
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "no command prints {name}");
    }
}

#[test]
fn a_change_that_breaks_users_is_told_from_one_that_does_not() {
    let old = json!({
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
    more["properties"]["more"] = json!({ "type": "string" });
    more["required"] = json!(["name", "peers", "more"]);
    assert!(broken(&old, &more, "").is_empty());
    assert_eq!(changed("/required", json!(["peers"])), [".name may be missing"]);
    assert_eq!(
        changed("/properties/name/type", "integer".into()),
        [r#".name is "integer", not "string""#]
    );
    assert_eq!(
        changed("/$defs/Peer/properties", json!({})),
        ["Peer.rtt_us is gone"]
    );
    assert_eq!(
        changed("/properties/peers/items/$ref", "#/$defs/Other".into()),
        [r##".peers[] is "#/$defs/Other", not "#/$defs/Peer""##]
    );
}
