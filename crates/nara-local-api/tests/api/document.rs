use std::fs;
use std::path::Path;

use nara_local_api::server::openapi;
use serde_json::Value;

use crate::compatible;
use crate::scene::Scene;

#[test]
fn the_document_is_written_down_as_it_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/local-api.json");
    let now = openapi() + "\n";
    let before = fs::read_to_string(&file).unwrap_or_default();
    if before == now {
        return;
    }
    let broken = broken_api(
        &serde_json::from_str(&before).unwrap(),
        &serde_json::from_str(&now).unwrap(),
    );
    assert!(
        broken.is_empty(),
        "docs/local-api.json differs, and programs that use this API break: {broken:#?}"
    );
    assert!(
        std::env::var_os("NARA_WRITE_OPENAPI").is_some(),
        "docs/local-api.json differs compatibly: run this test with NARA_WRITE_OPENAPI=1"
    );
    fs::write(&file, &now).unwrap();
}

/// Returns what a program may rely on in the old description and the new one lacks.
fn broken_api(old: &Value, new: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let of = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let required = |schema: &Value| schema["required"].as_array().cloned().unwrap_or_default();
    for (path, methods) in of(&old["paths"]) {
        for (method, was) in of(&methods) {
            let place = format!("{method} {path}");
            let is = &new["paths"][&path][&method];
            if is.is_null() {
                broken.push(format!("{place} is gone"));
                continue;
            }
            let named = |operation: &Value, name: &Value| {
                let mut parameters = operation["parameters"].as_array().into_iter().flatten();
                parameters.any(|parameter| parameter["name"] == *name)
            };
            for parameter in was["parameters"].as_array().into_iter().flatten() {
                if !named(is, &parameter["name"]) {
                    broken.push(format!("{place} does not take {}", parameter["name"]));
                }
            }
            for parameter in is["parameters"].as_array().into_iter().flatten() {
                if parameter["required"] == true && !named(&was, &parameter["name"]) {
                    broken.push(format!("{place} needs {}", parameter["name"]));
                }
            }
            for (status, answer) in of(&was["responses"]) {
                for (kind, content) in of(&answer["content"]) {
                    let answer = &is["responses"][&status]["content"][&kind]["schema"];
                    broken.extend(compatible::broken(&content["schema"], answer, &place));
                }
            }
            let asked = |operation: &Value| {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                let name = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
                name.map(str::to_owned)
            };
            if let (Some(before), Some(now)) = (asked(&was), asked(is)) {
                let schema = |document: &Value, name: &str| document["components"]["schemas"][name].clone();
                let known = required(&schema(old, &before));
                let new = required(&schema(new, &now)).into_iter();
                let more = new.filter(|field| !known.contains(field));
                broken.extend(more.map(|field| format!("{place} needs the field {field}")));
            }
        }
    }
    for (name, was) in of(&old["components"]["schemas"]) {
        broken.extend(compatible::broken(
            &was,
            &new["components"]["schemas"][&name],
            &name,
        ));
    }
    broken
}

#[test]
fn a_change_of_the_api_that_breaks_programs_is_told_from_one_that_does_not() {
    let old: Value = serde_json::from_str(&openapi()).unwrap();
    let changed = |change: fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        broken_api(&old, &new)
    };
    assert!(changed(|_| {}).is_empty());
    assert!(changed(|new| new["paths"]["/v1/new"] = new["paths"]["/v1/status"].clone()).is_empty());
    for (change, said) in [
        (
            (|new| {
                new["paths"].as_object_mut().unwrap().remove("/v1/status");
            }) as fn(&mut Value),
            "get /v1/status is gone",
        ),
        (
            |new| {
                let more = serde_json::json!({ "name": "why", "in": "query", "required": true });
                new["paths"]["/v1/events"]["get"]["parameters"]
                    .as_array_mut()
                    .unwrap()
                    .push(more);
            },
            "get /v1/events needs \"why\"",
        ),
        (
            |new| {
                new["components"]["schemas"]["Lease"]["required"] = serde_json::json!(["backend", "lease_s"])
            },
            "put /v1/services/{prefix} needs the field \"lease_s\"",
        ),
        (
            |new| new["components"]["schemas"]["Status"]["properties"]["name"]["type"] = "integer".into(),
            "Status.name is \"integer\", not \"string\"",
        ),
    ] {
        assert_eq!(changed(change), [said]);
    }
}

#[tokio::test]
async fn the_document_is_served_and_describes_every_error_as_a_problem() {
    let scene = Scene::new().await;
    let served: Value = scene.client.get("/v1/openapi.json").await.unwrap();
    assert_eq!(served, serde_json::from_str::<Value>(&openapi()).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = served["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let error = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert!(error.is_object(), "{method} {path}");
        }
    }
    scene.end().await;
}
