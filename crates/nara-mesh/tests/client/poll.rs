//! A subscription to a peer without streams.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use nara_mesh::client::{StreamError, StreamState, SubscribeOptions, Subscription, VerifiedEvent};
use nara_mesh::clock::Clock as _;
use nara_mesh::ledger::{Insertion, MemoryLedger};
use nara_mesh::proto::event::{EventTrust, SyncEvent};
use nara_mesh::proto::go_json;
use nara_mesh::proto::sync::{SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixNanos;

use crate::support::{Answer, FakePeer, Mesh, address, event, introduce, json, nara, plain, signed};

const EVERY: Duration = Duration::from_secs(5);

/// The events in the ledger of a v1 peer; `Err` if it answers that it is down.
type Events = Arc<Mutex<Result<Vec<SyncEvent>, ()>>>;

async fn v1_peer(mesh: &Mesh, events: &Events) -> FakePeer {
    let (bob, clock, events) = (nara("bob"), mesh.clock.clone(), events.clone());
    mesh.peer(2, move |request| match &*request.target {
        "/events/sync" => {
            let asked: SyncRequest = go_json::from_slice(&request.body).unwrap();
            assert_eq!(asked.mode, "recent");
            let Ok(mut events) = events.lock().unwrap().clone() else {
                return plain(500, "no");
            };
            events.reverse();
            let now = clock.now_seconds();
            let answer = SyncResponse::signed("bob", events, now, bob.keypair());
            signed(&bob, &clock, 200, json(&answer))
        }
        _ => Answer::With(
            http::Response::builder()
                .status(404)
                .body("404 page not found\n".into())
                .unwrap(),
        ),
    })
    .await
}

async fn next(events: &mut Subscription) -> VerifiedEvent {
    events.next().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn new_events_of_a_v1_peer_are_returned_once_and_oldest_first() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let at = |ts| event(&mesh.alice, ts);
    let theirs: Events = Arc::new(Mutex::new(Ok(vec![at(1), at(2)])));
    let _peer = v1_peer(&mesh, &theirs).await;
    let ours = Arc::new(MemoryLedger::new());
    let options = SubscribeOptions::default().poll(EVERY).into_ledger(ours.clone());
    let mut events = client.peer(&id).subscribe(options);
    let mut state = events.state();
    state
        .wait_for(|state| *state == StreamState::Polling { every: EVERY })
        .await
        .unwrap();
    assert!(
        events.next().now_or_never().is_none(),
        "what was there before is no news"
    );

    theirs.lock().unwrap().as_mut().unwrap().extend([at(3), at(4)]);
    for ts in [3, 4] {
        let news = next(&mut events).await;
        assert_eq!(news.event.ts, UnixNanos::new(ts));
        assert_eq!(
            (news.trust, news.cursor, news.insertion),
            (EventTrust::Verified, None, Some(Insertion::Stored))
        );
    }
    // It is down for a while, and has more events afterwards.
    let mut known = std::mem::replace(&mut *theirs.lock().unwrap(), Err(())).unwrap();
    state
        .wait_for(|state| matches!(state, StreamState::Waiting { .. }))
        .await
        .unwrap();
    known.push(at(5));
    *theirs.lock().unwrap() = Ok(known);
    assert_eq!(next(&mut events).await.event.ts, UnixNanos::new(5));
}

#[tokio::test(start_paused = true)]
async fn a_poll_begins_with_the_requested_past_and_names_refused_events() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let mut forged = event(&mesh.alice, 3);
    forged.ts = UnixNanos::new(4);
    let theirs: Events = Arc::new(Mutex::new(Ok(vec![
        event(&mesh.alice, 1),
        event(&mesh.alice, 2),
        forged,
    ])));
    let _peer = v1_peer(&mesh, &theirs).await;
    let options = SubscribeOptions::default().poll(EVERY).since(UnixNanos::new(2));
    let mut events = client.peer(&id).subscribe(options);
    let refused = events.next().await.unwrap().unwrap_err();
    assert!(refused.refused().is_some(), "{refused}");
    assert_eq!(next(&mut events).await.event.ts, UnixNanos::new(2));
    tokio::time::sleep(3 * EVERY).await;
    assert!(events.next().now_or_never().is_none());
    assert_eq!(events.refused(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_polling_a_peer_that_has_no_streams_ends_the_subscription() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let _peer = v1_peer(&mesh, &Arc::new(Mutex::new(Ok(Vec::new())))).await;
    let mut events = client.peer(&id).subscribe(SubscribeOptions::default());
    let last = events.next().await.unwrap().unwrap_err();
    assert!(matches!(last, StreamError::Unsupported { .. }), "{last}");
    assert!(events.next().await.is_none());
}
