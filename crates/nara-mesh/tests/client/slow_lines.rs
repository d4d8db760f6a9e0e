//! Events over slow lines, and from peers that make lines look slow.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::client::{MeshClient, PeerHandle, SyncOptions};
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::proto::breaker::BreakerState;
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::go_json;
use nara_mesh::proto::reconcile::Scope;
use nara_mesh::proto::sync::{EventFilter, SyncRequest};
use nara_mesh::server::RunningServer;

use crate::bulk::{all, events, ledger, page, serve_bob};
use crate::support::{Answer, Mesh, address, introduce, nara, ping_answer, signed, timed};

const SECOND: Duration = Duration::from_secs(1);

/// Bob's real server, behind a line.
struct Line {
    client: MeshClient,
    peer: PeerHandle,
    events: Vec<SyncEvent>,
    ours: Arc<MemoryLedger>,
    _running: RunningServer,
}

impl Line {
    /// Returns a line on which all events of bob together take so long.
    async fn on_which_all_take(time: Duration) -> Self {
        let mesh = Mesh::new();
        let theirs = ledger();
        let events = events(600);
        theirs.insert_verified(events.clone()).await.unwrap();
        let running = serve_bob(&mesh, theirs).await;
        let fast = mesh.client();
        introduce(&fast, &nara("bob"), address(2));
        let (bytes, _) = sync(&fast.peer("bob"), &ledger(), 600).await;

        let rate = u32::try_from(bytes / time.as_secs()).unwrap();
        mesh.network.set_rate(NonZeroU32::new(rate).unwrap());
        let client = mesh.client();
        introduce(&client, &nara("bob"), address(2));
        Self {
            peer: client.peer("bob"),
            client,
            events,
            ours: ledger(),
            _running: running,
        }
    }
}

/// Syncs, and returns the numbers of bytes and pages.
async fn sync(peer: &PeerHandle, ours: &MemoryLedger, page_size: usize) -> (u64, usize) {
    let options = SyncOptions::default().page_size(page_size);
    let synced = peer.sync_into(ours, EventFilter::default(), options).await;
    let progress = synced.unwrap().progress;
    assert_eq!((progress.received, progress.duplicates), (600, 0));
    (progress.bytes, progress.pages)
}

#[tokio::test(start_paused = true)]
async fn a_ledger_comes_over_a_line_on_which_a_page_takes_twelve_seconds() {
    let line = Line::on_which_all_take(36 * SECOND).await;
    let ((_, pages), took) = timed(sync(&line.peer, &line.ours, 200)).await;
    assert_eq!(pages, 4, "none was requested twice, and the last is empty");
    assert!(took >= 36 * SECOND && took < 45 * SECOND, "{took:?}");
    assert_eq!(all(&*line.ours).await, line.events);
}

#[tokio::test(start_paused = true)]
async fn every_way_to_fetch_events_has_time_for_a_slow_line() {
    let line = Line::on_which_all_take(12 * SECOND).await;
    let recent = line.peer.fetch_sync_events(SyncRequest::recent(600)).await;
    assert_eq!(recent.unwrap().events.accepted.len(), 600);
    let reconciled = line
        .peer
        .reconcile(&*line.ours, Scope::all(), SyncOptions::default());
    assert_eq!(reconciled.await.unwrap().progress.stored, 600);
    assert_eq!(all(&*line.ours).await, line.events);
}

#[tokio::test(start_paused = true)]
async fn pages_become_smaller_until_the_line_carries_them() {
    let line = Line::on_which_all_take(40 * SECOND).await;
    let (_, pages) = sync(&line.peer, &line.ours, 600).await;
    assert!(pages > 4, "{pages} pages");
    assert_eq!(all(&*line.ours).await, line.events);
    let state = line.peer.known().unwrap().breaker_state();
    assert_eq!(state, BreakerState::Closed);

    let again = ledger();
    let reconciled = line.client.peer("bob");
    let reconciled = reconciled.reconcile(&*again, Scope::all(), SyncOptions::default());
    assert_eq!(reconciled.await.unwrap().progress.duplicates, 0);
    assert_eq!(all(&*again).await, line.events);
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_page_drips_is_given_up() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let (sent, clock) = (events(100), mesh.clock.clone());
    let peer = mesh.peer(2, move |request| {
        let Answer::With(page) = signed(&bob, &clock, 200, page(&sent, &request.body)) else {
            unreachable!()
        };
        Answer::Drip(page, 1, SECOND)
    });
    let peer = peer.await;
    let ours = ledger();
    let dripping = client.peer(&id);
    let dripping = dripping.sync_into(&*ours, EventFilter::default(), SyncOptions::default());
    let (failed, took) = timed(dripping).await;
    let failed = failed.unwrap_err();
    assert!(failed.to_string().contains("too slowly"), "{failed}");
    assert_eq!(took, 4 * 20 * SECOND);
    let sizes = peer.received().into_iter().map(|request| {
        let request: SyncRequest = go_json::from_slice(&request.body).unwrap();
        request.page_size
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [5000, 1250, 312, 78]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_within_a_page_is_given_up_sooner() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let (sent, clock) = (events(100), mesh.clock.clone());
    let _peer = mesh
        .peer(2, move |request| {
            match signed(&bob, &clock, 200, page(&sent, &request.body)) {
                Answer::With(page) => Answer::Half(page.map(|body| body.slice(..1000))),
                other => other,
            }
        })
        .await;
    let ours = ledger();
    let stopped = client.peer(&id);
    let stopped = stopped.sync_into(&*ours, EventFilter::default(), SyncOptions::default());
    let (failed, took) = timed(stopped).await;
    assert!(failed.unwrap_err().to_string().contains("too slowly"));
    assert_eq!(took, 4 * 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_that_drips_ends_at_the_deadline() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    mesh.peer(2, move |_| match ping_answer(&bob) {
        Answer::With(response) => Answer::Drip(response, 1, SECOND),
        other => other,
    })
    .await;
    let (outcome, took) = timed(client.ping(address(2))).await;
    assert!(outcome.unwrap_err().is_timeout());
    assert_eq!(took, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_an_answer_is_that_at_its_beginning() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let (sent, clock) = (events(10), mesh.clock.clone());
    let _peer = mesh
        .peer(2, move |request| {
            match signed(&bob, &clock, 200, page(&sent, &request.body)) {
                Answer::With(page) => {
                    let third = page.body().len() / 3 + 1;
                    Answer::Drip(page, third, 4 * SECOND)
                }
                other => other,
            }
        })
        .await;
    let ours = ledger();
    let peer = client.peer(&id);
    let syncing = peer.sync_into(&*ours, EventFilter::default(), SyncOptions::default());
    let later = async {
        tokio::time::sleep(10 * SECOND).await;
        mesh.clock.advance(40 * SECOND);
    };
    let (synced, ()) = tokio::join!(syncing, later);
    assert_eq!(synced.unwrap().progress.stored, 10);
}
