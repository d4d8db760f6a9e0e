//! Sync of whole ledgers, from a real server, and from misbehaving peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Response;
use nara_mesh::client::{MeshClient, SyncError, SyncOptions};
use nara_mesh::clock::Clock as _;
use nara_mesh::ledger::{EventStore as _, Ledger, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::go_json;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::sync::{Cursor, EventFilter, SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, RunningServer};

use crate::support::{Answer, Mesh, address, event, introduce, json, known, nara, plain, signed};

/// Returns an in-memory ledger without limits.
pub(crate) fn ledger() -> Arc<MemoryLedger> {
    Arc::new(MemoryLedger::new().with_retention(RetentionPolicy::UNLIMITED))
}

/// Starts bob's real server at 100.64.0.2, which knows alice.
pub(crate) async fn serve_bob(mesh: &Mesh, ledger: Arc<dyn Ledger>) -> RunningServer {
    let registry = PeerRegistry::default();
    registry.register(known(&mesh.alice, None)).unwrap();
    let server = MeshServer::builder(nara("bob"), ledger)
        .registry(registry)
        .transport(Arc::new(mesh.network.host(address(2).ip())))
        .clock(Arc::new(mesh.clock.clone()));
    server.serve(address(2)).await.unwrap()
}

pub(crate) async fn all(ledger: &dyn Ledger) -> Vec<SyncEvent> {
    let everything = ReadLimit::events(usize::MAX);
    let page = ledger.page(EventFilter::default(), Cursor::START, everything);
    let page = page.await.unwrap();
    page.into_iter().map(|checked| checked.event).collect()
}

/// Returns events of bob, several at each time.
pub(crate) fn events(count: i64) -> Vec<SyncEvent> {
    let bob = nara("bob");
    (0..count).map(|n| event(&bob, 1_000_000 * n + 1)).collect()
}

async fn bob_with(mesh: &Mesh, client: &MeshClient, events: Vec<SyncEvent>) -> (NaraId, RunningServer) {
    let theirs = ledger();
    theirs.insert_verified(events).await.unwrap();
    let running = serve_bob(mesh, theirs).await;
    (introduce(client, &nara("bob"), address(2)), running)
}

#[tokio::test(start_paused = true)]
async fn all_events_of_a_peer_come_into_the_ledger() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let expected = events(250);
    let (bob, _running) = bob_with(&mesh, &client, expected.clone()).await;
    let ours = ledger();
    let (options, mut progress) = SyncOptions::default().page_size(40).watched();
    let report = client
        .peer(&bob)
        .sync_into(&*ours, EventFilter::default(), options)
        .await
        .unwrap();
    assert_eq!(all(&*ours).await, expected);
    let done = &report.progress;
    assert_eq!(
        (done.pages, done.received, done.verified, done.stored),
        (7, 250, 250, 250)
    );
    assert!(done.bytes > 250 * 200, "{} bytes", done.bytes);
    assert_eq!(done.remaining, Some(0));
    let last = progress.borrow_and_update().clone();
    assert_eq!((last.pages, last.cursor), (7, done.cursor.clone()));
}

#[tokio::test(start_paused = true)]
async fn a_later_sync_goes_on_behind_the_last_one_unless_told_otherwise() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let mut expected = events(30);
    let later = expected.split_off(20);
    let theirs = ledger();
    theirs.insert_verified(expected).await.unwrap();
    let _running = serve_bob(&mesh, theirs.clone()).await;
    let bob = introduce(&client, &nara("bob"), address(2));
    let ours = ledger();
    let bob = client.peer(&bob);
    let sync = |options| bob.sync_into(&*ours, EventFilter::default(), options);
    assert_eq!(sync(SyncOptions::default()).await.unwrap().progress.received, 20);
    theirs.insert_verified(later).await.unwrap();
    let second = sync(SyncOptions::default()).await.unwrap();
    assert_eq!((second.progress.received, second.progress.stored), (10, 10));
    assert!(second.resumed.is_some());
    let anew = sync(SyncOptions::default().resume(false)).await.unwrap();
    assert_eq!((anew.progress.received, anew.progress.duplicates), (30, 30));
}

