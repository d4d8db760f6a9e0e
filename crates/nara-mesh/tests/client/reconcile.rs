//! Finding and fetching missing events, from a real server, and from peers that break the rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use nara_mesh::client::{MeshClient, SyncError, SyncOptions, SyncReport};
use nara_mesh::ledger::{
    EventStore as _, Ledger, MemoryLedger, ReadLimit, RetentionPolicy, SqliteLedger, TransferStore as _,
};
use nara_mesh::proto::event::{CheckpointPayload, Payload, SeenPayload, Service, SyncEvent};
use nara_mesh::proto::go_json;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::reconcile::{FetchRequest, ItemId, ItemSet, MAX_ROUNDS, Scope, respond};
use nara_mesh::proto::sync::{EventFilter, SyncResponse};
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::server::RunningServer;
use proptest::collection::btree_set;
use proptest::prelude::*;

use crate::bulk::{all, events, ledger, serve_bob};
use crate::support::{Mesh, Received, address, event, introduce, json, nara, plain, signed};

struct Pair {
    client: MeshClient,
    bob: NaraId,
    ours: Arc<dyn Ledger>,
    theirs: Arc<dyn Ledger>,
    _mesh: Mesh,
    _running: RunningServer,
}

impl Pair {
    async fn new(ours: Arc<dyn Ledger>, theirs: Arc<dyn Ledger>) -> Self {
        let mesh = Mesh::new();
        let client = mesh.client();
        let running = serve_bob(&mesh, theirs.clone()).await;
        let bob = introduce(&client, &nara("bob"), address(2));
        Self {
            client,
            bob,
            ours,
            theirs,
            _mesh: mesh,
            _running: running,
        }
    }

    async fn with(ours: &[SyncEvent], theirs: &[SyncEvent]) -> Self {
        let pair = Self::new(ledger(), ledger()).await;
        pair.ours.insert_verified(ours.to_vec()).await.unwrap();
        pair.theirs.insert_verified(theirs.to_vec()).await.unwrap();
        pair
    }

    async fn reconcile(&self, scope: Scope, push: bool) -> Result<SyncReport, SyncError> {
        let options = SyncOptions::default().push(push);
        self.client
            .peer(&self.bob)
            .reconcile(&*self.ours, scope, options)
            .await
    }

    async fn check(&self, scope: Scope) -> bool {
        let check = self
            .client
            .peer(&self.bob)
            .check_in_sync(&*self.ours, scope)
            .await;
        check.unwrap().in_sync
    }
}

