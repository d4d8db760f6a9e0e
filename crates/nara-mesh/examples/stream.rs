//! Bob listens to Alice's events as they happen: `cargo run --example stream`
#![expect(clippy::print_stdout, reason = "it is what the example does")]

use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::SubscribeOptions;
use nara_mesh::proto::event::{Payload, SocialPayload};
use nara_mesh::{LocalNara, Nara};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = "127.0.0.1:0".parse()?;
    let bob = LocalNara::generate("bob")?;
    let alice = Nara::builder(LocalNara::generate("alice")?)
        .listen(listen)
        .know(bob.as_peer(None))
        .start()
        .await?;
    let bob = Nara::builder(bob).know(alice.as_peer()).start().await?;

    // From the oldest event that Alice remembers: the first one says that she is here.
    let mut events = bob
        .peer(alice.id())
        .subscribe(SubscribeOptions::default().oldest());
    let introduction = events.next().await.ok_or("the stream ended")??;
    println!("{} {:?}", introduction.event.svc, introduction.trust);

    let story = SocialPayload {
        kind: "gossip".to_owned(),
        actor: alice.name().to_string(),
        target: bob.name().to_string(),
        reason: "streams are never late".to_owned(),
        ..SocialPayload::default()
    };
    alice.publish(Payload::Social(story)).await?;
    let heard = events.next().await.ok_or("the stream ended")??;
    let story = heard.event.social.as_deref().ok_or("another event came")?;
    println!("{} says that {}: {:?}", story.actor, story.reason, heard.trust);

    drop(events);
    bob.shutdown(Duration::from_secs(1)).await;
    alice.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
