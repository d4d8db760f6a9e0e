//! The program among v1 peers: a double of one, over real sockets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use nara_mesh::clock::SystemClock;
use nara_mesh::transport::TcpTransport;
use nara_proto::event::Service;
use nara_proto::identity::PublicKey;
use serde_json::Value;

use crate::naras::{nara, tease};
use crate::serve::Serving;
use crate::v1_peer::V1Peer;
use crate::{new_soul, run, run_json, text};

/// The address of alice: different from greta's, because greta calls only her own port.
const ALICE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Returns a port that is free on both addresses.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpListener::bind((ALICE, port)).unwrap();
    port
}

/// Greta, who knows alice and is in alice's peers file.
async fn greta(folder: &Path) -> V1Peer {
    let alice = new_soul(folder, "alice");
    let key = PublicKey::from_base64(alice["public_key"].as_str().unwrap()).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let greta = V1Peer::start(nara("greta"), address, TcpTransport, SystemClock).await;
    greta.knows("alice", key);
    let key = greta.nara().public_key().to_base64();
    let stanza = format!("[[peer]]\nname = \"greta\"\naddress = \"{address}\"\nkey = \"{key}\"\n");
    fs::write(folder.join("known.toml"), stanza).unwrap();
    greta
}

const AS_ALICE: [&str; 6] = [
    "--soul-file",
    "alice.soul",
    "--data-dir",
    "alice",
    "--peers",
    "known.toml",
];

fn presence(folder: &Path, more: &[&str]) -> Value {
    let args = [&["peers", "list", "--json"][..], more, &AS_ALICE].concat();
    let list = run_json(folder, 0, &args);
    let peers = list["peers"].as_array().unwrap();
    let greta = peers.iter().find(|peer| peer["name"] == "greta").unwrap();
    greta["presence"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_v1_peer_polls_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let greta = greta(folder.path()).await;
    let [news, later] = [1, 2].map(|n| tease(greta.nara(), "alice", n * 800_000_000_000_000_000));
    greta.remember([news.clone()]);
    let watch = [
        "watch", "greta", "--since", "all", "--count", "2", "--json", "--poll", "50ms",
    ];
    let path = folder.path().to_owned();
    let watching = move || run(&path, 0, &[&watch[..], &AS_ALICE].concat());
    let watching = tokio::task::spawn_blocking(watching);
    while greta.syncs("recent") < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    greta.remember([later.clone()]);
    let output = watching.await.unwrap();
    let seen: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &seen {
        crate::schemas::validate_as("nara-mesh/watch/1", line);
    }
    assert_eq!(seen[0]["event"]["id"], news.id);
    assert_eq!(seen[1]["event"]["id"], later.id);
    let said = text(&output.stderr);
    assert!(said.contains("no streams there, polling every 50 ms"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_peer_hears_that_a_served_nara_comes_and_goes_and_peers_shows_its_presence() {
    let folder = tempfile::tempdir().unwrap();
    let greta = greta(folder.path()).await;
    let path = folder.path();
    let listen = SocketAddr::new(ALICE, greta.address().port()).to_string();
    let (alice, _) = Serving::start_with(path, "alice", &["--listen", &listen]);
    let heard = |service| {
        let events = greta.events();
        events
            .iter()
            .any(|event| event.emitter == "alice" && event.service() == Some(service))
    };
    while !heard(Service::HeyThere) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    greta.send_zine(ALICE, vec![greta.hey_there()]).await;
    assert_eq!(presence(path, &["--offline"]), "ONLINE");
    greta.send_zine(ALICE, vec![greta.chau()]).await;
    assert_eq!(presence(path, &["--offline"]), "OFFLINE");

    greta.send_zine(ALICE, vec![greta.hey_there()]).await;
    assert_eq!(presence(path, &["--offline"]), "ONLINE");

    let (_, code) = alice.end();
    assert_eq!(code, Some(0));
    assert!(heard(Service::Chau));
    assert_eq!(greta.is_online("alice"), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_says_in_a_line_how_many_unsigned_events_an_old_ledger_holds_and_is_content() {
    let folder = tempfile::tempdir().unwrap();
    let greta = greta(folder.path()).await;
    let old = 800_000_000_000_000_000;
    greta.remember([tease(greta.nara(), "alice", old)]);
    greta.remember((1..=20).map(|n| {
        let mut event = tease(greta.nara(), "alice", old + n);
        event.sig.clear();
        event.emitter.clear();
        event
    }));
    let path = folder.path().to_owned();
    let syncing = move |more: &'static [&str]| run(&path, 0, &[&["sync", "greta"], more, &AS_ALICE].concat());
    let synced = tokio::task::spawn_blocking(move || (syncing(&[]), syncing(&["--json"])));
    let (told, json) = synced.await.unwrap();
    let said = text(&told.stderr);
    let lines: Vec<_> = said.lines().filter(|line| line.contains("unsigned")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("20 unsigned events of naras with known keys"),
        "{lines:?}"
    );
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["refused_unsigned"], 20);
    assert_eq!(json["refused"], serde_json::json!([]));
}

/// Starts a server that passes each connection to `answer`.
fn server(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            answer(connection);
        }
    });
    address
}

#[test]
fn who_resets_connections_or_speaks_nonsense_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let closes = server(drop);
    let resets = server(|connection| {
        // Unread data makes the kernel reset the connection.
        let _ = connection.peek(&mut [0]);
    });
    let nonsense = server(|mut connection| {
        let _ = connection.write_all(b"SSH-2.0-OpenSSH_10.0\r\n");
        let _ = connection.read(&mut [0; 4096]);
    });
    let cut = server(|mut connection| {
        let _ = connection.read(&mut [0; 4096]);
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{");
    });
    for address in [closes, resets, nonsense, cut] {
        let address = address.to_string();
        for command in [
            &["ping", &address][..],
            &["sync", &address, "--jsonl"],
            &["dm", &address, "hello"],
            &["request", &address, "GET", "/notes"],
        ] {
            run(
                folder.path(),
                3,
                &[command, &["--soul-file", "alice.soul"]].concat(),
            );
        }
    }
}

#[test]
fn serve_listens_for_v1_peers_if_it_is_told_to_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let listen = ["--listen", "127.0.0.4:0"];
    let (alice, listening) = Serving::start_with(path, "alice", &listen);
    assert_eq!(listening["v1_address"], Value::Null);
    alice.kill();
    let (alice, listening) = Serving::start_with(path, "alice", &[&listen[..], &["--v1-port"]].concat());
    assert_eq!(listening["v1_address"], "127.0.0.4:7433");
    run(path, 0, &["ping", "127.0.0.4"]);

    // A second nara finds the port in use, and runs without it.
    new_soul(path, "bob");
    let (bob, listening) = Serving::start_with(path, "bob", &[&listen[..], &["--v1-port"]].concat());
    assert_eq!(listening["v1_address"], Value::Null);
    bob.kill();
    alice.kill();
}
