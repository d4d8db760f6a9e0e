//! A peer with a trusted key that wants to add data to a ledger, or to evict data from it.

use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{ArrivalLog as _, EventStore as _, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_mesh::registry::KeySource;
use nara_proto::event::{CheckpointPayload, ObservationPayload, Payload, SyncEvent};
use nara_proto::import::ImportRequest;
use nara_proto::time::{UnixNanos, UnixSeconds};
use nara_proto::world::WorldMessage;
use nara_proto::zine::Zine;

use crate::naras::tease;
use crate::support::{NOW, Target, known, nara, registry, request};

fn ago(number: i64) -> UnixNanos {
    UnixNanos::new(NOW.to_nanos().get() - number)
}

fn checkpoint(number: i64) -> SyncEvent {
    let payload = CheckpointPayload {
        version: 1,
        subject: format!("ghost{number}"),
        as_of_time: UnixSeconds::new(1 + number),
        ..CheckpointPayload::default()
    };
    SyncEvent::new(ago(number), Payload::Checkpoint(payload))
}

fn observation(observer: &str, kind: &str) -> SyncEvent {
    let payload = ObservationPayload {
        observer: observer.to_owned(),
        subject: "carol".to_owned(),
        kind: kind.to_owned(),
        importance: 3,
        online_state: "ONLINE".to_owned(),
        start_time: UnixSeconds::new(5),
        ..ObservationPayload::default()
    };
    SyncEvent::new(ago(1), Payload::Observation(payload))
}

fn tell(target: &Target, teller: &LocalNara, events: Vec<SyncEvent>) {
    let zine = Zine::signed(teller.name().as_str(), NOW.to_seconds(), events, teller.keypair());
    assert_eq!(target.post_json(teller, "/gossip/zine", &zine).status, 200);
}

async fn stored(target: &Target) -> Vec<SyncEvent> {
    let all = target.ledger.since(UnixNanos::new(0), ReadLimit::events(10_000));
    all.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_nobody_are_not_stored_and_push_nothing_out() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let memories: Vec<_> = (0..30)
        .map(|number| tease(&alice, "bob", ago(number).get()))
        .collect();
    tell(&target, &alice, memories);
    assert_eq!(target.count().await, 30);
    tell(&target, &bob, (0..3_000).map(checkpoint).collect());
    // Nor in an envelope that bob signs, which proves nothing.
    let mut signed = checkpoint(9_000);
    signed.sign("bob", bob.keypair());
    tell(&target, &bob, vec![signed.clone()]);
    let answer = target.post_json(&bob, "/dm", &signed);
    assert_eq!(
        (answer.status, answer.text()),
        (200, "{\"from\":\"target\",\"success\":false}\n".to_owned())
    );
    let events = stored(&target).await;
    assert_eq!(events.len(), 30);
    assert!(events.iter().all(|event| event.emitter == "alice"));
    // There is room for alice's next event.
    tell(&target, &alice, vec![tease(&alice, "carol", ago(0).get())]);
    assert_eq!(target.count().await, 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn postcards_push_nothing_out_of_the_memory() {
    let (local, registry) = (nara("target"), registry(&[]));
    for met in [nara("alice"), nara("mallory")] {
        let address = ([127, 0, 0, 1], 9).into();
        let mut info = known(&met, None);
        info.key.as_mut().unwrap().source = KeySource::Ping(address);
        registry.register(info).unwrap();
    }
    let ledger = MemoryLedger::new()
        .with_retention(RetentionPolicy::default().max_events(80))
        .with_known_names(registry.known_names(local.name().clone()));
    let target = Target::start_on(ledger, registry, |builder| builder).await;
    let alice = nara("alice");
    let said = |number: i64| tease(&alice, "target", ago(100 + number).get());
    tell(&target, &alice, (0..10).map(said).collect());
    assert_eq!(target.count().await, 10);
    let mallory = nara("mallory");
    for number in 0..300 {
        let message = WorldMessage::new("mallory", "hello", ago(number));
        // It cannot be forwarded, but it is stored.
        target.post_json(&mallory, "/world/relay", &message);
    }
    let stored = stored(&target).await;
    let of = |emitter: &str| stored.iter().filter(|event| event.emitter == emitter).count();
    assert!(of("target") > 20, "as long as there is room");
    assert_eq!(of("alice"), 10);
    assert!(stored.len() <= 81);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_keeps_only_covered_fields() {
    let target = Target::start().await;
    let bob = nara("bob");
    let send = |event: &SyncEvent| target.post_json(&bob, "/dm", event).text();
    let told = |success: bool| format!("{{\"from\":\"target\",\"success\":{success}}}\n");
    // One is signed by bob with alice as actor, the other is dated the day after tomorrow.
    let mut of_alice = observation("alice", "status-change");
    of_alice.sign("bob", bob.keypair());
    let ahead = tease(&bob, "alice", ago(-172_800_000_000_000).get());
    for refused in [of_alice, ahead] {
        assert_eq!(send(&refused), told(false), "{refused:?}");
    }
    assert_eq!(target.count().await, 0);
    // Any forwarding peer could have added these.
    let mut genuine = observation("bob", "restart");
    genuine.sign("bob", bob.keypair());
    let mut changed = genuine.clone();
    let payload = changed.observation.as_mut().unwrap();
    payload.is_backfill = true;
    payload.cluster_name = "x".to_owned();
    changed.emitter_id = "x".to_owned();
    assert_eq!(send(&changed), told(true));
    genuine.remove_uncovered();
    assert_eq!(stored(&target).await, [genuine]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_replaces_no_report_of_a_restart_by_that_of_another_observer() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let report = |observer: &LocalNara, number: i64| {
        let mut event = observation(observer.name().as_str(), "restart");
        event.ts = ago(number);
        event.id = event.compute_id();
        event.sign(observer.name().as_str(), observer.keypair());
        event.remove_uncovered();
        event
    };
    tell(&target, &alice, vec![report(&alice, 1)]);
    assert_eq!(report(&alice, 1).id, report(&bob, 1).id);
    let import = vec![report(&bob, 1), report(&bob, 2)];
    let import = ImportRequest::signed(import, NOW.to_seconds(), target.local.keypair());
    let body = nara_proto::go_json::to_vec(&import);
    let answer = target.send(&request("POST", "/api/events/import", &[], &body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stored(&target).await, [report(&alice, 1), report(&bob, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unsigned_is_stored_in_the_name_of_a_known_nara_not_even_if_it_tells_it_itself() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    for kind in ["restart", "first-seen", "status-change"] {
        for teller in [&alice, &bob] {
            let mut named = observation("alice", kind);
            "alice".clone_into(&mut named.emitter);
            tell(&target, teller, vec![observation("alice", kind), named]);
        }
    }
    assert_eq!(target.count().await, 0);
    // A nara with an unknown key may have said so.
    tell(&target, &bob, vec![observation("stranger", "status-change")]);
    assert_eq!(target.count().await, 1);
    // It counts against bob's quota.
    let limit = ReadLimit::events(9);
    let arrived = target.ledger.arrived_after(Default::default(), 0, limit).await;
    let told_by = arrived.unwrap().events[0].origin.clone();
    assert_eq!(told_by.as_ref(), Some(bob.name()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_with_the_text_of_an_event_of_the_relay_is_not_signed() {
    let target = Target::start().await;
    let alice = nara("alice");
    // If it is signed as the next hop, the text from `a` on is an event of the target for peers that do not check ids.
    let text = format!("a:{}:social:target:tease:target:alice:I resign:", NOW.to_nanos());
    let card = WorldMessage::new("alice", &text, NOW.to_nanos());
    let answer = target.post_json(&alice, "/world/relay", &card);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(target.count().await, 0);
}
