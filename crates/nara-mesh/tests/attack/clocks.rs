//! Clocks that jump.

use std::time::Duration;

use nara_proto::time::{UnixMillis, UnixNanos};

use crate::proxy;
use crate::replays::direct_message;
use crate::road::LegacyRoad;
use crate::support::{NOW, Target};

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
    // Long enough for the request to be forgotten as stale, by whatever comes then.
    target.clock.set(after(120));
    let alice = crate::support::nara("alice");
    let later = target.post(&alice, "/events/sync", br#"{"from":"alice"}"#);
    assert_eq!(later.status, 200);
    target.clock.set(after(1));
    let replay = proxy::send(target.address(), &direct_message("zine")).await;
    assert_eq!(replay.status(), 401, "{}", String::from_utf8_lossy(&replay.body));
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
