//! Alice knows Bob, Bob knows Carol, and what Alice says reaches Carol: `cargo run --example gossip`
#![expect(clippy::print_stdout, reason = "it is what the example does")]

use std::time::Duration;

use nara_mesh::ledger::ReadLimit;
use nara_mesh::proto::event::{Payload, SocialPayload};
use nara_mesh::{LocalNara, Nara};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = "127.0.0.1:0".parse()?;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(LocalNara::generate);
    let (alice, bob, carol) = (alice?, bob?, carol?);
    // Each must know the key of whoever listens to it.
    let alice = Nara::builder(alice)
        .listen(listen)
        .know(bob.as_peer(None))
        .start()
        .await?;
    let bob = Nara::builder(bob)
        .listen(listen)
        .know(alice.as_peer())
        .know(carol.as_peer(None))
        .start()
        .await?;
    let carol = Nara::builder(carol)
        .listen(listen)
        .know(bob.as_peer())
        .start()
        .await?;

    let story = SocialPayload {
        kind: "gossip".to_owned(),
        actor: alice.name().to_string(),
        target: carol.name().to_string(),
        reason: "hears everything".to_owned(),
        ..SocialPayload::default()
    };
    let story = alice.publish(Payload::Social(story)).await?;

    let mut status = carol.gossip_status().ok_or("gossip is off")?;
    while !carol
        .ledger()
        .recent(Default::default(), ReadLimit::events(100))
        .await?
        .iter()
        .any(|checked| checked.event.id == story.id)
    {
        status.changed().await?;
    }
    let neighbours: Vec<String> = status
        .borrow()
        .peers
        .iter()
        .map(|peer| peer.peer.clone())
        .collect();
    println!("carol heard it, and listens to {neighbours:?} only");

    for nara in [carol, bob, alice] {
        nara.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}
