//! Answers with events: each event gets its own verdict.

use bytes::Bytes;
use futures_util::StreamExt as _;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::event::{
    CheckpointPayload, EventProblem, EventTrust, ObservationPayload, Payload, SyncEvent,
};
use nara_mesh::proto::go_json;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::peer::CheckpointsResponse;
use nara_mesh::proto::sync::{Cursor, EventFilter, MAX_EVENTS, SyncMode, SyncRequest, SyncResponse};
use nara_mesh::proto::time::{UnixNanos, UnixSeconds};
use nara_mesh::proto::zine::Zine;

use crate::support::{
    Answer, FakePeer, Mesh, Received, address, event, introduce, json, nara, ping_answer, pinned, plain,
    signed,
};

fn checkpoint(ts: i64) -> SyncEvent {
    let payload = CheckpointPayload {
        subject: "bob".to_owned(),
        as_of_time: UnixSeconds::new(1),
        ..CheckpointPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Checkpoint(payload))
}

fn observation(ts: i64) -> SyncEvent {
    let payload = ObservationPayload {
        // Its key is unknown.
        observer: "dave".to_owned(),
        subject: "carol".to_owned(),
        kind: "first-seen".to_owned(),
        importance: 1,
        start_time: UnixSeconds::new(1),
        ..ObservationPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Observation(payload))
}

/// Returns a page of `ledger`, with our cursor if `modern`.
fn serve_page(ledger: &[SyncEvent], request: &Received, bob: &LocalNara, modern: bool) -> Bytes {
    let mut request: SyncRequest = go_json::from_slice(&request.body).unwrap();
    if !modern {
        request.after.clear();
    }
    let SyncMode::Page {
        after,
        size,
        lossless,
    } = request.mode()
    else {
        panic!("not a page: {request:?}")
    };
    let filter = request.filter();
    let page: Vec<_> = ledger
        .iter()
        .filter(|event| filter.matches(event) && Cursor::behind(event) > after)
        .take(size)
        .cloned()
        .collect();
    let last = page.last().filter(|_| page.len() == size).cloned();
    let name = bob.name().as_str();
    let mut response = SyncResponse::signed(name, page, UnixSeconds::new(1_769_100_000), bob.keypair());
    response.next_cursor = last
        .as_ref()
        .map(|event| event.ts.to_string())
        .unwrap_or_default();
    if lossless {
        response.next_after = last
            .map(|event| Cursor::behind(&event).to_string())
            .unwrap_or_default();
    }
    json(&response)
}

async fn bob_with_ledger(
    mesh: &Mesh,
    client: &MeshClient,
    ledger: Vec<SyncEvent>,
    modern: bool,
) -> (FakePeer, NaraId) {
    let bob = nara("bob");
    let id = introduce(client, &bob, address(2));
    let clock = mesh.clock.clone();
    let peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/ping" => ping_answer(&bob),
            "/events/sync" => signed(&bob, &clock, 200, serve_page(&ledger, request, &bob, modern)),
            _ => plain(404, "404 page not found\n"),
        })
        .await;
    (peer, id)
}

async fn sync_one(
    mesh: &Mesh,
    client: &MeshClient,
    events: Vec<SyncEvent>,
) -> nara_mesh::client::CheckedEvents {
    let bob = nara("bob");
    let id = introduce(client, &bob, address(2));
    let response = SyncResponse::signed("bob", events, UnixSeconds::new(1_769_100_000), bob.keypair());
    mesh.honest(2, &bob, json(&response)).await;
    let answer = client
        .fetch_sync_events(&id, SyncRequest::recent(100))
        .await
        .unwrap();
    answer.into_inner().events
}

