//! Validates JSON against the subset of JSON Schema that docs/schemas uses. Any other keyword is an error, so
//! that nothing is left unchecked.

use serde_json::Value;

/// Validates a report against docs/schemas/conformance.json.
pub(super) fn validate(report: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../../../../docs/schemas/conformance.json")).unwrap();
    check(&schema, &schema, report, "$");
}

fn check(root: &Value, schema: &Value, value: &Value, place: &str) {
    for (keyword, expected) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let pointer = expected.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(pointer).unwrap(), value, place);
            }
            "const" => assert_eq!(value, expected, "{place}"),
            "enum" => assert!(expected.as_array().unwrap().contains(value), "{place}: {value}"),
            "type" => {
                let types = expected
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![expected.clone()]);
                assert!(
                    types.iter().any(|kind| is_a(value, kind.as_str().unwrap())),
                    "{place}: {value}"
                );
            }
            "required" => {
                for key in expected.as_array().unwrap() {
                    assert!(
                        value.get(key.as_str().unwrap()).is_some(),
                        "{place}: {key} is missing"
                    );
                }
            }
            "properties" => {
                for (key, schema) in expected.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(root, schema, value, &format!("{place}.{key}"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(*expected, false, "{place}: only `false` is understood");
                for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    assert!(
                        schema["properties"].get(key).is_some(),
                        "{place}: {key} is not in the schema"
                    );
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, expected, item, &format!("{place}[{index}]"));
                }
            }
            other => panic!("{place}: the keyword {other} is not understood"),
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not understood"),
    }
}
