use std::fs;
use std::path::Path;

use nara_local_api::server::openapi;
use serde_json::Value;

use crate::scene::Scene;

#[test]
fn the_document_is_written_down_as_it_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/local-api.json");
    let now = openapi() + "\n";
    if std::env::var_os("NARA_WRITE_OPENAPI").is_some() {
        fs::write(&file, &now).unwrap();
    }
    let before = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        before == now,
        "docs/local-api.json differs: if the change is meant, and breaks nobody, run this test with NARA_WRITE_OPENAPI=1"
    );
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