#[tokio::test(start_paused = true)]
async fn every_event_gets_its_own_verdict() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, carol) = (nara("bob"), nara("carol"));
    let genuine = event(&bob, 1);
    let ours = event(&mesh.alice, 2);
    let unknown = event(&carol, 3);
    let unsigned = observation(4);
    let mut tampered = event(&bob, 5);
    tampered.social.as_mut().unwrap().reason = "trend-abandon".to_owned();
    let mut forged = event(&bob, 6);
    forged.sign("bob", carol.keypair());
    let mut nameless = event(&bob, 7);
    nameless.sig.clear();
    let empty = SyncEvent {
        ts: UnixNanos::new(8),
        ..SyncEvent::default()
    };

    let sent = [
        &genuine, &ours, &unknown, &unsigned, &tampered, &forged, &nameless, &empty,
    ];
    let checked = sync_one(&mesh, &client, sent.into_iter().cloned().collect()).await;
    let trust: Vec<_> = checked
        .accepted
        .iter()
        .map(|c| (c.event.id.clone(), c.trust))
        .collect();
    assert_eq!(
        trust,
        [
            (genuine.id, EventTrust::Verified),
            (ours.id, EventTrust::Verified),
            (unknown.id, EventTrust::UnknownKey),
            (unsigned.id, EventTrust::Unsigned),
        ]
    );
    let problems: Vec<_> = checked
        .refused
        .iter()
        .map(|r| (r.id.clone(), r.problem))
        .collect();
    assert_eq!(problems[0], (tampered.id, EventProblem::ForgedId));
    assert_eq!(problems[1], (forged.id, EventProblem::BadSignature));
    assert_eq!(problems[2], (nameless.id, EventProblem::MustBeSigned));
    assert!(matches!(&problems[3], (id, EventProblem::Invalid(_)) if id.is_empty()));
    assert_eq!(checked.refused[1].emitter, "bob");
    assert_eq!(checked.received(), 8);
}

#[tokio::test(start_paused = true)]
async fn many_events_keep_their_order_and_the_bad_one_is_named() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let mut events: Vec<_> = (1..=1500).map(|ts| event(&bob, ts)).collect();
    events[777].sign("bob", nara("carol").keypair());
    let expected: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
    let checked = sync_one(&mesh, &client, events).await;
    assert_eq!(checked.refused.len(), 1);
    assert_eq!(checked.refused[0].id, expected[777]);
    let mut ids: Vec<_> = checked.into_events().into_iter().map(|event| event.id).collect();
    ids.insert(777, expected[777].clone());
    assert_eq!(ids, expected);
}

