//! Recorded messages that are sent again.

use std::time::Duration;

use nara_proto::go_json;

use crate::message::Message;
use crate::proxy::{self, Fate};
use crate::road::LegacyRoad;
use crate::support::{NOW, Target, nara, seen};

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_request_that_is_delivered_twice_counts_twice_at_a_v1_only_nara() {
    let road = LegacyRoad::start().await;
    road.attacker.on_request(|_| Fate::Twice);
    road.sync(1).await.unwrap();
    assert_eq!(road.peer.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_held_back_is_stale_after_thirty_seconds() {
    let road = LegacyRoad::start().await;
    road.sync(1).await.unwrap();
    let kept = road.attacker.requests("/events/sync")[0].clone();
    let target = Target::start().await;
    target.clock.set(NOW.to_nanos());
    target.clock.advance(Duration::from_millis(30_001));
    let answer = proxy::send(target.address(), &kept).await;
    assert_eq!(answer.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_v1_answer_is_refused() {
    let road = LegacyRoad::start().await;
    road.sync(1).await.unwrap();
    let kept = road.attacker.answers()[0].clone();
    road.attacker.on_request(move |_| Fate::Answer(kept.clone()));
    road.sync(1).await.unwrap();
    road.clock.advance(Duration::from_millis(30_001));
    assert!(road.sync(1).await.unwrap_err().is_unauthenticated());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_request_and_a_request_is_no_answer() {
    // Both carry the same three headers; the signed texts differ.
    let road = LegacyRoad::start().await;
    road.sync(1).await.unwrap();
    let request = road.attacker.requests("/events/sync")[0].clone();
    let answer = road.attacker.answers()[0].clone();

    let target = Target::start().await;
    let mut forged = request.clone();
    for name in ["X-Nara-Name", "X-Nara-Timestamp", "X-Nara-Signature"] {
        forged.set_header(name, answer.header(name).unwrap());
    }
    assert_eq!(proxy::send(target.address(), &forged).await.status(), 401);

    road.attacker.on_request(move |asked| {
        let mut reflected = answer.clone();
        for name in ["X-Nara-Name", "X-Nara-Timestamp", "X-Nara-Signature"] {
            reflected.set_header(name, asked.header(name).unwrap());
        }
        Fate::Answer(reflected)
    });
    assert!(road.sync(1).await.unwrap_err().is_unauthenticated());
}

/// Returns a direct message of alice as raw v1.
pub(crate) fn direct_message(via: &str) -> Message {
    let alice = nara("alice");
    let headers = crate::support::signed(&alice, NOW, "POST", "/dm");
    let body = go_json::to_vec(&seen(&alice, "bob", via, NOW.to_nanos()));
    let mut message = Message {
        start: "POST /dm HTTP/1.1".to_owned(),
        headers: vec![("Host".to_owned(), "nara".to_owned())],
        body,
    };
    for (name, value) in headers {
        message.set_header(&name, &String::from_utf8(value).unwrap());
    }
    message.set_header("Content-Length", "0");
    message
}
