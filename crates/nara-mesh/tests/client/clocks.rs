//! Clock offsets.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::clock_offset::{ClockFault, ClockRefusal};
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::time::{UnixMillis, UnixNanos};
use nara_mesh::proto::v1::{FRESHNESS_WINDOW, RequestAuth};
use nara_mesh::registry::PeerEvent;

use crate::fake_peer::FakePeer;
use crate::support::{Answer, Mesh, NOW, address, event, introduce, nara, ping_answer, plain, signed};

const SECOND: i64 = 1_000_000_000;
const OK: &str = r#"{"success":true}"#;

/// Returns a clock this many nanoseconds ahead of alice's initial time.
fn ahead(nanos: i64) -> ManualClock {
    ManualClock::new(UnixNanos::new(NOW + nanos))
}

/// Starts a nara whose clock is this far ahead, and introduces it.
async fn peer_ahead(mesh: &Mesh, client: &MeshClient, last: u8, nanos: i64) -> (NaraId, FakePeer) {
    let local = nara(&format!("peer-{last}"));
    let id = introduce(client, &local, address(last));
    let clock = ahead(nanos);
    let peer = mesh
        .peer(last, move |request| match request.target.as_str() {
            "/ping" => ping_answer(&local),
            _ => signed(&local, &clock, 200, OK),
        })
        .await;
    (id, peer)
}

async fn dm(mesh: &Mesh, client: &MeshClient, id: &NaraId) -> Result<(), ClientError> {
    client.send_dm(id, event(&mesh.alice, 1)).await.map(drop)
}

