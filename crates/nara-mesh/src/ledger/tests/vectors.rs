use std::collections::BTreeSet;

use nara_proto::go_json;
use nara_proto::sync::SyncRequest;
use serde_json::Value;

use super::*;
use crate::ledger::select;

const VECTORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../nara-proto/tests/vectors/sync_select.json"
));

async fn answer(ledger: &dyn Ledger, request: &SyncRequest) -> Vec<SyncEvent> {
    let sample = |size| Sample {
        size,
        bytes: usize::MAX,
        responder: "responder".to_owned(),
        now: UnixNanos::new(1_769_000_100_000_000_000),
        seed: 1,
    };
    select(ledger, request.filter(), &request.mode(), usize::MAX, sample)
        .await
        .unwrap()
}

/// Returns the ids with a placeholder for events that share their time, whose order is unspecified.
fn modulo_ties(ids: impl IntoIterator<Item = String>, tied: &BTreeSet<&str>) -> Vec<String> {
    ids.into_iter()
        .map(|id| {
            if tied.contains(id.as_str()) {
                "tied".to_owned()
            } else {
                id
            }
        })
        .collect()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
}

#[tokio::test]
async fn all_modes_select_like_v1_peers() {
    let cases: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let mut checked = 0;
    for case in cases.iter().filter(|case| case["expect"] == "ok") {
        let events: Vec<SyncEvent> = texts(&case["ledger"])
            .map(|json| go_json::from_slice_exact(json.as_bytes()).unwrap())
            .collect();
        let request: SyncRequest =
            go_json::from_slice(case["request_json"].as_str().unwrap().as_bytes()).unwrap();
        let tied: BTreeSet<_> = texts(&case["tied_ids"]).collect();
        let expected = modulo_ties(texts(&case["event_ids"]).map(str::to_owned), &tied);

        let memory = MemoryLedger::new().with_retention(RetentionPolicy::UNLIMITED);
        let sqlite = SqliteLedger::open_in_memory()
            .unwrap()
            .with_retention(RetentionPolicy::UNLIMITED);
        for ledger in [&memory as &dyn Ledger, &sqlite] {
            ledger.insert_verified(events.clone()).await.unwrap();
            let selected = answer(ledger, &request).await;
            let selected = modulo_ties(selected.into_iter().map(|event| event.id), &tied);
            assert_eq!(selected, expected, "{} {ledger:?}", case["case"]);
        }
        checked += 1;
    }
    assert_eq!(checked, 22);
}
