//! Parts of a message, or whole messages, that are swapped.

use std::sync::{Arc, Mutex};

use nara_mesh::server::MeshHandler;
use nara_mesh::server::VerifiedSender;
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::NaraId;

use crate::message::Message;
use crate::proxy::{self, Fate};
use crate::road::LegacyRoad;
use crate::support::{NOW, Target, nara, request, seen, signed};

const SYNC: &[u8] = br#"{"from":"alice","mode":"recent","limit":1}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_receiver_cannot_see_a_swapped_body() {
    let road = LegacyRoad::start().await;
    road.attacker.on_request(|request| {
        request.replace_in_body("\"limit\":7", "\"limit\":4000");
        Fate::Forward
    });
    assert_eq!(road.sync(7).await.unwrap(), "4000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_receiver_cannot_see_a_swapped_query() {
    let road = LegacyRoad::start().await;
    road.attacker.on_request(|request| {
        request.replace_in_start("q=mine", "q=yours");
        Fate::Forward
    });
    assert_eq!(road.ask("q=mine").await.unwrap(), "/asked?q=yours");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_v1_only_sender_can_be_swapped() {
    let target = Target::start().await;
    let headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
    let other = String::from_utf8_lossy(SYNC).replace('1', "4000");
    let answer = target.send(&request("POST", "/events/sync", &headers, other.as_bytes()));
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_inside_a_swapped_v1_body_is_verified_all_the_same() {
    let target = Target::start().await;
    let alice = nara("alice");
    let mut forged = seen(&alice, "bob", "mesh", NOW.to_nanos());
    forged.seen.as_mut().unwrap().subject = "carol".to_owned();
    let headers = signed(&alice, NOW, "POST", "/dm");
    let answer = target.send(&request("POST", "/dm", &headers, &go_json::to_vec(&forged)));
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (403, "Invalid signature\n")
    );
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_request_can_be_used_at_another_receiver() {
    // Alice calls bob; a man in the middle, or bob himself, forwards the request to the target.
    let road = LegacyRoad::start().await;
    road.sync(1).await.unwrap();
    let kept = &road.attacker.requests("/events/sync")[0];
    let target = Target::start().await;
    let to_target = v1_only(kept);
    assert_eq!(proxy::send(target.address(), &to_target).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_request_can_be_reflected_to_its_sender() {
    // The target called bob; bob returns the request to the target's own server.
    let target = Target::start().await;
    let headers = signed(&target.local, NOW, "POST", "/events/sync");
    let answer = target.send(&request(
        "POST",
        "/events/sync",
        &headers,
        br#"{"from":"target","mode":"recent"}"#,
    ));
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflected_v1_request_brings_no_event_that_its_sender_did_not_sign() {
    let target = Target::start().await;
    let headers = signed(&target.local, NOW, "POST", "/dm");
    let mut event: SyncEvent = seen(&nara("bob"), "carol", "mesh", NOW.to_nanos());
    event.emitter = "target".to_owned();
    let answer = target.send(&request("POST", "/dm", &headers, &go_json::to_vec(&event)));
    assert_eq!(answer.status, 403);
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_answer_can_be_given_to_another_question() {
    let road = LegacyRoad::start().await;
    assert_eq!(road.sync(1).await.unwrap(), "1");
    let kept = road.attacker.answers()[0].clone();
    road.attacker.on_request(move |_| Fate::Answer(kept.clone()));
    assert_eq!(
        road.sync(2).await.unwrap(),
        "1",
        "the answer to the first question"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_v1_only_answers_can_change_places() {
    let road = LegacyRoad::start().await;
    let kept: Arc<Mutex<Option<Message>>> = Arc::default();
    road.attacker.on_answer(move |answer| {
        let mut kept = kept.lock().unwrap();
        let previous = kept.replace(answer.clone());
        *answer = previous.unwrap_or_else(|| answer.clone());
    });
    assert_eq!(road.sync(1).await.unwrap(), "1");
    assert_eq!(road.sync(2).await.unwrap(), "1");
    assert_eq!(road.sync(3).await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_v1_only_answer_cannot_be_swapped() {
    let road = LegacyRoad::start().await;
    road.attacker
        .on_answer(|answer| answer.replace_in_body("\"next_cursor\":\"7\"", "\"next_cursor\":\"8\""));
    assert!(road.sync(7).await.unwrap_err().is_unauthenticated());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_v1_only_answer_can_be_swapped() {
    // A refusal can become a success only if its body is valid for it: the body is signed and must match the endpoint.
    let road = LegacyRoad::start().await;
    road.attacker
        .on_answer(|answer| answer.start = "HTTP/1.1 503 Service Unavailable".to_owned());
    let error = road.sync(7).await.unwrap_err();
    assert_eq!(error.status().unwrap(), 503);
    assert!(error.is_status_verified(), "v1 signs the body and not the status");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nara_cannot_answer_in_the_place_of_the_one_that_was_asked() {
    // Carol is genuine, and her answer is signed, but the request was for bob.
    let road = LegacyRoad::start().await;
    let carol = nara("carol");
    let peer = crate::legacy::start(&carol, &nara("alice"), &road.clock).await;
    road.alice
        .registry()
        .register(crate::support::known(&carol, Some(peer.address)))
        .unwrap();
    road.attacker.on_request(move |_| Fate::Divert(peer.address));
    assert!(road.sync(1).await.unwrap_err().is_unauthenticated());
}

/// Records the ids of senders of direct messages.
#[derive(Debug, Default)]
struct Ids(Arc<Mutex<Vec<Option<NaraId>>>>);

impl MeshHandler for Ids {
    fn on_direct_message(&self, sender: &VerifiedSender, _: &SyncEvent) {
        self.0.lock().unwrap().push(sender.id().cloned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_the_id_that_is_pinned_for_the_sender() {
    let ids = Ids::default();
    let told = ids.0.clone();
    let target = Target::start_with(|builder| builder.handler(ids)).await;
    let alice = nara("alice");
    for sender in [&alice, &target.local] {
        let event = seen(sender, "bob", "mesh", NOW.to_nanos());
        assert_eq!(target.post_json(sender, "/dm", &event).status, 200);
    }
    let expected = [alice.id(), target.local.id()].map(|id| Some(id.clone()));
    assert_eq!(*told.lock().unwrap(), expected);
}

/// Returns the request as a v1-only nara sends it.
pub(crate) fn v1_only(request: &Message) -> Message {
    let mut request = request.clone();
    request.remove_headers(|name| {
        matches!(
            name,
            "signature" | "signature-input" | "content-digest" | "x-nara-to" | "x-nara-channel"
        )
    });
    request
}