#[tokio::test(start_paused = true)]
async fn pages_bring_every_event_once_from_peers_old_and_new() {
    for modern in [true, false] {
        let mesh = Mesh::new();
        let client = mesh.client();
        let bob = nara("bob");
        // Pairs share a time, and a page of three splits one of them.
        let ledger: Vec<_> = (1..=20)
            .flat_map(|ts| {
                let mut pair = [event(&bob, ts), observation(ts)];
                pair.sort_by(|a, b| a.id.cmp(&b.id));
                pair
            })
            .collect();
        let expected: Vec<_> = ledger.iter().map(|event| event.id.clone()).collect();
        let (_, id) = bob_with_ledger(&mesh, &client, ledger, modern).await;

        let mut ids = Vec::new();
        let mut resume = None;
        let mut pages = client.peer(&id).sync_pages(EventFilter::default(), 3, None);
        while let Some(page) = pages.next().await {
            let page = page.unwrap();
            assert!(page.verification.header && page.verification.inner);
            resume.get_or_insert_with(|| page.cursor.clone());
            ids.extend(page.events.into_events().into_iter().map(|event| event.id));
        }
        assert_eq!(ids, expected, "modern: {modern}");

        let mut rest = Vec::new();
        let mut pages = client
            .peer(&id)
            .sync_pages(EventFilter::default(), MAX_EVENTS, resume);
        while let Some(page) = pages.next().await {
            rest.extend(
                page.unwrap()
                    .events
                    .into_events()
                    .into_iter()
                    .map(|event| event.id),
            );
        }
        assert_eq!(rest, expected[3..], "modern: {modern}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_end_behind_the_first_error() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let events = vec![event(&bob, 2), event(&bob, 1)];
    let id = introduce(&client, &bob, address(2));
    let response = SyncResponse::signed("bob", events, UnixSeconds::new(1), bob.keypair());
    mesh.honest(2, &bob, json(&response)).await;
    let outcomes: Vec<_> = client
        .peer(&id)
        .sync_pages(EventFilter::default(), 10, None)
        .collect()
        .await;
    assert_eq!(outcomes.len(), 1);
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("paging protocol"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn checkpoints_come_by_sync() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let ledger: Vec<_> = (1..=5)
        .flat_map(|ts| [event(&bob, 2 * ts), checkpoint(2 * ts + 1)])
        .collect();
    let (peer, id) = bob_with_ledger(&mesh, &client, ledger, true).await;
    let checkpoints = client.peer(&id).fetch_checkpoints().await.unwrap();
    assert!(checkpoints.is_verified() && !checkpoints.more);
    let received = checkpoints.events.received();
    assert_eq!(received, 5);
    let request: SyncRequest = go_json::from_slice(&peer.last().body).unwrap();
    assert_eq!(request.services.unwrap(), ["checkpoint"]);
    assert_eq!(request.page_size, 1000);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_come_from_the_old_endpoint_if_sync_gives_none() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = mesh.clock.clone();
    let peer = mesh
        .peer(2, move |request| {
            let mut response = CheckpointsResponse::default();
            match request.target.as_str() {
                "/events/sync" => {
                    let body = SyncResponse::signed("bob", vec![], UnixSeconds::new(1), bob.keypair());
                    return signed(&bob, &clock, 200, json(&body));
                }
                "/api/checkpoints/all?limit=1000&offset=0" => {
                    response.checkpoints = Some(vec![checkpoint(1), checkpoint(2)]);
                    response.has_more = true;
                }
                "/api/checkpoints/all?limit=1000&offset=2" => {
                    response.checkpoints = Some(vec![checkpoint(3)])
                }
                _ => return plain(404, ""),
            }
            plain(200, json(&response))
        })
        .await;
    let checkpoints = client.peer(&id).fetch_checkpoints().await.unwrap();
    assert!(!checkpoints.is_verified());
    assert_eq!(checkpoints.events.received(), 3);
    assert_eq!(peer.received().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_zine_goes_out_signed_by_us_and_comes_back_checked() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let answer = Zine::signed(
        "bob",
        UnixSeconds::new(1_769_100_000),
        vec![event(&bob, 5), event(&nara("carol"), 6)],
        bob.keypair(),
    );
    let peer = mesh.honest(2, &bob, json(&answer)).await;
    let sent = event(&mesh.alice, 7);
    let zine = client.peer(&id).exchange_zine(vec![sent.clone()]).await.unwrap();
    assert!(zine.is_verified() && zine.verification().inner);
    let trust: Vec<_> = zine.events.accepted.iter().map(|checked| checked.trust).collect();
    assert_eq!(trust, [EventTrust::Verified, EventTrust::UnknownKey]);

    let received: Zine = go_json::from_slice(&peer.last().body).unwrap();
    assert_eq!(received.from, "alice");
    assert_eq!(received.created_at.get(), 1_769_100_000);
    assert_eq!(received.events(), [sent]);
    received.verify(&mesh.alice.public_key()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_zine_that_its_sender_did_not_sign_is_refused() {
    let bob = nara("bob");
    let unsigned = Zine {
        from: "bob".to_owned(),
        ..Zine::default()
    };
    let of_carol = Zine::signed("carol", UnixSeconds::new(1), vec![], nara("carol").keypair());
    for zine in [unsigned, of_carol] {
        let mesh = Mesh::new();
        let client = mesh.client();
        client.registry().pin(pinned(&nara("carol"))).unwrap();
        let id = introduce(&client, &bob, address(2));
        mesh.honest(2, &bob, json(&zine)).await;
        let error = client.peer(&id).exchange_zine(vec![]).await.unwrap_err();
        assert!(error.is_unauthenticated(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_ends_paging_at_the_deadline_of_one_page() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    mesh.peer(2, |_| Answer::Nothing).await;
    let mut pages = client.peer(&id).sync_pages(EventFilter::default(), 10, None);
    let (page, took) = crate::support::timed(pages.next()).await;
    assert!(page.unwrap().unwrap_err().is_timeout());
    assert_eq!(took.as_secs(), 5);
}
