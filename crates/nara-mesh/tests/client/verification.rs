//! Which answers are accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use nara_mesh::client::MeshClient;
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::sync::{SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::registry::{KeySource, PeerEvent, PeerRegistry, TrustPolicy};

use crate::support::{
    Answer, Mesh, address, event, introduce, json, known, nara, ping_answer, pinned, plain, signed,
};

fn sync_body(responder: &nara_mesh::identity::LocalNara, events: Vec<SyncEvent>) -> Bytes {
    json(&SyncResponse::signed(
        responder.name().as_str(),
        events,
        UnixSeconds::new(1_769_100_000),
        responder.keypair(),
    ))
}

/// Returns the error of a sync with bob, whose key is pinned, for this answer.
async fn refused(
    mesh: &Mesh,
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) -> nara_mesh::client::ClientError {
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    mesh.peer(2, move |_| answer()).await;
    client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap_err()
}

fn with_headers(answer: Answer, change: impl Fn(&mut Response<Bytes>)) -> Answer {
    match answer {
        Answer::With(mut response) => {
            change(&mut response);
            Answer::With(response)
        }
        answer => answer,
    }
}

#[tokio::test(start_paused = true)]
async fn a_verified_answer_says_what_was_verified() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    mesh.honest(2, &bob, sync_body(&bob, vec![event(&bob, 5)])).await;
    let id = introduce(&client, &bob, address(2));
    let answer = client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap();
    let proof = answer.verification();
    assert!(answer.is_verified() && proof.header && proof.inner);
    assert_eq!(proof.responder.as_ref(), Some(bob.name()));
    assert_eq!(proof.key, Some(bob.public_key()));
    assert_eq!(proof.key_source, Some(KeySource::Configured));
    assert_eq!(proof.signed_at.unwrap().get(), 1_769_100_000_250);
    assert_eq!(answer.events.accepted.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_open_endpoint_is_not_called_verified() {
    let mesh = Mesh::new();
    mesh.peer(2, |_| plain(200, r#"{"coordinates":{"x":1.5},"name":"bob"}"#))
        .await;
    let answer = mesh.client().peer(address(2)).coordinates().await.unwrap();
    assert!(!answer.is_verified());
    assert_eq!(answer.coordinates.as_ref().unwrap().x, 1.5);
}

#[tokio::test(start_paused = true)]
async fn an_unsigned_answer_is_refused() {
    let mesh = Mesh::new();
    let error = refused(&mesh, || plain(200, sync_body(&nara("bob"), vec![]))).await;
    assert!(error.is_unauthenticated() && error.status().is_none(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_signed_with_another_key_is_refused() {
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        let mallory = nara("mallory");
        let forged = signed(&mallory, &clock, 200, sync_body(&nara("bob"), vec![]));
        with_headers(forged, |response| {
            response
                .headers_mut()
                .insert("x-nara-name", HeaderValue::from_static("bob"));
        })
    })
    .await;
    assert!(error.is_unauthenticated(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_another_body_than_the_signed_one_is_refused() {
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        let bob = nara("bob");
        with_headers(signed(&bob, &clock, 200, sync_body(&bob, vec![])), |response| {
            *response.body_mut() = sync_body(&nara("bob"), vec![event(&nara("bob"), 5)]);
        })
    })
    .await;
    assert!(error.is_unauthenticated(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_nara_is_refused() {
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        let carol = nara("carol");
        signed(&carol, &clock, 200, sync_body(&carol, vec![]))
    })
    .await;
    assert!(error.is_unauthenticated(), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "carol answered instead of bob");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_for_thirty_seconds_either_way() {
    for (skew, fresh) in [(-30, true), (30, true), (-31, false), (31, false)] {
        let mesh = Mesh::new();
        let client = mesh.client();
        let bob = nara("bob");
        let clock = mesh.clock.clone();
        let answer = signed(&bob, &clock, 200, sync_body(&bob, vec![]));
        let Answer::With(answer) = answer else {
            unreachable!()
        };
        mesh.peer(2, move |_| Answer::With(answer.clone())).await;
        let id = introduce(&client, &bob, address(2));
        let step = Duration::from_secs(u64::from(i32::unsigned_abs(skew)));
        let now = nara_mesh::clock::Clock::now_nanos(&mesh.clock);
        mesh.clock.set(if skew > 0 {
            now.saturating_add(step)
        } else {
            now.saturating_sub(step)
        });
        let outcome = client.fetch_sync_events(&id, SyncRequest::recent(1)).await;
        match outcome {
            Ok(_) => assert!(fresh, "{skew}"),
            Err(error) => assert!(!fresh && error.is_unauthenticated(), "{skew}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_headers_are_refused() {
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        let bob = nara("bob");
        with_headers(signed(&bob, &clock, 200, sync_body(&bob, vec![])), |response| {
            response
                .headers_mut()
                .append("x-nara-name", HeaderValue::from_static("carol"));
        })
    })
    .await;
    assert!(error.is_unauthenticated(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_inner_signature_of_another_nara_is_refused() {
    for inner in ["carol", "bob"] {
        let mesh = Mesh::new();
        let clock = mesh.clock.clone();
        let error = refused(&mesh, move || {
            // First carol's answer forwarded by bob, then carol's signature under bob's name.
            let mut body = SyncResponse::signed(inner, vec![], UnixSeconds::new(1), nara("carol").keypair());
            body.from = inner.to_owned();
            signed(&nara("bob"), &clock, 200, json(&body))
        })
        .await;
        assert!(error.is_unauthenticated(), "{error}");
        assert!(error.to_string().contains("inside the answer"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn broken_json_is_refused() {
    for body in ["", "{", "[]", r#"{"events":1}"#] {
        let mesh = Mesh::new();
        let clock = mesh.clock.clone();
        let error = refused(&mesh, move || signed(&nara("bob"), &clock, 200, body)).await;
        assert!(!error.is_unauthenticated() && error.status().is_none(), "{error}");
        assert!(error.to_string().contains("cannot be decoded"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_oversized_answer_is_refused_whether_its_length_is_announced_or_not() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let too_large = "x".repeat((4 << 10) + 1);
    mesh.peer(2, move |request| match request.target.as_str() {
        "/ping" => plain(200, too_large.clone()),
        // Without a length, and without an end.
        _ => Answer::Half(Response::new(too_large.clone().into())),
    })
    .await;
    for error in [
        client.ping(address(2)).await.unwrap_err(),
        client.peer(address(2)).coordinates().await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("larger than 4096 bytes"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn success_is_status_200_and_nothing_else() {
    for status in [201, 204, 301, 307, 400, 401, 404, 405, 500, 503] {
        let mesh = Mesh::new();
        let elsewhere = mesh
            .honest(3, &nara("bob"), sync_body(&nara("bob"), vec![]))
            .await;
        let error = refused(&mesh, move || {
            with_headers(plain(status, "why not\n"), |response| {
                let to = HeaderValue::from_static("http://100.64.0.3:9632/events/sync");
                response.headers_mut().insert("location", to);
            })
        })
        .await;
        assert_eq!(error.status().unwrap(), status);
        assert_eq!(error.is_unauthenticated(), status == 401);
        assert!(!error.is_status_verified());
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(elsewhere.received().is_empty(), "redirects are not followed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_signed_error_answer_is_told_from_an_unsigned_one() {
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        signed(&nara("bob"), &clock, 400, "from is required\n")
    })
    .await;
    assert!(error.is_status_verified());
    assert_eq!(error.text(), Some("from is required\n"));
    let mesh = Mesh::new();
    let clock = mesh.clock.clone();
    let error = refused(&mesh, move || {
        with_headers(
            signed(&nara("bob"), &clock, 400, "from is required\n"),
            |response| {
                *response.body_mut() = Bytes::from_static(b"something else");
            },
        )
    })
    .await;
    assert!(!error.is_status_verified());
}

#[tokio::test(start_paused = true)]
async fn the_text_of_an_error_answer_is_cut() {
    let mesh = Mesh::new();
    let error = refused(&mesh, || plain(500, "x".repeat(1 << 20))).await;
    assert_eq!(error.text().unwrap().len(), 4 << 10);
}

async fn sync(client: &MeshClient, peer: impl Into<nara_mesh::client::PeerRef>) -> Result<KeySource, String> {
    let answer = client
        .fetch_sync_events(peer, SyncRequest::recent(1))
        .await
        .map_err(|error| {
            assert!(error.is_unauthenticated(), "{error}");
            error.to_string()
        })?;
    Ok(answer.verification().key_source.clone().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_key_is_trusted_on_first_use_and_pinned() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, sync_body(&bob, vec![])).await;
    client.register_peer(bob.id(), address(2)).unwrap();
    let mut events = client.registry().subscribe();

    assert_eq!(sync(&client, bob.id()).await, Ok(KeySource::Ping(address(2))));
    let info = client.peer(bob.id()).known().unwrap().info();
    assert_eq!(info.name.as_ref(), Some(bob.name()));
    let key = info.key.unwrap();
    assert_eq!(key.key, bob.public_key());
    assert_eq!(key.learned_at.get(), 1_769_100_000_250);
    assert!(matches!(events.try_recv(), Ok(PeerEvent::KeyPinned(_))));

    sync(&client, bob.id()).await.unwrap();
    let targets: Vec<_> = peer.received().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/events/sync", "/ping", "/events/sync"]);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_called_by_address_becomes_a_registered_peer() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    mesh.honest(2, &bob, sync_body(&bob, vec![])).await;
    sync(&client, address(2)).await.unwrap();
    assert_eq!(
        client.peer(bob.name()).known().unwrap().info().address,
        Some(address(2))
    );
    assert_eq!(client.registry().len(), 1);
    // Once its id is known, both are one peer.
    client.register_peer(bob.id(), address(2)).unwrap();
    sync(&client, bob.id()).await.unwrap();
    assert_eq!(client.registry().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_passed_on_by_another_host_does_not_move_a_nara() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    introduce(&client, &bob, address(2));
    mesh.honest(3, &bob, sync_body(&bob, vec![])).await;
    sync(&client, address(3)).await.unwrap();
    assert_eq!(
        client.peer(bob.id()).known().unwrap().info().address,
        Some(address(2))
    );
}

#[tokio::test(start_paused = true)]
async fn only_pinned_keys_are_trusted_if_so_configured() {
    let mesh = Mesh::new();
    let client = mesh
        .builder()
        .registry(PeerRegistry::default().with_trust(TrustPolicy::Pinned))
        .build();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, sync_body(&bob, vec![])).await;
    client.register_peer(bob.id(), address(2)).unwrap();
    let error = sync(&client, bob.id()).await.unwrap_err();
    assert!(error.contains("not pinned"), "{error}");
    assert_eq!(peer.received().len(), 1, "no /ping");

    client.registry().register(known(&bob, None)).unwrap();
    assert_eq!(sync(&client, bob.id()).await, Ok(KeySource::Configured));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_key_is_never_replaced_by_discovery() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, impostor) = (nara("bob"), nara("impostor"));
    client.registry().pin(pinned(&bob)).unwrap();
    client.register_peer(bob.id(), address(2)).unwrap();
    let clock = mesh.clock.clone();
    mesh.peer(2, move |request| match request.target.as_str() {
        "/ping" => with_name(ping_answer(&impostor)),
        _ => with_headers(signed(&impostor, &clock, 200, "{}"), |response| {
            response
                .headers_mut()
                .insert("x-nara-name", HeaderValue::from_static("bob"));
        }),
    })
    .await;
    sync(&client, bob.id()).await.unwrap_err();
    let key = client.peer(bob.name()).known().unwrap().key();
    assert_eq!(key, Some(bob.public_key()));
}

fn with_name(answer: Answer) -> Answer {
    with_headers(answer, |response| {
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        *response.body_mut() = text.replace("impostor", "bob").into();
    })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pinned_unless_the_responder_proves_that_it_holds_the_key() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, carol) = (nara("bob"), nara("carol"));
    client.register_peer(bob.id(), address(2)).unwrap();
    let (named, clock) = (bob.clone(), mesh.clock.clone());
    mesh.peer(2, move |request| match request.target.as_str() {
        "/ping" => ping_answer(&named),
        _ => with_headers(signed(&carol, &clock, 200, "{}"), |response| {
            response
                .headers_mut()
                .insert("x-nara-name", HeaderValue::from_static("bob"));
        }),
    })
    .await;
    sync(&client, bob.id()).await.unwrap_err();
    assert_eq!(client.peer(bob.id()).known().unwrap().key(), None);
    assert!(client.peer(bob.name()).known().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_tells_no_key_is_no_reason_to_trust() {
    type Change = fn(Answer) -> Answer;
    let cases: [(Change, &str); 4] = [
        (|_| plain(404, ""), "answered 404"),
        (|_| plain(200, "{}"), "no valid name and key"),
        (
            |_| plain(200, r#"{"from":"bob","public_key":"AAAA"}"#),
            "no valid name and key",
        ),
        (|_| ping_answer(&nara("carol")), "no valid name and key"),
    ];
    for (change, cause) in cases {
        let mesh = Mesh::new();
        let client = mesh.client();
        let bob = nara("bob");
        client.register_peer(bob.id(), address(2)).unwrap();
        let clock = mesh.clock.clone();
        let served = bob.clone();
        mesh.peer(2, move |request| match request.target.as_str() {
            "/ping" => change(ping_answer(&served)),
            _ => signed(&served, &clock, 200, "{}"),
        })
        .await;
        let error = client
            .fetch_sync_events(bob.id(), SyncRequest::recent(1))
            .await
            .unwrap_err();
        assert!(error.is_unauthenticated(), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(cause), "{source}");
    }
}

#[tokio::test(start_paused = true)]
async fn discovery_takes_two_seconds_at_most() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.network.silence(address(2).ip());
    let (outcome, took) = crate::support::timed(client.discover_key(address(2), None)).await;
    assert!(outcome.unwrap_err().is_timeout());
    assert_eq!(took, Duration::from_secs(2));

    let bob = nara("bob");
    mesh.honest(3, &bob, Bytes::new()).await;
    let found = client.discover_key(address(3), Some(bob.name())).await.unwrap();
    assert_eq!(found.key, bob.public_key());
    assert!(client.registry().is_empty(), "nothing is pinned");
    let carol = nara("carol");
    assert!(client.discover_key(address(3), Some(carol.name())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn our_own_name_with_another_key_is_a_conflict() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let impostor = nara_mesh::identity::LocalNara::new(
        &nara_mesh::proto::identity::Soul::bond([99; 32], "alice"),
        "alice".parse().unwrap(),
    )
    .unwrap();
    mesh.honest(2, &impostor, sync_body(&impostor, vec![])).await;
    let error = sync(&client, address(2)).await.unwrap_err();
    assert!(error.contains("contradicts"), "{error}");
    assert!(client.peer(impostor.name()).known().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_under_a_name_that_belongs_to_another_id_is_refused() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, carol) = (nara("bob"), nara("carol"));
    introduce(&client, &carol, address(3));
    client.register_peer(bob.id(), address(2)).unwrap();
    mesh.honest(2, &carol, sync_body(&carol, vec![])).await;
    let error = sync(&client, bob.id()).await.unwrap_err();
    assert!(error.contains("contradicts"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_ping_answered_by_another_nara_is_an_error() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let swapped = Arc::new(AtomicBool::new(false));
    let is_swapped = swapped.clone();
    mesh.peer(2, move |_| {
        if is_swapped.load(Ordering::SeqCst) {
            ping_answer(&nara("carol"))
        } else {
            with_name(ping_answer(&nara("impostor")))
        }
    })
    .await;
    assert_eq!(client.ping(&id).await.unwrap().key_matches, Some(false));
    swapped.store(true, Ordering::SeqCst);
    let error = client.ping(&id).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_dangerous_client_accepts_everything_and_admits_it() {
    let mesh = Mesh::new();
    let client = mesh.builder().danger_accept_unverified_responses().build();
    let (bob, carol) = (nara("bob"), nara("carol"));
    let id = introduce(&client, &bob, address(2));
    let body = sync_body(&carol, vec![event(&bob, 5)]);
    mesh.peer(2, move |_| plain(200, body.clone())).await;
    let answer = client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap();
    assert!(!answer.is_verified() && !answer.verification().inner);
    assert_eq!(answer.verification().key, None);
    assert_eq!(answer.events.accepted.len(), 1);

    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    mesh.peer(3, move |_| signed(&bob, &clock, 200, sync_body(&bob, vec![])))
        .await;
    client.register_peer(&id, address(3)).unwrap();
    let answer = client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap();
    assert!(answer.is_verified() && answer.verification().inner);
}

#[tokio::test(start_paused = true)]
async fn a_nara_with_a_new_soul_is_an_error_with_both_keys_and_an_event() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    introduce(&client, &bob, address(2));
    let reborn = nara_mesh::identity::LocalNara::new(
        &nara_mesh::proto::identity::Soul::bond([99; 32], "bob"),
        "bob".parse().unwrap(),
    )
    .unwrap();
    mesh.honest(2, &reborn, sync_body(&reborn, vec![])).await;
    let mut events = client.registry().subscribe();
    let sync = client.fetch_sync_events(bob.id(), SyncRequest::recent(1)).await;
    let error = sync.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    for nara in [&bob, &reborn] {
        let key = nara_mesh::proto::identity::KeyId::from(&nara.public_key());
        assert!(cause.contains(&key.to_string()), "{cause}");
    }
    assert!(
        matches!(events.try_recv(), Ok(PeerEvent::KeyConflict(conflict)) if conflict.offered == reborn.public_key())
    );
    // A ping reports it, too.
    assert_eq!(client.ping(bob.id()).await.unwrap().key_matches, Some(false));
    assert!(matches!(events.try_recv(), Ok(PeerEvent::KeyConflict(_))));
    assert_eq!(
        client.peer(bob.name()).known().unwrap().key(),
        Some(bob.public_key())
    );
}
