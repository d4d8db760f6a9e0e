//! Clock steps.

use std::sync::Arc;
use std::time::Duration;

use nara_mesh::clock::ManualClock;
use nara_proto::time::{UnixMillis, UnixNanos};

use crate::proxy;
use crate::replays::direct_message;
use crate::road::LegacyRoad;
use crate::support::{NOW, Target, nara, request, signed};

/// Returns a target's answer to a sync request of alice that was signed this many seconds after [`NOW`].
fn sync(target: &Target, seconds: i64) -> (u16, String) {
    sync_at(target, seconds * 1_000)
}

fn sync_at(target: &Target, millis: i64) -> (u16, String) {
    let at = UnixMillis::new(NOW.get() + millis);
    let headers = signed(&nara("alice"), at, "POST", "/events/sync");
    let answer = target.send(&request("POST", "/events/sync", &headers, br#"{"from":"alice"}"#));
    (answer.status, answer.text())
}

/// Starts a target whose clock is off by this much, and corrects it a second later.
async fn started_at(seconds: i64) -> Target {
    let clock = ManualClock::new(after(seconds));
    let at_target = clock.clone();
    let mut target = Target::start_with(|builder| builder.clock(Arc::new(at_target))).await;
    target.clock = clock;
    target.clock.advance(Duration::from_secs(1));
    target.clock.set(after(1));
    target
}

fn after(seconds: i64) -> UnixNanos {
    UnixMillis::new(NOW.get() + seconds * 1000).to_nanos()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_jumps_ahead_refuses_until_it_is_set_right() {
    let target = Target::start().await;
    target.clock.set(after(3600));
    let answer = proxy::send(target.address(), &direct_message("mesh")).await;
    assert_eq!(answer.status(), 401);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("timestamp too old or in future"), "{text}");
    target.clock.set(after(0));
    assert_eq!(
        proxy::send(target.address(), &direct_message("mesh"))
            .await
            .status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_does_not_make_a_replay_fresh() {
    let target = Target::start().await;
    assert_eq!(
        proxy::send(target.address(), &direct_message("mesh"))
            .await
            .status(),
        200
    );
    // Long enough for the request to be forgotten as stale.
    target.clock.set(after(120));
    let alice = nara("alice");
    let later = target.post(&alice, "/events/sync", br#"{"from":"alice"}"#);
    assert_eq!(later.status, 200);
    target.clock.set(after(1));
    let replay = proxy::send(target.address(), &direct_message("zine")).await;
    let text = String::from_utf8_lossy(&replay.body).into_owned();
    assert_eq!(replay.status(), 503, "{text}");
    assert!(text.contains("cannot tell this request from a replay"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_clock_jumps_refuses_answers_until_it_is_set_right() {
    let road = LegacyRoad::start().await;
    road.sync(1).await.unwrap();
    let kept = road.attacker.answers()[0].clone();
    road.attacker
        .on_request(move |_| proxy::Fate::Answer(kept.clone()));
    for jump in [3600, -3600] {
        road.clock.set(after(jump));
        assert!(road.sync(1).await.unwrap_err().is_unauthenticated());
    }
    road.clock.set(after(0));
    road.clock.advance(Duration::from_secs(1));
    road.sync(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_started_with_a_wrong_clock_serves_as_soon_as_it_is_set_right() {
    for wrong in [7_200, -7_200] {
        let target = started_at(wrong).await;
        assert_eq!(sync(&target, 1).0, 200, "{wrong}");
        let step = target.registry.clock_step().unwrap();
        assert_eq!(step.nanos, -wrong * 1_000_000_000);
        // A request that an earlier server may have accepted stays refused, whatever time this one assumed.
        let (status, text) = sync(&target, -5);
        assert_eq!(status, 401);
        assert!(text.contains("signed before this nara started"), "{text}");
        let (status, text) = sync(&target, wrong);
        assert_eq!(status, 401);
        assert!(text.contains("timestamp too old or in future"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_to_and_fro_costs_only_the_time_of_the_jump() {
    let target = Target::start().await;
    for (second, jump) in [7_200, -7_200, 86_400, -86_400].into_iter().enumerate() {
        let second = i64::try_from(second).unwrap();
        assert_eq!(sync(&target, second).0, 200);
        target.clock.set(after(second + jump));
        assert_eq!(sync(&target, second).0, 401);
        target.clock.set(after(second + 1));
    }
    assert_eq!(sync(&target, 4).0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_comes_again_is_refused_with_the_reason_and_for_no_longer_than_it_lasted() {
    let target = Target::start().await;
    // There is a request every second for a minute and a half.
    for second in 0..90 {
        assert_eq!(sync(&target, second).0, 200);
        target.clock.advance(Duration::from_secs(1));
    }
    target.clock.set(after(20));
    let (status, text) = sync_at(&target, 20_001);
    assert_eq!(status, 503);
    assert!(text.contains("The clock of this nara was set back"), "{text}");
    assert!(
        text.contains("Thu, 22 Jan 2026 16:40:59 GMT by its clock"),
        "{text}"
    );
    // The requests of the last half minute are still in the cache.
    target.clock.set(after(62));
    assert_eq!(sync_at(&target, 62_001).0, 200);
}
