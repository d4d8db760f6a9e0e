//! Generates the schemas from the printed types.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The prefix of references in utoipa's output, and in a stand-alone schema.
const REFERENCES: (&str, &str) = ("#/components/schemas/", "#/$defs/");

pub(super) fn document<T: ToSchema>(command: &str) -> Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    complete(command, &T::schema(), parts)
}

/// Returns a document with the schema of a type and of the types that it refers to.
fn complete(command: &str, schema: &RefOr<Schema>, parts: Vec<(String, RefOr<Schema>)>) -> Value {
    let parts: Map<String, Value> = parts
        .into_iter()
        .map(|(name, schema)| (name, json!(schema)))
        .collect();
    let mut schema = json!(schema);
    let id = format!("nara-mesh/{command}/1");
    schema["$schema"] = json!(DIALECT);
    schema["$id"] = json!(id);
    schema["title"] = json!(format!("What {} prints with --json", command.replace('-', " ")));
    schema["properties"]["schema"] = json!({ "const": id });
    match schema["required"].as_array_mut() {
        Some(required) => required.insert(0, json!("schema")),
        None => schema["required"] = json!(["schema"]),
    }
    if !parts.is_empty() {
        schema["$defs"] = Value::Object(parts);
    }
    refer(&mut schema);
    schema
}

pub(super) fn lines<T: ToSchema>(command: &str) -> Value {
    titled_as_lines(command, document::<T>(command))
}

fn titled_as_lines(command: &str, mut schema: Value) -> Value {
    schema["title"] = json!(format!(
        "A line of what {} prints with --json",
        command.replace('-', " ")
    ));
    schema
}

/// Returns the schema of a mesh event as transmitted, without fields of ours.
pub(super) fn bare_event(command: &str) -> Value {
    json!({
        "$schema": DIALECT,
        "$id": format!("nara-mesh/{command}/1"),
        "title": format!("A line of what {} prints: an event", command.replace('-', " ")),
        "description": "The payload is in the field that is named after the service (docs/protocol/v1.md, section 8).",
        "type": "object",
        "required": ["id", "ts", "svc"],
        "properties": {
            "id": { "type": "string" },
            "ts": { "type": "integer", "description": "Unix time in nanoseconds." },
            "svc": { "type": "string", "description": "The service." },
            "emitter": { "type": "string", "description": "The name of the nara that signed it." },
            "emitter_id": { "type": "string", "description": "Its nara id." },
            "sig": { "type": "string", "description": "The signature, base64." },
        },
    })
}

/// Makes references point into the document itself.
fn refer(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace(REFERENCES.0, REFERENCES.1);
            }
            fields.values_mut().for_each(refer);
        }
        Value::Array(items) => items.iter_mut().for_each(refer),
        _ => {}
    }
}