fn ids(events: &[SyncEvent]) -> BTreeSet<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn only_missing_events_are_fetched() {
    let every = events(500);
    let pair = Pair::with(&every[..490], &every).await;
    assert!(!pair.check(Scope::all()).await);
    let report = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((report.missing_here, report.missing_there), (10, 0));
    assert_eq!((report.progress.received, report.progress.stored), (10, 10));
    assert!(report.complete && !report.fell_back);
    assert_eq!(all(&*pair.ours).await, every);
    assert!(pair.check(Scope::all()).await);
    let again = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((again.rounds, again.progress.received), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn missing_events_of_the_peer_are_pushed_only_on_request() {
    let every = events(60);
    let pair = Pair::with(&every[..50], &every[10..]).await;
    let report = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((report.missing_there, report.pushed), (10, 0));
    assert_eq!(pair.theirs.count().await.unwrap(), 50);
    let report = pair.reconcile(Scope::all(), true).await.unwrap();
    assert_eq!(report.pushed, 10);
    assert_eq!(all(&*pair.theirs).await, every);
    assert!(pair.check(Scope::all()).await);
}

#[tokio::test(start_paused = true)]
async fn a_scope_leaves_the_rest_alone() {
    let every = events(20);
    let pair = Pair::with(&[], &every).await;
    let checkpoints = Scope::all().services([Service::Checkpoint]);
    assert!(pair.check(checkpoints).await);
    // The events are a millisecond apart, so all are in second 0.
    let mut later = Scope::all();
    later.from = Some(UnixSeconds::new(1));
    assert_eq!(pair.reconcile(later, false).await.unwrap().progress.received, 0);
    let social = Scope::all().services([Service::Social]);
    assert_eq!(pair.reconcile(social, false).await.unwrap().progress.stored, 20);
}

#[tokio::test(start_paused = true)]
async fn rejected_events_are_not_fetched_from_the_same_peer_again() {
    let mut sent = events(20);
    sent[3].sign("bob", nara("eve").keypair());
    sent[7].sign("bob", nara("eve").keypair());
    let genuine = events(20);
    let pair = Pair::with(&[], &sent).await;
    let first = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((first.progress.stored, first.progress.refused), (18, 2));
    let named: Vec<_> = first.refused.iter().map(|event| event.id.clone()).collect();
    assert_eq!(
        BTreeSet::from_iter(named),
        BTreeSet::from([sent[3].id.clone(), sent[7].id.clone()])
    );
    let second = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((second.missing_here, second.rejected_before), (2, 2));
    assert_eq!(second.progress.received, 0);

    // Other peers still deliver the genuine events: a bad signature does not spoil an id.
    let honest = Pair::new(pair.ours.clone(), ledger()).await;
    honest.theirs.insert_verified(genuine.clone()).await.unwrap();
    let items = genuine
        .iter()
        .filter_map(|event| ItemId::of_event(&event.id))
        .collect();
    assert!(
        pair.ours
            .rejected("carol".to_owned(), items)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_rejected_for_want_of_a_key_is_fetched_again_when_it_is_learned() {
    let by = |name: &str, payload| {
        let mut event = SyncEvent::new(events(1)[0].ts, payload);
        event.sign(name, nara(name).keypair());
        event
    };
    let seen = SeenPayload {
        observer: "carol".to_owned(),
        subject: "bob".to_owned(),
        via: "mesh".to_owned(),
        ..SeenPayload::default()
    };
    let checkpoint = CheckpointPayload {
        subject: "carol".to_owned(),
        as_of_time: UnixSeconds::new(1),
        ..CheckpointPayload::default()
    };
    let sent = [
        by("carol", Payload::Seen(seen)),
        by("bob", Payload::Checkpoint(checkpoint)),
    ];
    for ours in [ledger(), Arc::new(MemoryLedger::new())] {
        let pair = Pair::new(ours, ledger()).await;
        pair.theirs.insert_verified(sent.to_vec()).await.unwrap();
        let rejected_before = async |learned: Option<&str>| {
            pair.ours
                .forgive(learned.map(str::to_owned).into_iter().collect())
                .await
                .unwrap();
            let report = pair.reconcile(Scope::all(), false).await.unwrap();
            (report.missing_here, report.rejected_before)
        };
        assert_eq!(rejected_before(None).await, (2, 0));
        assert_eq!(rejected_before(None).await, (2, 2));
        assert_eq!(rejected_before(Some("dave")).await, (2, 2));
        assert_eq!(rejected_before(Some("carol")).await, (2, 1));
        assert_eq!(rejected_before(Some("")).await, (2, 1));
        assert_eq!(rejected_before(None).await, (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn events_outside_of_the_retention_are_fetched_once() {
    let small = MemoryLedger::new().with_retention(RetentionPolicy::UNLIMITED.max_events(10));
    let pair = Pair::new(Arc::new(small), ledger()).await;
    let every = events(40);
    pair.ours.insert_verified(every[30..].to_vec()).await.unwrap();
    pair.theirs.insert_verified(every).await.unwrap();
    let first = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((first.progress.received, first.progress.not_retained), (30, 30));
    let second = pair.reconcile(Scope::all(), false).await.unwrap();
    assert_eq!((second.rejected_before, second.progress.received), (30, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_the_endpoint_is_paged_through() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = mesh.clock.clone();
    let sent = events(5);
    let serves = sent.clone();
    let _peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/events/sync" => {
                let now = UnixSeconds::new(1_769_100_000);
                let page = SyncResponse::signed("bob", serves.clone(), now, bob.keypair());
                signed(&bob, &clock, 200, json(&page))
            }
            _ => plain(404, "404 page not found\n"),
        })
        .await;
    let ours = ledger();
    let report = client
        .peer(&id)
        .reconcile(&*ours, Scope::all(), SyncOptions::default())
        .await
        .unwrap();
    assert!(report.fell_back);
    assert_eq!(all(&*ours).await, sent);
    let check = client
        .peer(&id)
        .check_in_sync(&*ours, Scope::all())
        .await
        .unwrap_err();
    let SyncError::Peer(error) = check else {
        panic!("{check}")
    };
    assert_eq!(error.status().unwrap(), 404);
}

/// Reconciles with a peer that answers rounds and fetches like this.
async fn with_hostile(
    mine: &[SyncEvent],
    round: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static,
    fetch: impl Fn(Vec<String>) -> Vec<SyncEvent> + Send + Sync + 'static,
) -> (Result<SyncReport, SyncError>, usize) {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = mesh.clock.clone();
    let peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/events/reconcile" => signed(&bob, &clock, 200, round(request)),
            _ => {
                let asked: FetchRequest = go_json::from_slice(&request.body).unwrap();
                let events = fetch(asked.ids.unwrap());
                let now = UnixSeconds::new(1_769_100_000);
                signed(
                    &bob,
                    &clock,
                    200,
                    json(&SyncResponse::signed("bob", events, now, bob.keypair())),
                )
            }
        })
        .await;
    let ours = ledger();
    ours.insert_verified(mine.to_vec()).await.unwrap();
    let outcome = client
        .peer(&id)
        .reconcile(&*ours, Scope::all(), SyncOptions::default())
        .await;
    (outcome, peer.received().len())
}

fn cause(outcome: Result<SyncReport, SyncError>) -> String {
    let error = outcome.unwrap_err();
    assert!(error.to_string().starts_with("bob"), "{error}");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn garbage_instead_of_a_frame_is_an_error_that_names_the_peer() {
    for garbage in [
        &b""[..],
        b"\x60",
        b"\x61\x00\x00\x09",
        b"\x61\x00\x00\x01short",
        b"\x61\x00\x00\x02\xff\xff\xff\x7f",
        b"\x61\x05\x40",
    ] {
        let (outcome, _) = with_hostile(&events(50), |_| garbage.to_vec(), |_| Vec::new()).await;
        assert!(cause(outcome).contains("not a negentropy frame"), "{garbage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_beyond_the_limit_is_cut() {
    let (outcome, _) = with_hostile(&[], |_| vec![0x61; (256 << 10) + 1], |_| Vec::new()).await;
    assert!(cause(outcome).contains("larger than 262144 bytes"));
}

#[tokio::test(start_paused = true)]
async fn endless_rounds_end() {
    let endless = |_: &Received| {
        let mut frame = vec![0x61, 0, 0, 1];
        frame.extend([7; 16]);
        frame
    };
    let (outcome, requests) = with_hostile(&events(100), endless, |_| Vec::new()).await;
    let report = outcome.unwrap();
    assert!(!report.complete);
    assert_eq!((report.rounds, requests), (MAX_ROUNDS, MAX_ROUNDS));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_no_event_has_is_refused() {
    let forged = |_: &Received| {
        let mut frame = vec![0x61, 0, 0, 2, 1];
        frame.extend([7; 32]);
        frame
    };
    let (outcome, _) = with_hostile(&[], forged, |_| Vec::new()).await;
    assert!(cause(outcome).contains("represents no event"));
}

fn set(events: &[SyncEvent]) -> ItemSet {
    let items = events.iter();
    ItemSet::new(items.map(|event| (event.ts, ItemId::of_event(&event.id).unwrap(), event.service())))
}

#[tokio::test(start_paused = true)]
async fn events_that_were_not_asked_for_are_refused() {
    let theirs = set(&events(3));
    let round = move |request: &Received| respond(theirs.clone(), &request.body).unwrap();
    let other = event(&nara("bob"), 77_777);
    let id = other.id.clone();
    let (outcome, _) = with_hostile(&[], round.clone(), move |_| vec![other.clone()]).await;
    assert!(cause(outcome).contains(&format!("event {id} was not requested")));
    let twice = events(1)[0].clone();
    let (outcome, _) = with_hostile(&[], round, move |_| vec![twice.clone(), twice.clone()]).await;
    assert!(cause(outcome).contains("was not requested"));
}

#[tokio::test(start_paused = true)]
async fn announced_events_that_never_come_are_gone() {
    let theirs = set(&events(30));
    let round = move |request: &Received| respond(theirs.clone(), &request.body).unwrap();
    let (outcome, requests) = with_hostile(&[], round, |_| Vec::new()).await;
    let report = outcome.unwrap();
    assert_eq!(
        (report.missing_here, report.gone, report.progress.received),
        (30, 30, 0)
    );
    assert!(requests < 10, "{requests} requests");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_gives_one_event_at_a_time_is_left_at_some_point() {
    let every = events(100);
    let theirs = set(&every);
    let round = move |request: &Received| respond(theirs.clone(), &request.body).unwrap();
    let one = move |asked: Vec<String>| {
        every
            .iter()
            .filter(|e| asked.contains(&e.id))
            .take(1)
            .cloned()
            .collect()
    };
    let (outcome, requests) = with_hostile(&[], round, one).await;
    let report = outcome.unwrap();
    assert_eq!(report.progress.stored + report.gone, 100);
    assert!(requests < 30, "{requests} requests");
}

#[tokio::test(start_paused = true)]
async fn a_server_refuses_malformed_frames_and_scopes() {
    use nara_mesh::proto::endpoint::{EventsFetch, EventsReconcile, ReconcileRequest};

    let pair = Pair::with(&[], &events(5)).await;
    let call = |frame: Vec<u8>| {
        let request = ReconcileRequest {
            scope: Scope::all(),
            frame,
        };
        let client = pair.client.clone();
        let bob = pair.bob.clone();
        async move { client.peer(&bob).call::<EventsReconcile>(&request).await }
    };
    assert_eq!(
        call(vec![0x61, 0, 0, 9]).await.unwrap_err().status().unwrap(),
        400
    );
    assert_eq!(call(Vec::new()).await.unwrap_err().status().unwrap(), 400);
    assert_eq!(
        call(vec![0x61; 300 << 10]).await.unwrap_err().status().unwrap(),
        413
    );
    let many = FetchRequest {
        from: "alice".to_owned(),
        ids: Some(vec!["x".to_owned(); 5001]),
    };
    let bob = pair.client.peer(&pair.bob);
    assert_eq!(
        bob.call::<EventsFetch>(&many)
            .await
            .unwrap_err()
            .status()
            .unwrap(),
        400
    );
}

async fn union(
    ours: Arc<dyn Ledger>,
    theirs: Arc<dyn Ledger>,
    mine: &[SyncEvent],
    yours: &[SyncEvent],
) -> Result<(), TestCaseError> {
    let pair = Pair::new(ours, theirs).await;
    // Half before the first call, half after it, so that the sets are updated and not rebuilt.
    for half in [0, 1] {
        let part =
            |events: &[SyncEvent]| -> Vec<_> { events.iter().skip(half).step_by(2).cloned().collect() };
        pair.ours.insert_verified(part(mine)).await.unwrap();
        pair.theirs.insert_verified(part(yours)).await.unwrap();
        let expected = &ids(&all(&*pair.ours).await) | &ids(&all(&*pair.theirs).await);
        let report = pair.reconcile(Scope::all(), true).await.unwrap();
        prop_assert!(report.complete);
        prop_assert_eq!(&ids(&all(&*pair.ours).await), &expected);
        prop_assert_eq!(&ids(&all(&*pair.theirs).await), &expected);
        let again = pair.reconcile(Scope::all(), false).await.unwrap();
        prop_assert_eq!((again.rounds, again.missing_here, again.missing_there), (1, 0, 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn two_ledgers_end_with_the_union(
        mine in btree_set(0_usize..300, 0..120),
        yours in btree_set(0_usize..300, 0..120),
    ) {
        let every = events(300);
        let pick = |numbers: &BTreeSet<usize>| -> Vec<_> { numbers.iter().map(|&n| every[n].clone()).collect() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            union(ledger(), ledger(), &pick(&mine), &pick(&yours)).await?;
            let sqlite = || -> Arc<dyn Ledger> {
                Arc::new(SqliteLedger::open_in_memory().unwrap().with_retention(RetentionPolicy::UNLIMITED))
            };
            union(sqlite(), sqlite(), &pick(&mine), &pick(&yours)).await
        })?;
    }
}

/// The ledger's item set equals its contents after any inserts and prunes.
async fn keeps_its_items(ledger: Arc<dyn Ledger>) {
    let every = events(400);
    assert!(ledger.items(Scope::all()).await.unwrap().is_empty());
    for part in every.chunks(37) {
        ledger.insert_verified(part.to_vec()).await.unwrap();
        let items = ledger.items(Scope::all()).await.unwrap();
        let held = all(&*ledger).await;
        assert!(items.ids().eq(set(&held).ids()));
        let found = ledger.by_ids(items.ids().collect(), usize::MAX).await.unwrap();
        assert_eq!(ids(&found), ids(&held));
    }
    assert!(ledger.count().await.unwrap() < 200, "nothing was pruned");
}

#[tokio::test]
async fn the_items_of_a_ledger_follow_its_changes() {
    let policy = RetentionPolicy::UNLIMITED.max_events(100);
    keeps_its_items(Arc::new(MemoryLedger::new().with_retention(policy))).await;
    keeps_its_items(Arc::new(
        SqliteLedger::open_in_memory().unwrap().with_retention(policy),
    ))
    .await;
}

#[tokio::test]
async fn the_items_of_a_database_follow_what_another_program_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let (one, other) = (
        SqliteLedger::open(&path).unwrap(),
        SqliteLedger::open(&path).unwrap(),
    );
    let every = events(30);
    let count = async || one.items(Scope::all()).await.unwrap().len();
    one.insert_verified(every[..10].to_vec()).await.unwrap();
    assert_eq!(count().await, 10);
    other.insert_verified(every[10..20].to_vec()).await.unwrap();
    assert_eq!(count().await, 20);
    other.insert_verified(every[20..25].to_vec()).await.unwrap();
    one.insert_verified(every[25..].to_vec()).await.unwrap();
    assert_eq!(count().await, 30);
}

#[tokio::test]
async fn rejections_survive_a_restart_and_go_by_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let items: Vec<_> = set(&events(3)).ids().collect();
    {
        let ledger = SqliteLedger::open(&path).unwrap();
        let rejections = |items: &[ItemId]| {
            let rejection = |&item: &ItemId| (item, None);
            items.iter().map(rejection).collect::<Vec<_>>()
        };
        for rejected in [&items[..2], &items[..1]] {
            ledger
                .reject("bob".to_owned(), rejections(rejected))
                .await
                .unwrap();
        }
    }
    let ledger = SqliteLedger::open(&path).unwrap();
    let rejected = ledger.rejected("bob".to_owned(), items.clone()).await.unwrap();
    assert_eq!(rejected, items[..2]);
    assert!(
        ledger
            .rejected("carol".to_owned(), items)
            .await
            .unwrap()
            .is_empty()
    );
    let page = ledger
        .page(
            EventFilter::default(),
            nara_mesh::proto::sync::Cursor::START,
            ReadLimit::events(9),
        )
        .await;
    assert!(page.unwrap().is_empty());
}
