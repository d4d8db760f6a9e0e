//! The inbox file of a running nara.

use std::fs;
use std::path::Path;

use nara_local_api::client::LocalClient;
use nara_local_api::model::InboxPage;
use tokio::runtime::Runtime;

use crate::serve::Serving;
use crate::{new_soul, run};

fn dm(path: &Path, text: &str) {
    let as_bob = [
        "--soul-file",
        "bob.soul",
        "--peers",
        "peers.toml",
        "--data-dir",
        "of-bob",
    ];
    run(
        path,
        0,
        &[&["dm", "alice", text, "--direct"][..], &as_bob].concat(),
    );
}

fn texts(page: &InboxPage) -> Vec<String> {
    let event = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    let messages = page
        .messages
        .iter()
        .map(|message| message.event.as_ref().unwrap());
    let text = |json: &str| event(json)["social"]["reason"].as_str().unwrap().to_owned();
    messages.map(|event| text(event.as_json())).collect()
}

#[test]
fn what_nobody_acknowledged_survives_a_nara_that_is_killed_and_one_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    new_soul(path, "alice");
    let known = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(path.join("known.toml"), known).unwrap();
    let runtime = Runtime::new().unwrap();
    let client = LocalClient::new(path.join("alice/nara.sock"));
    let inbox = || runtime.block_on(client.inbox(None)).unwrap();

    let (alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    for text in ["first", "second"] {
        dm(path, text);
    }
    let page = inbox();
    assert!(page.is_durable);
    assert_eq!(texts(&page), ["first", "second"]);
    let first = page.messages[0].cursor.clone();
    // The acknowledgement is answered once it is written to the file.
    assert_eq!(runtime.block_on(client.acknowledge(&first)).unwrap(), 1);
    alice.kill();

    let (mut alice, stanza) = Serving::start(path, "alice");
    assert_eq!(texts(&inbox()), ["second"]);
    // Cursors stay valid.
    let behind = runtime.block_on(client.inbox(Some(&first))).unwrap();
    assert_eq!(texts(&behind), ["second"]);
    fs::write(path.join("peers.toml"), stanza).unwrap();
    dm(path, "third");
    while alice.next()["event"] != "direct_message" {}
    let (_, code) = alice.end();
    assert_eq!(code, Some(0));

    let (_alice, _) = Serving::start(path, "alice");
    let page = inbox();
    assert_eq!(texts(&page), ["second", "third"]);
    let last = page.next.unwrap();
    assert_eq!(runtime.block_on(client.acknowledge(&last)).unwrap(), 2);
    assert!(inbox().messages.is_empty());
}
