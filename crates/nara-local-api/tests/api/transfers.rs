use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::{CallError, Events};
use nara_local_api::model::{Checkpoints, Transfer, TransferKind, TransferList};
use nara_mesh::LocalNara;
use tokio::net::TcpListener;

use crate::scene::Scene;

async fn running(scene: &Scene) -> Vec<Transfer> {
    let list: TransferList = scene.client.get("/v1/transfers").await.unwrap();
    list.transfers
}

/// Carol, a peer that accepts connections and never answers.
pub(crate) async fn silent_carol(scene: &Scene) -> TcpListener {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let carol = LocalNara::generate("carol").unwrap();
    let there = carol.as_peer(Some(silent.local_addr().unwrap()));
    scene.alice.registry().register(there).unwrap();
    silent
}

async fn begin(scene: &Scene, what: &str) -> Result<Events, CallError> {
    let path = format!("/v1/peers/carol/{what}?timeout_ms=600000");
    scene.client.events(Method::POST, &path).await
}

#[tokio::test]
async fn a_transfer_is_listed_while_it_goes_on_and_can_be_cancelled() {
    let scene = Scene::new().await;
    let _carol = silent_carol(&scene).await;
    assert!(running(&scene).await.is_empty());
    let mut streams = Vec::new();
    for what in ["sync", "reconcile"] {
        streams.push(begin(&scene, what).await.unwrap());
    }
    let client = scene.client.clone();
    let comparing = tokio::spawn(async move {
        let path = "/v1/peers/carol/in-sync?timeout_ms=600000";
        client.request_bytes(Method::GET, path).await
    });
    while running(&scene).await.len() < 3 {
        tokio::task::yield_now().await;
    }
    let get = |path| scene.client.events(Method::GET, path);
    streams.push(
        get("/v1/peers/carol/checkpoints?timeout_ms=600000")
            .await
            .unwrap(),
    );
    let listed = running(&scene).await;
    let kinds: Vec<_> = listed
        .iter()
        .map(|transfer| (transfer.kind, transfer.peer.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            (TransferKind::Sync, "carol"),
            (TransferKind::Reconcile, "carol"),
            (TransferKind::Compare, "carol"),
            (TransferKind::Checkpoints, "carol")
        ]
    );
    let is_cancelled = |error: CallError| match error {
        CallError::Problem(problem) => assert_eq!(problem.name(), "cancelled"),
        error => panic!("{error}"),
    };
    let path = format!("/v1/transfers/{}", listed[2].id);
    let _: Transfer = scene.client.send(Method::DELETE, &path, &()).await.unwrap();
    is_cancelled(comparing.await.unwrap().unwrap_err());
    let path = format!("/v1/transfers/{}", listed[0].id);
    let cancelled: Transfer = scene.client.send(Method::DELETE, &path, &()).await.unwrap();
    assert_eq!(cancelled.id, listed[0].id);
    is_cancelled(streams[0].next().await.unwrap().unwrap_err());
    assert_eq!(running(&scene).await.len(), 2);
    match scene.client.send::<Transfer>(Method::DELETE, &path, &()).await {
        Err(CallError::Problem(problem)) => assert_eq!(problem.name(), "unknown_transfer"),
        other => panic!("{other:?}"),
    }
    // A caller that disconnects cancels its own transfer.
    drop(streams);
    while !running(&scene).await.is_empty() {
        tokio::task::yield_now().await;
    }
    scene.end().await;
}

#[tokio::test]
async fn so_many_transfers_go_on_at_once_and_an_ended_one_makes_room() {
    let scene = Scene::new().await;
    let _carol = silent_carol(&scene).await;
    let mut streams = Vec::new();
    for number in 0..16 {
        let what = if number % 2 == 0 { "sync" } else { "reconcile" };
        streams.push(begin(&scene, what).await.unwrap());
    }
    let is_refused = |error: CallError| match error {
        CallError::Problem(problem) => {
            assert_eq!((problem.name(), problem.status), ("too_many_transfers", 503));
            assert!(problem.hint.is_some());
        }
        error => panic!("{error}"),
    };
    is_refused(begin(&scene, "sync").await.unwrap_err());
    for path in ["/v1/peers/bob/in-sync", "/v1/peers/bob/checkpoints"] {
        is_refused(scene.client.request_bytes(Method::GET, path).await.unwrap_err());
    }
    // Everything else still works.
    assert!(scene.client.ping("bob", false, false).await.is_ok());
    assert_eq!(running(&scene).await.len(), 16);
    let limits = scene.client.status().await.unwrap().limits;
    let transfers = limits.iter().find(|limit| limit.name == "transfers").unwrap();
    assert_eq!((transfers.used, transfers.most), (16, 16));
    let path = format!("/v1/transfers/{}", running(&scene).await[0].id);
    let _: Transfer = scene.client.send(Method::DELETE, &path, &()).await.unwrap();
    loop {
        match begin(&scene, "sync").await {
            Ok(begun) => break streams.push(begun),
            Err(error) => is_refused(error),
        }
        tokio::task::yield_now().await;
    }
    drop(streams);
    scene.end().await;
}

#[tokio::test]
async fn a_peer_without_checkpoints_has_none() {
    let scene = Scene::new().await;
    let path = "/v1/peers/bob/checkpoints";
    let mut told = scene.client.events(Method::GET, path).await.unwrap();
    let done = told.next().await.unwrap().unwrap();
    assert_eq!(done.name, "done");
    assert_eq!(done.decode::<Checkpoints>().unwrap(), Checkpoints::default());
    scene.end().await;
}