#[tokio::test(start_paused = true)]
async fn bad_events_are_named_and_left_out_and_the_page_is_kept() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let mut sent = events(100);
    for bad in [3, 50, 99] {
        sent[bad].sign("bob", nara("eve").keypair());
    }
    let (bob, _running) = bob_with(&mesh, &client, sent.clone()).await;
    let ours = ledger();
    let report = client
        .peer(&bob)
        .sync_into(&*ours, EventFilter::default(), SyncOptions::default())
        .await
        .unwrap();
    let refused: Vec<_> = report.refused.iter().map(|event| &event.id).collect();
    assert_eq!(refused, [&sent[3].id, &sent[50].id, &sent[99].id]);
    assert_eq!((report.progress.refused, report.progress.stored), (3, 97));
    assert_eq!(ours.count().await.unwrap(), 97);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_sync_keeps_its_events_and_resumes_without_duplicates() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let sent = events(100);
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let down = Arc::new(AtomicBool::new(false));
    let requests = Arc::new(AtomicUsize::new(0));
    let (clock, serves, fails, counted) = (mesh.clock.clone(), sent.clone(), down.clone(), requests.clone());
    let _peer = mesh
        .peer(2, move |request| {
            if counted.fetch_add(1, Ordering::SeqCst) == 4 {
                fails.store(true, Ordering::SeqCst);
            }
            if fails.load(Ordering::SeqCst) {
                return plain(503, "no\n");
            }
            signed(&bob, &clock, 200, page(&serves, &request.body))
        })
        .await;
    let ours = ledger();
    let peer = client.peer(&id);
    let sync = || {
        peer.sync_into(
            &*ours,
            EventFilter::default(),
            SyncOptions::default().page_size(10),
        )
    };
    let broken = sync().await.unwrap_err();
    assert!(matches!(broken.error, SyncError::Peer(_)), "{broken}");
    assert_eq!(
        (broken.report.progress.stored, ours.count().await.unwrap()),
        (40, 40)
    );
    down.store(false, Ordering::SeqCst);
    let rest = sync().await.unwrap();
    assert_eq!((rest.progress.received, rest.progress.duplicates), (60, 0));
    assert_eq!(all(&*ours).await, sent);
}

/// Returns the page for a sync request.
pub(crate) fn page(events: &[SyncEvent], request: &[u8]) -> bytes::Bytes {
    let request: SyncRequest = go_json::from_slice(request).unwrap();
    let after: Cursor = request.after.parse().unwrap();
    let size = usize::try_from(request.page_size).unwrap();
    let page: Vec<_> = events
        .iter()
        .filter(|event| Cursor::behind(event) > after)
        .take(size)
        .cloned()
        .collect();
    let last = page.last().filter(|_| page.len() == size).map(Cursor::behind);
    let bob = nara("bob");
    let mut response = SyncResponse::signed("bob", page, UnixSeconds::new(1_769_100_000), bob.keypair());
    if let Some(last) = last {
        response.next_cursor = last.ts().to_string();
        response.next_after = last.to_string();
    }
    json(&response)
}

#[tokio::test(start_paused = true)]
async fn no_more_than_six_pages_are_requested_ahead_of_the_caller() {
    use futures_util::StreamExt as _;

    let mesh = Mesh::new();
    let client = mesh.client();
    let sent = events(100);
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = mesh.clock.clone();
    let peer = mesh
        .peer(2, move |request| {
            signed(&bob, &clock, 200, page(&sent, &request.body))
        })
        .await;
    let mut pages = client.peer(&id).sync_pages(EventFilter::default(), 10, None);
    for taken in 1..=3 {
        pages.next().await.unwrap().unwrap();
        // Everything that does not depend on the caller happens.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(peer.received().len(), taken + 6);
    }
    drop(pages);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(peer.received().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_gigabyte_page_is_cut_at_the_limit_and_named() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    // Announces a gigabyte, which it never sends.
    let _peer = mesh
        .peer(2, |_| {
            let mut response = Response::new(bytes::Bytes::from_static(b"{"));
            response
                .headers_mut()
                .insert("content-length", "1073741824".parse().unwrap());
            Answer::Half(response)
        })
        .await;
    let error = client
        .peer(&id)
        .sync_into(&*ledger(), EventFilter::default(), SyncOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("larger than 16777216 bytes"),
        "{error}"
    );
    assert!(error.to_string().starts_with("bob"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_page_without_an_announced_size_is_cut_at_the_limit() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let endless = bytes::Bytes::from(vec![b' '; (16 << 20) + 1]);
    let _peer = mesh
        .peer(2, move |_| Answer::Half(Response::new(endless.clone())))
        .await;
    let error = client
        .peer(&id)
        .sync_into(&*ledger(), EventFilter::default(), SyncOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("larger than 16777216 bytes"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_of_millions_of_empty_events_is_refused_before_it_fills_the_memory() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let mut body = br#"{"from":"bob","events":["#.to_vec();
    body.extend(b"{},".repeat(200_000));
    body.extend(b"{}]}\n");
    mesh.honest(2, &bob, body.into()).await;
    let error = client
        .peer(&id)
        .sync_into(&*ledger(), EventFilter::default(), SyncOptions::default())
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&*error).unwrap().to_string();
    assert!(cause.contains("too much memory"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_ahead_of_our_clock_is_asked_for_again_when_its_time_has_come() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let hour = 3_600_000_000_000;
    let now = mesh.clock.now_nanos().get();
    let expected = vec![event(&nara("bob"), now), event(&nara("bob"), now + hour)];
    let (bob, _running) = bob_with(&mesh, &client, expected.clone()).await;
    let ours = ledger();
    let peer = client.peer(&bob);
    let sync = || peer.sync_into(&*ours, EventFilter::default(), SyncOptions::default());
    let report = sync().await.unwrap();
    assert_eq!(report.refused.len(), 1);
    assert_eq!(all(&*ours).await, expected[..1]);
    mesh.clock.advance(std::time::Duration::from_secs(3_600));
    sync().await.unwrap();
    assert_eq!(all(&*ours).await, expected);
}
