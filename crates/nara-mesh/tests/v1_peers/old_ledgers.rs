//! Peculiarities of v1 peers: unsigned events, ids that are only announced in messages, and owners that introduce
//! thousands of naras.

use std::net::SocketAddr;

use nara_mesh::client::SyncOptions;
use nara_mesh::defaults::MESH_PORT;
use nara_mesh::ledger::EventStore as _;
use nara_mesh::proto::endpoint::EventsImport;
use nara_mesh::proto::event::{HeyTherePayload, Payload, SocialPayload, SyncEvent};
use nara_mesh::proto::identity::{NaraId, Soul};
use nara_mesh::proto::import::ImportRequest;
use nara_mesh::proto::sync::EventFilter;

use crate::support::{GRACE, Mesh, history, ip, nara, until};

/// Returns an unsigned social event of an old ledger.
fn unsigned(mesh: &Mesh, actor: &str, number: i64) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: actor.to_owned(),
        target: "bob".to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    let mut event = SyncEvent::signed(
        mesh.now()
            .saturating_sub(std::time::Duration::from_secs(3600 + number.unsigned_abs())),
        Payload::Social(payload),
        actor,
        nara("nobody").keypair(),
    );
    event.sig.clear();
    event.emitter.clear();
    event
}

#[tokio::test(start_paused = true)]
async fn a_sync_counts_the_unsigned_events_of_an_old_ledger() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    greta.remember(history(greta.nara(), 10, mesh.now()));
    greta.remember((0..5).map(|number| unsigned(&mesh, "greta", number)));
    greta.remember((0..3).map(|number| unsigned(&mesh, "a stranger", number)));
    let before = mesh.ledger.count().await.unwrap();
    let greta = alice.peer("greta");
    let synced = greta.sync_into(&*mesh.ledger, EventFilter::default(), SyncOptions::default());
    let progress = synced.await.unwrap().progress;
    assert_eq!(progress.verified, 10);
    // In the name of a nara with a known key, unsigned events are refused; of a stranger they are hearsay.
    assert_eq!((progress.refused, progress.refused_unsigned), (5, 5));
    assert_eq!(progress.unsigned, 3);
    assert_eq!(mesh.ledger.count().await.unwrap(), before + 13);
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn an_import_tells_refused_events_and_believes_as_many_keys_as_its_owner_sends() {
    const OTHERS: u8 = 200;
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    let mut events: Vec<_> = (0..OTHERS)
        .map(|number| {
            let other = nara(&format!("nara-{number}"));
            let payload = Payload::HeyThere(HeyTherePayload {
                from: other.name().to_string(),
                public_key: other.public_key().to_base64(),
                ..HeyTherePayload::default()
            });
            SyncEvent::signed(mesh.now(), payload, other.name().as_str(), other.keypair())
        })
        .collect();
    events.push(unsigned(&mesh, "greta", 0));
    events.push(unsigned(&mesh, "a stranger", 0));
    let import = ImportRequest::signed(events, mesh.now().to_seconds(), nara("alice").keypair());
    let answer = alice
        .peer(SocketAddr::new(ip(1), MESH_PORT))
        .call::<EventsImport>(&import)
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.imported, i64::from(OTHERS) + 1, "and the hearsay");
    assert_eq!((answer.duplicates, answer.refused, answer.warnings), (1, 1, 1));
    for number in 0..OTHERS {
        let other = nara(&format!("nara-{number}"));
        let known = alice.registry().by_name(other.name().as_str());
        assert_eq!(known.and_then(|peer| peer.key()), Some(other.public_key()));
    }
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_v1_peer_is_learned_from_the_message_that_its_own_key_signed() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.meet(&nara("alice"), ip(1));
    let alice = mesh.quiet_alice(&greta).await;
    let id = |name| alice.registry().by_name(name).and_then(|peer| peer.info().id);
    assert_eq!(id("greta"), None, "/ping does not tell it");
    greta.store_stash(&nara("alice"), ip(1), b"her memory").await;
    until(async || id("greta").as_ref() == Some(greta.nara().id())).await;
    until(async || greta.acks().iter().any(|ack| ack.success)).await;

    // Hans signs with his own key that he is Greta: an id belongs to one nara.
    let hans = mesh.v1("hans", 3).await;
    hans.meet(&nara("alice"), ip(1));
    hans.store_stash_as(greta.nara().id(), &nara("alice"), ip(1), b"mine")
        .await;
    assert_eq!(id("greta").as_ref(), Some(greta.nara().id()));
    assert_eq!(id("hans"), None);
    assert!(hans.acks().is_empty());

    // An unused id of another soul is bound on first use: v1 ids prove nothing.
    let other = Soul::bond([77; 32], "hans");
    let free = NaraId::derive(&other, "hans");
    hans.store_stash_as(&free, &nara("alice"), ip(1), b"mine").await;
    until(async || id("hans").as_ref() == Some(&free)).await;
    hans.store_stash_as(hans.nara().id(), &nara("alice"), ip(1), b"mine")
        .await;
    assert_eq!(id("hans").as_ref(), Some(&free), "once");
    alice.shutdown(GRACE).await;
}
