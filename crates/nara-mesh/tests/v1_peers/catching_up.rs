//! Missed events arrive from v1 peers, too, though they have neither streams nor reconciliation.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::Nara;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{EventStore as _, MemoryLedger, TransferStore as _};
use nara_mesh::transport::TcpTransport;

use crate::support::{GRACE, Mesh, V1Peer, configured, history, ip, nara, tease, until};

const OLDER: usize = 3000;

#[tokio::test(start_paused = true)]
async fn older_events_of_a_v1_peer_arrive_soon_after_the_start() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.remember(history(greta.nara(), OLDER, mesh.now()));
    let alice = mesh.alice().know(configured(&greta)).start().await.unwrap();
    let begun = tokio::time::Instant::now();
    until(async || mesh.ledger.count().await.unwrap() >= OLDER).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    // The sample came first.
    assert!(greta.syncs("sample") >= 1);
    until(async || mesh.ledger.cursor("greta".to_owned()).await.unwrap().is_some()).await;
    alice.shutdown(GRACE).await;

    // The next start resumes behind the received events: a page with the new ones, and at most an empty one.
    let pages = greta.syncs("page");
    mesh.clock.advance(Duration::from_secs(3600));
    let news = tease(greta.nara(), "bob", mesh.now().get() - 600_000_000_000);
    greta.remember([news]);
    let count = mesh.ledger.count().await.unwrap();
    let alice = mesh.alice().without_gossip().know(configured(&greta));
    let alice = alice.start().await.unwrap();
    until(async || mesh.ledger.count().await.unwrap() > count + 1).await;
    until(async || greta.syncs("page") > pages).await;
    assert!(greta.syncs("page") - pages <= 2);
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn not_all_peers_are_asked_for_the_same() {
    let mesh = Mesh::new();
    let mut alice = mesh.alice().without_gossip();
    let mut peers = Vec::new();
    let of_all = history(&nara("greta"), OLDER, mesh.now());
    for (last, name) in (2..).zip(["greta", "hans", "ida", "jan", "kai", "lea"]) {
        let peer = mesh.v1(name, last).await;
        peer.remember(of_all.clone());
        alice = alice.know(configured(&peer));
        peers.push(peer);
    }
    let alice = alice.start().await.unwrap();
    until(async || mesh.ledger.count().await.unwrap() >= OLDER).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let samples: usize = peers.iter().map(|peer| peer.syncs("sample")).sum();
    assert_eq!(samples, 3, "one of each of three peers");
    let paged = peers.iter().filter(|peer| peer.syncs("page") > 0).count();
    assert_eq!(paged, 1);

    // The more is known, the less often they are asked: far less than sixty times in an hour.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let samples: usize = peers.iter().map(|peer| peer.syncs("sample")).sum();
    assert!((6..=24).contains(&samples), "{samples}");
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_unknown_events_is_asked_for_all_of_them() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.remember(history(greta.nara(), OLDER, mesh.now()));
    let hans = mesh.v1("hans", 3).await;
    hans.remember(history(hans.nara(), OLDER, mesh.now()));
    let alice = mesh
        .alice()
        .without_gossip()
        .know_all([configured(&greta), configured(&hans)]);
    let alice = alice.start().await.unwrap();
    until(async || mesh.ledger.count().await.unwrap() >= 2 * OLDER).await;
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_ours_catches_up_by_reconciliation() {
    let mesh = Mesh::new();
    let bobs = Arc::new(MemoryLedger::new());
    bobs.insert_verified(history(&nara("bob"), OLDER, mesh.now()))
        .await
        .unwrap();
    let bob = mesh.nara("bob", 2, 9632).without_gossip().catch_up(false);
    let bob = bob
        .ledger(bobs)
        .know(nara("alice").as_peer(None))
        .start()
        .await
        .unwrap();
    let alice = mesh
        .alice()
        .without_gossip()
        .know(bob.as_peer())
        .start()
        .await
        .unwrap();
    until(async || mesh.ledger.count().await.unwrap() > OLDER).await;
    alice.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_appears_after_the_start_is_asked() {
    let mesh = Mesh::new();
    let alice = mesh.alice().without_gossip().start().await.unwrap();
    let greta = mesh.v1("greta", 2).await;
    greta.remember(history(greta.nara(), OLDER, mesh.now()));
    greta.send_zine(ip(1), vec![greta.hey_there()]).await;
    until(async || mesh.ledger.count().await.unwrap() >= OLDER).await;
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn without_catch_up_no_peer_is_asked() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(greta.syncs("sample"), 0);
    alice.shutdown(GRACE).await;
}

/// The same over real sockets.
#[tokio::test]
async fn older_events_arrive_over_real_sockets() {
    let reserved = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = reserved.local_addr().unwrap();
    drop(reserved);
    let greta = V1Peer::start(nara("greta"), address, TcpTransport, SystemClock).await;
    greta.remember(history(greta.nara(), OLDER, SystemClock.now_nanos()));
    greta.meet(&nara("alice"), address.ip());
    let alice = Nara::builder(nara("alice"))
        .listen((Ipv4Addr::LOCALHOST, 0).into())
        .without_gossip()
        .know(configured(&greta).at(address))
        .start()
        .await
        .unwrap();
    until(async || alice.ledger().count().await.unwrap() >= OLDER).await;
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_pages_never_end_does_not_keep_us_from_the_others() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.never_ends();
    let alice = mesh.alice().without_gossip().know(configured(&greta));
    let alice = alice.start().await.unwrap();
    until(async || greta.syncs("page") > 2).await;
    let hans = mesh.v1("hans", 3).await;
    hans.remember(history(hans.nara(), OLDER, mesh.now()));
    alice.registry().register(configured(&hans)).unwrap();
    until(async || mesh.ledger.cursor("hans".to_owned()).await.unwrap().is_some()).await;
    until(async || hans.syncs("page") > 3).await;
    // The events of the endless peer are kept, and the next round resumes behind them.
    assert!(mesh.ledger.cursor("greta".to_owned()).await.unwrap().is_some());
    alice.shutdown(GRACE).await;
}
