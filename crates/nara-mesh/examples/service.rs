//! A service of one's own: Alice serves notes, Bob writes one through a tower stack.
//!
//! `cargo run --example service`
#![expect(clippy::print_stdout, reason = "it is what the example does")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http_body_util::BodyExt as _;
use nara_mesh::http::{Request, StatusCode};
use nara_mesh::server::VerifiedSender;
use nara_mesh::{LocalNara, Nara};
use tower::{ServiceBuilder, ServiceExt as _};

type Notes = Arc<Mutex<Vec<String>>>;

/// Only who is known gets here, and `sender` says who that is.
async fn write(
    sender: VerifiedSender,
    State(notes): State<Notes>,
    note: String,
) -> Result<String, (StatusCode, &'static str)> {
    if sender.name().as_str() != "bob" {
        return Err((StatusCode::FORBIDDEN, "these are the notes of Bob\n"));
    }
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    notes.push(note);
    Ok(format!(
        "{} of {}, proven by {:?}",
        notes.len(),
        sender.name(),
        sender.coverage()
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (alice, bob) = (LocalNara::generate("alice")?, LocalNara::generate("bob")?);
    let notes = Notes::default();
    let alice = Nara::builder(alice)
        .listen("127.0.0.1:0".parse()?)
        .know(bob.as_peer(None))
        .nest_routes("/notes", Router::new().route("/", post(write)).with_state(notes))
        .start()
        .await?;
    let bob = Nara::builder(bob).know(alice.as_peer()).start().await?;

    // One call: the answer is in memory and verified.
    let request = Request::post("/notes/").body("Buy milk.".to_owned())?;
    let answer = bob.peer(alice.id()).request(request).await?;
    println!("{} {:?}", answer.status(), answer.body());

    // Any stack of tower works on top; bodies are streams in both directions.
    let stack = ServiceBuilder::new()
        .concurrency_limit(8)
        .timeout(Duration::from_secs(2))
        .service(bob.peer(alice.id()).service());
    let request = Request::post("/notes/").body("Water the plants.".to_owned())?;
    let answer = stack.oneshot(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&body));

    bob.shutdown(Duration::from_secs(1)).await;
    alice.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
