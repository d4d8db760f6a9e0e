use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::CallError;
use nara_local_api::model::{Transfer, TransferKind, TransferList};
use nara_mesh::LocalNara;
use tokio::net::TcpListener;

use crate::scene::Scene;

async fn running(scene: &Scene) -> Vec<Transfer> {
    let list: TransferList = scene.client.get("/v1/transfers").await.unwrap();
    list.transfers
}

#[tokio::test]
async fn a_transfer_is_listed_while_it_goes_on_and_can_be_cancelled() {
    let scene = Scene::new().await;
    // A peer that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let carol = LocalNara::generate("carol").unwrap();
    let there = carol.as_peer(Some(silent.local_addr().unwrap()));
    scene.alice.registry().register(there).unwrap();
    assert!(running(&scene).await.is_empty());
    let mut streams = Vec::new();
    for what in ["sync", "reconcile"] {
        let path = format!("/v1/peers/carol/{what}?timeout_ms=600000");
        streams.push(scene.client.events(Method::POST, &path).await.unwrap());
    }
    let listed = running(&scene).await;
    let kinds: Vec<_> = listed
        .iter()
        .map(|transfer| (transfer.kind, transfer.peer.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [(TransferKind::Sync, "carol"), (TransferKind::Reconcile, "carol")]
    );
    let path = format!("/v1/transfers/{}", listed[0].id);
    let cancelled: Transfer = scene.client.send(Method::DELETE, &path, &()).await.unwrap();
    assert_eq!(cancelled.id, listed[0].id);
    match streams[0].next().await.unwrap() {
        Err(CallError::Problem(problem)) => assert_eq!(problem.name(), "cancelled"),
        other => panic!("{other:?}"),
    }
    assert_eq!(running(&scene).await.len(), 1);
    match scene.client.send::<Transfer>(Method::DELETE, &path, &()).await {
        Err(CallError::Problem(problem)) => assert_eq!(problem.name(), "unknown_transfer"),
        other => panic!("{other:?}"),
    }
    // A caller that leaves cancels its own.
    drop(streams);
    while !running(&scene).await.is_empty() {
        tokio::task::yield_now().await;
    }
    scene.end().await;
}
