//! Two naras that report the same restart of a third.

use std::slice::from_ref;
use std::sync::Arc;

use nara_mesh::client::SyncOptions;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::proto::event::{ObservationPayload, Payload, SyncEvent};
use nara_mesh::proto::reconcile::Scope;
use nara_mesh::proto::sync::EventFilter;
use nara_mesh::proto::time::{UnixNanos, UnixSeconds};

use crate::bulk::{all, ledger, serve_bob};
use crate::support::{Mesh, address, introduce, nara};

/// Returns an observation of carol's restart. Its id covers the time of the event, but not the observer.
fn restart(observer: &LocalNara, ts: i64) -> SyncEvent {
    let payload = ObservationPayload {
        observer: observer.name().to_string(),
        subject: "carol".to_owned(),
        kind: "restart".to_owned(),
        importance: 3,
        restart_num: 7,
        start_time: UnixSeconds::new(5),
        ..ObservationPayload::default()
    };
    let (name, keypair) = (observer.name().as_str(), observer.keypair());
    let mut event = SyncEvent::signed(UnixNanos::new(ts), Payload::Observation(payload), name, keypair);
    event.remove_uncovered();
    event
}

/// Returns a ledger with one event.
async fn with(event: &SyncEvent) -> Arc<MemoryLedger> {
    let ledger = ledger();
    ledger.insert_verified(vec![event.clone()]).await.unwrap();
    ledger
}

#[tokio::test(start_paused = true)]
async fn two_observers_of_one_restart_are_both_heard_if_they_saw_it_at_different_times() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (of_alice, of_bob) = (restart(&mesh.alice, 1), restart(&nara("bob"), 2));
    let (ours, theirs) = (with(&of_alice).await, with(&of_bob).await);
    let _running = serve_bob(&mesh, theirs.clone()).await;
    let peer = client.peer(introduce(&client, &nara("bob"), address(2)));
    let options = SyncOptions::default().push(true);
    peer.reconcile(&*ours, Scope::all(), options).await.unwrap();
    for ledger in [&ours, &theirs] {
        assert_eq!(all(&**ledger).await, [of_alice.clone(), of_bob.clone()]);
    }
    assert!(peer.check_in_sync(&*ours, Scope::all()).await.unwrap().in_sync);
}

#[tokio::test(start_paused = true)]
async fn under_one_id_neither_of_two_observers_pushes_out_the_other_whatever_way_it_comes() {
    let mesh = Mesh::new();
    let client = mesh.client();
    // At the same nanosecond.
    let (of_alice, of_bob) = (restart(&mesh.alice, 3), restart(&nara("bob"), 3));
    assert_eq!(of_alice.id, of_bob.id);
    let (ours, theirs) = (with(&of_alice).await, with(&of_bob).await);
    let _running = serve_bob(&mesh, theirs.clone()).await;
    let peer = client.peer(introduce(&client, &nara("bob"), address(2)));
    for _ in 0..2 {
        let options = SyncOptions::default().push(true);
        let report = peer.reconcile(&*ours, Scope::all(), options).await.unwrap();
        assert_eq!((report.missing_here, report.missing_there), (0, 0));
        let options = SyncOptions::default().resume(false);
        let report = peer.sync_into(&*ours, EventFilter::default(), options).await;
        let progress = report.unwrap().progress;
        assert_eq!((progress.received, progress.stored), (1, 0));
        peer.exchange_zine(vec![of_alice.clone()]).await.unwrap();
        assert_eq!(all(&*ours).await, from_ref(&of_alice));
        assert_eq!(all(&*theirs).await, from_ref(&of_bob));
    }
}