/// Teaches a client the clocks of three peers, all this far ahead.
async fn three_others(mesh: &Mesh, client: &MeshClient, nanos: i64) {
    for last in 11..14 {
        let (id, _peer) = peer_ahead(mesh, client, last, nanos).await;
        dm(mesh, client, &id).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_offset_of_a_peer_is_learned_from_its_verified_answers() {
    let mesh = Mesh::new();
    let client = mesh.client();
    for (last, offset) in [(2, 4 * SECOND), (3, -20 * SECOND), (4, 0)] {
        let (id, _peer) = peer_ahead(&mesh, &client, last, offset).await;
        let peer = client.peer(&id).known().unwrap();
        assert_eq!(peer.clock_offset(), None);
        dm(&mesh, &client, &id).await.unwrap();
        let learned = peer.clock_offset().unwrap();
        assert!(learned.nanos().abs_diff(offset) <= 1_000_000, "{learned}");
        assert!(learned.uncertainty() <= Duration::from_millis(1), "{learned}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unproven_answer_teaches_no_clock() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, mallory) = (nara("bob"), nara("mallory"));
    let id = introduce(&client, &bob, address(2));
    let forger = LocalNara::new(
        &nara_mesh::proto::identity::Soul::bond([66; 32], "bob"),
        bob.name().clone(),
    )
    .unwrap();
    let clock = ahead(9 * SECOND);
    let _peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/ping" => ping_answer(&mallory),
            _ => signed(&forger, &clock, 200, OK),
        })
        .await;
    assert!(dm(&mesh, &client, &id).await.unwrap_err().is_unauthenticated());
    let _ = client.ping(&id).await;
    assert_eq!(client.peer(&id).known().unwrap().clock_offset(), None);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_warned_of_once_from_five_seconds_on() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let mut events = client.registry().subscribe();
    let mut warned = || {
        let mut warned = 0;
        while let Ok(event) = events.try_recv() {
            warned += u8::from(matches!(event, PeerEvent::ClockSkew { .. }));
        }
        warned
    };
    let (near, _near) = peer_ahead(&mesh, &client, 2, 4_999 * SECOND / 1_000).await;
    let (far, _far) = peer_ahead(&mesh, &client, 3, -5_100 * SECOND / 1_000).await;
    for _ in 0..3 {
        dm(&mesh, &client, &near).await.unwrap();
    }
    assert_eq!(warned(), 0);
    for expected in [1, 0, 0] {
        dm(&mesh, &client, &far).await.unwrap();
        assert_eq!(warned(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_right_and_is_wrong_again_is_warned_of_again() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = ahead(10 * SECOND);
    let at_bob = clock.clone();
    let _peer = mesh.peer(2, move |_| signed(&bob, &at_bob, 200, OK)).await;
    let mut events = client.registry().subscribe();
    for offset in [10, 0, 10] {
        clock.set(UnixNanos::new(NOW + offset * SECOND));
        dm(&mesh, &client, &id).await.unwrap();
    }
    let mut warned = 0;
    while let Ok(event) = events.try_recv() {
        warned += u8::from(matches!(event, PeerEvent::ClockSkew { .. }));
    }
    assert_eq!(warned, 2);
}

/// Returns the answer of a nara, whose clock is this far ahead, to a request that it considers stale.
fn refusal(nanos: i64, fault: Option<ClockFault>) -> Answer {
    let Answer::With(mut response) = plain(
        401,
        "Authentication failed: timestamp too old or in future: 40s\n",
    ) else {
        unreachable!("plain answers have a head");
    };
    let refusal = ClockRefusal {
        request: None,
        receiver: UnixMillis::new((NOW + nanos) / 1_000_000),
        fault,
    };
    refusal.write_to(response.headers_mut());
    Answer::With(response)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_time_names_both_clocks_and_the_remedy() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let _peer = mesh.peer(2, |_| refusal(40 * SECOND, None)).await;
    let error = dm(&mesh, &client, &id).await.unwrap_err();
    assert!(error.is_clock_skew() && error.is_unauthenticated());
    assert_eq!(error.status().unwrap(), 401);
    assert_eq!(
        error.to_string(),
        format!(
            "{}: answered 401 \"Authentication failed: timestamp too old or in future: 40s\" (not verified): \
             its clock is 40s ahead of ours (Thu, 22 Jan 2026 16:40:40 GMT, ours says Thu, 22 Jan 2026 16:40:00 \
             GMT)",
            client.peer(&id).known().unwrap().info()
        )
    );
    assert_eq!(
        error.hint().unwrap(),
        "compare both with a third clock, and set the wrong one"
    );
    assert_eq!(
        client.peer(&id).known().unwrap().clock_offset(),
        None,
        "it is not signed"
    );
}

#[tokio::test(start_paused = true)]
async fn who_seems_wrong_is_judged_by_the_clocks_of_other_peers() {
    for (others, advice) in [
        (
            0,
            "the clocks of other peers contradict its clock: tell its operator to set it",
        ),
        (
            28 * SECOND,
            "the clocks of other peers contradict ours: set the clock of this machine",
        ),
        (
            20 * SECOND,
            "compare both with a third clock, and set the wrong one",
        ),
    ] {
        let mesh = Mesh::new();
        let client = mesh.client();
        three_others(&mesh, &client, others).await;
        let id = introduce(&client, &nara("bob"), address(2));
        let _peer = mesh.peer(2, |_| refusal(40 * SECOND, None)).await;
        let error = dm(&mesh, &client, &id).await.unwrap_err();
        assert_eq!(error.hint().unwrap(), advice);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_judgement_of_our_own_we_pass_on_the_one_of_the_peer() {
    for (fault, advice) in [
        (
            ClockFault::Theirs,
            "it says that the clocks of its peers contradict ours: check the clock of this machine",
        ),
        (
            ClockFault::Ours,
            "it says that the clocks of its peers contradict its own: tell its operator",
        ),
    ] {
        let mesh = Mesh::new();
        let client = mesh.client();
        let id = introduce(&client, &nara("bob"), address(2));
        let _peer = mesh.peer(2, move |_| refusal(-40 * SECOND, Some(fault))).await;
        let error = dm(&mesh, &client, &id).await.unwrap_err();
        assert!(error.to_string().contains("40s behind ours"), "{error}");
        assert_eq!(error.hint().unwrap(), advice);
    }
}

#[tokio::test(start_paused = true)]
async fn the_date_of_an_older_nara_tells_its_clock_to_the_second() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let dated = |text: &'static str| {
        move |_: &crate::support::Received| {
            let Answer::With(mut response) = plain(401, text) else {
                unreachable!("plain answers have a head");
            };
            let date = HeaderValue::from_static("Thu, 22 Jan 2026 16:39:20 GMT");
            response
                .headers_mut()
                .insert(HeaderName::from_static("date"), date);
            Answer::With(response)
        }
    };
    let _peer = mesh
        .peer(
            2,
            dated("Authentication failed: timestamp too old or in future: 40.25s\n"),
        )
        .await;
    let error = dm(&mesh, &client, &id).await.unwrap_err();
    assert!(
        error.is_clock_skew() && error.to_string().contains("40.25s behind ours"),
        "{error}"
    );

    let other = introduce(&client, &nara("carol"), address(3));
    let _other = mesh
        .peer(3, dated("Authentication failed: replayed request\n"))
        .await;
    assert!(!dm(&mesh, &client, &other).await.unwrap_err().is_clock_skew());
}

#[tokio::test(start_paused = true)]
async fn any_claimed_time_gives_a_readable_message() {
    for claimed in [i64::MIN, -1, 0, i64::MAX] {
        let mesh = Mesh::new();
        let client = mesh.client();
        let id = introduce(&client, &nara("bob"), address(2));
        let _peer = mesh
            .peer(2, move |_| {
                let Answer::With(mut response) = plain(401, "no\n") else {
                    unreachable!("plain answers have a head");
                };
                response.headers_mut().insert("x-nara-time", claimed.into());
                Answer::With(response)
            })
            .await;
        let error = dm(&mesh, &client, &id).await.unwrap_err();
        assert!(
            error.is_clock_skew() && error.to_string().contains("GMT"),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_an_error_with_the_offset_and_teaches_nothing() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (id, _peer) = peer_ahead(&mesh, &client, 2, -40 * SECOND).await;
    let error = dm(&mesh, &client, &id).await.unwrap_err();
    assert!(error.is_clock_skew() && error.is_unauthenticated());
    assert_eq!(error.status(), None);
    assert!(
        error.to_string().contains("signed 40s behind our clock"),
        "{error}"
    );
    assert!(
        error.to_string().contains("an old answer was replayed"),
        "{error}"
    );
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(
        client.peer(&id).known().unwrap().clock_offset(),
        None,
        "it may be an old answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_forged_answer_outside_of_the_window_is_a_forgery_and_no_matter_of_clocks() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let forger = crate::naras::nara_with_seed("bob", 66);
    let clock = ahead(-40 * SECOND);
    let _peer = mesh.peer(2, move |_| signed(&forger, &clock, 200, OK)).await;
    let error = dm(&mesh, &client, &id).await.unwrap_err();
    assert!(error.is_unauthenticated() && !error.is_clock_skew(), "{error}");
}

/// Returns the time of the last request, in milliseconds ahead of our clock.
fn signed_ahead(mesh: &Mesh, peer: &FakePeer) -> i64 {
    let auth = RequestAuth::from_headers(&peer.last().headers).unwrap();
    auth.timestamp().get() - nara_mesh::clock::Clock::now_millis(&mesh.clock).get()
}

#[tokio::test(start_paused = true)]
async fn requests_are_signed_with_the_time_of_the_peer_where_that_is_asked_for() {
    let mesh = Mesh::new();
    for (by_default, of_peer, compensates) in [
        (false, None, false),
        (true, None, true),
        (true, Some(false), false),
        (false, Some(true), true),
    ] {
        let client = mesh.builder().compensate_clocks(by_default).build();
        let last = 20 + 2 * u8::from(by_default) + u8::from(of_peer.is_some());
        let (id, peer) = peer_ahead(&mesh, &client, last, 25 * SECOND).await;
        client.peer(&id).known().unwrap().set_clock_compensation(of_peer);
        dm(&mesh, &client, &id).await.unwrap();
        assert!(signed_ahead(&mesh, &peer) < 100, "nothing is known yet");
        dm(&mesh, &client, &id).await.unwrap();
        let ahead = signed_ahead(&mesh, &peer);
        if compensates {
            assert!((24_990..25_010).contains(&ahead), "{ahead}");
        } else {
            assert!(ahead < 100, "{ahead}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn compensated_times_are_never_used_twice_and_others_keep_theirs() {
    let mesh = Mesh::new();
    let client = mesh.builder().compensate_clocks(true).build();
    let (far, far_peer) = peer_ahead(&mesh, &client, 2, 25 * SECOND).await;
    let (near, near_peer) = peer_ahead(&mesh, &client, 3, 0).await;
    dm(&mesh, &client, &far).await.unwrap();
    for _ in 0..5 {
        dm(&mesh, &client, &far).await.unwrap();
        dm(&mesh, &client, &near).await.unwrap();
        assert!(signed_ahead(&mesh, &near_peer) < 100);
    }
    let mut times: Vec<_> = far_peer
        .received()
        .iter()
        .map(|request| RequestAuth::from_headers(&request.headers).unwrap().timestamp())
        .collect();
    let all = times.len();
    times.dedup();
    assert_eq!(times.len(), all);
    assert!(times.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn no_peer_can_move_our_time_by_more_than_the_window() {
    let mesh = Mesh::new();
    let client = mesh.builder().compensate_clocks(true).build();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = ahead(0);
    let at_bob = clock.clone();
    let peer = mesh.peer(2, move |_| signed(&bob, &at_bob, 200, OK)).await;
    for offset in [29, 45, 58, 29, 30] {
        clock.set(UnixNanos::new(NOW + offset * SECOND));
        let _ = dm(&mesh, &client, &id).await;
        let ahead = Duration::from_millis(signed_ahead(&mesh, &peer).unsigned_abs());
        assert!(ahead <= FRESHNESS_WINDOW, "{ahead:?}");
    }
    let offset = client.peer(&id).known().unwrap().clock_offset().unwrap();
    assert!(offset.at_least() <= FRESHNESS_WINDOW, "{offset}");
}

#[tokio::test(start_paused = true)]
async fn a_ping_reports_the_offset_of_an_unsigned_answer_as_unproven() {
    let mesh = Mesh::new();
    let clock = Arc::new(ahead(-3 * SECOND));
    let client = mesh.builder().clock(clock).build();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let _peer = mesh.peer(2, move |_| ping_answer(&bob)).await;
    let report = client.ping(&id).await.unwrap();
    assert_eq!(report.clock_offset.unwrap().nanos(), 3 * SECOND);
    assert!(!report.clock_proven);
    assert_eq!(
        client.peer(&id).known().unwrap().clock_offset(),
        None,
        "that is for what is proven"
    );
}

#[tokio::test(start_paused = true)]
async fn a_ping_reports_the_proven_offset_if_there_is_one() {
    let mesh = Mesh::new();
    let client = mesh.client();
    // Its signed answers are 4 s ahead; its `/ping` answer has our own time.
    let (id, _peer) = peer_ahead(&mesh, &client, 2, 4 * SECOND).await;
    let measured = client.peer(&id).measure_clock().await.unwrap().unwrap();
    assert!((measured.nanos() - 4 * SECOND).abs() <= SECOND / 2);
    let report = client.ping(&id).await.unwrap();
    assert_eq!(report.clock_offset, Some(measured));
    assert!(report.clock_proven);
}

#[tokio::test(start_paused = true)]
async fn a_clock_is_measured_with_one_question_and_only_where_it_is_not_known() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (id, peer) = peer_ahead(&mesh, &client, 2, SECOND).await;
    let measured = client.peer(&id).measure_clock().await.unwrap();
    assert!(measured.is_some());
    assert_eq!(client.peer(&id).measure_clock().await.unwrap(), measured);
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_clock_jumps_is_called_again_at_once() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let clock = ahead(16 * SECOND);
    let at_bob = clock.clone();
    let _peer = mesh
        .peer(2, move |request| {
            let signed_at: i64 = request.header("x-nara-timestamp").parse().unwrap();
            let now = at_bob.now_millis();
            if now.abs_diff(UnixMillis::new(signed_at)) > FRESHNESS_WINDOW {
                return refusal(now.to_nanos().get() - NOW, None);
            }
            signed(&bob, &at_bob, 200, OK)
        })
        .await;
    client
        .peer(&id)
        .known()
        .unwrap()
        .set_clock_compensation(Some(true));
    dm(&mesh, &client, &id).await.unwrap();
    dm(&mesh, &client, &id).await.unwrap();
    // Between our time and the peer's former time.
    clock.set(UnixNanos::new(NOW - 16 * SECOND));
    assert!(dm(&mesh, &client, &id).await.unwrap_err().is_clock_skew());
    dm(&mesh, &client, &id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn learned_offsets_are_forgotten_when_our_clock_is_set() {
    let mesh = Mesh::new();
    let client = mesh.client();
    three_others(&mesh, &client, 20 * SECOND).await;
    let (id, _peer) = peer_ahead(&mesh, &client, 2, 20 * SECOND).await;
    dm(&mesh, &client, &id).await.unwrap();
    let peer = client.peer(&id).known().unwrap();
    assert!(peer.clock_offset().is_some());
    // Corrected: no peer's clock differs from ours any more.
    mesh.clock.set(UnixNanos::new(NOW + 20 * SECOND));
    dm(&mesh, &client, &id).await.unwrap();
    let learned = peer.clock_offset().unwrap();
    assert!(learned.magnitude() < Duration::from_secs(1), "{learned}");
}
