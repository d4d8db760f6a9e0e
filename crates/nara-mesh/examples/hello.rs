//! Two naras on one machine, and a signed hello: `cargo run --example hello`
#![expect(clippy::print_stdout, reason = "it is what the example does")]

use std::time::Duration;

use nara_mesh::{LocalNara, Nara};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (alice, bob) = (LocalNara::generate("alice")?, LocalNara::generate("bob")?);
    let alice = Nara::builder(alice)
        .listen("127.0.0.1:0".parse()?)
        .start()
        .await?;
    let bob = Nara::builder(bob).know(alice.as_peer()).start().await?;

    let rtt = bob.client().ping(alice.id()).await?.rtt;
    println!("alice answered bob in {rtt:?}");

    bob.shutdown(Duration::from_secs(1)).await;
    alice.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
