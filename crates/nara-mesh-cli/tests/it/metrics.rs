use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::serve::Serving;
use crate::{new_soul, run, run_json, text};

/// Scrapes the metrics: the page, and the series with their values.
fn scrape(address: &str) -> (String, BTreeMap<String, f64>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: nara\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let series = answer
        .lines()
        .filter(|line| line.starts_with("nara_mesh_"))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
        .collect();
    (answer, series)
}

#[test]
fn connections_to_the_metrics_are_bounded_and_told_so() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    fs::write(folder.path().join("known.toml"), "").unwrap();
    let (_alice, listening) = Serving::start_with(folder.path(), "alice", &["--metrics", "127.0.0.1:0"]);
    let metrics = listening["metrics"].as_str().unwrap();
    let open = || {
        let mut stream = TcpStream::connect(metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
        stream
    };
    let mut held: Vec<_> = (0..64).map(|_| open()).collect();
    let mut answer = String::new();
    // The refusal may have arrived before the request was written.
    let _ = open().read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    // The other connections are still served.
    let mut first = held.swap_remove(0);
    first
        .write_all(b"y\r\nHost: nara\r\nConnection: close\r\n\r\n")
        .unwrap();
    answer.clear();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_a_served_nara_does_is_counted_and_says_nothing_about_whom() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    new_soul(path, "alice");
    new_soul(path, "mallory");
    let stanza = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(path.join("known.toml"), stanza).unwrap();
    let (_alice, listening) = Serving::start_with(path, "alice", &["--metrics", "127.0.0.1:0"]);
    let metrics = listening["metrics"].as_str().unwrap().to_owned();
    fs::write(path.join("peers.toml"), listening["stanza"].as_str().unwrap()).unwrap();

    let as_bob = ["--soul-file", "bob.soul", "--peers", "peers.toml"];
    run(
        path,
        0,
        &["ping", "alice", "-c", "3", "-i", "0s", "--peers", "peers.toml"],
    );
    run(path, 0, &[&["dm", "alice", "--text", "hi"][..], &as_bob].concat());
    let sync = ["sync", "alice", "--jsonl"];
    run(path, 0, &[&sync[..], &as_bob].concat());
    let as_mallory = ["--soul-file", "mallory.soul", "--peers", "peers.toml"];
    run(
        path,
        4,
        &[&["dm", "alice", "--text", "hi"][..], &as_mallory].concat(),
    );
    let address = listening["address"].as_str().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /made/up HTTP/1.1\r\nHost: nara\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();

    let (page, series) = scrape(&metrics);
    let value = |name: &str| *series.get(name).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    // A client may send more pings than requested, to learn the capabilities of the peer.
    assert!(value(r#"nara_mesh_requests_total{endpoint="/ping",status="2xx"}"#) >= 3.0);
    assert_eq!(
        value(r#"nara_mesh_requests_total{endpoint="/dm",status="2xx"}"#),
        1.0
    );
    assert_eq!(
        value(r#"nara_mesh_requests_total{endpoint="/dm",status="4xx"}"#),
        1.0
    );
    assert_eq!(
        value(r#"nara_mesh_requests_total{endpoint="other",status="4xx"}"#),
        1.0
    );
    assert_eq!(
        value(r#"nara_mesh_requests_refused_total{reason="unknown_sender"}"#),
        1.0
    );
    assert_eq!(
        value(r#"nara_mesh_requests_refused_total{reason="not_found"}"#),
        1.0
    );
    assert_eq!(
        value(r#"nara_mesh_request_duration_seconds_count{endpoint="/dm"}"#),
        2.0
    );
    assert_eq!(
        value(r#"nara_mesh_request_duration_seconds_bucket{endpoint="/dm",le="+Inf"}"#),
        2.0
    );
    assert_eq!(value("nara_mesh_requests_in_flight"), 0.0);
    assert_eq!(value("nara_mesh_peers"), 1.0);
    assert!(value("nara_mesh_replay_cache_entries") >= 2.0);
    assert!(value(r#"nara_mesh_keys_pinned_total{source="configured"}"#) >= 1.0);
    // A counter without events is 0, not missing.
    assert_eq!(
        value(r#"nara_mesh_requests_refused_total{reason="replay_cache_full"}"#),
        0.0
    );
    assert_eq!(
        value(r#"nara_mesh_requests_total{endpoint="/api/events/import",status="5xx"}"#),
        0.0
    );
    assert_eq!(value(r#"nara_mesh_ledger_errors_total{reason="full"}"#), 0.0);
    assert_eq!(
        value(concat!(
            r#"nara_mesh_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#""}"#
        )),
        1.0
    );
    assert!(value("nara_mesh_ledger_events") >= 1.0);
    assert!(value("nara_mesh_ledger_file_bytes") + value("nara_mesh_ledger_wal_bytes") > 4096.0);
    assert!(value("nara_mesh_ledger_disk_free_bytes") > 0.0);
    assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
    for (name, help) in [
        ("nara_mesh_requests_total", "counter"),
        ("nara_mesh_request_duration_seconds", "histogram"),
        ("nara_mesh_peers", "gauge"),
    ] {
        assert!(page.contains(&format!("# HELP {name} ")), "{page}");
        assert!(page.contains(&format!("# TYPE {name} {help}")), "{page}");
    }
    for secret in ["bob", "alice", "mallory", "made"] {
        assert!(!page.contains(secret), "{secret}");
    }
}

#[test]
fn metrics_are_not_served_to_other_machines_unless_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let serve = ["serve", "--soul-file", "alice.soul", "--listen", "127.0.0.1:0"];
    for public in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9634"] {
        let refused = run(path, 2, &[&serve[..], &["--metrics", public]].concat());
        let stderr = text(&refused.stderr);
        assert!(
            stderr.contains("metrics: ") && stderr.contains("--metrics-public"),
            "{stderr}"
        );
    }
    let malformed = run(path, 2, &[&serve[..], &["--metrics", "9634"]].concat());
    assert!(text(&malformed.stderr).contains("'9634' for '--metrics <IP:PORT>': expected ip:port"));

    let (_alice, listening) =
        Serving::start_with(path, "alice", &["--metrics", "0.0.0.0:0", "--metrics-public"]);
    let (_, port) = listening["metrics"].as_str().unwrap().rsplit_once(':').unwrap();
    scrape(&format!("127.0.0.1:{port}"));
}

#[test]
fn the_address_of_metrics_may_stand_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    fs::write(
        path.join("config.toml"),
        "metrics = \"0.0.0.0:0\"\nmetrics_public = true\n",
    )
    .unwrap();
    let (_alice, listening) = Serving::start_with(path, "alice", &["--config", "config.toml"]);
    assert!(listening["metrics"].as_str().unwrap().starts_with("0.0.0.0:"));
    drop(_alice);
    fs::write(path.join("config.toml"), "metrics = \"0.0.0.0:0\"\n").unwrap();
    let refused = run(
        path,
        2,
        &["serve", "--soul-file", "alice.soul", "--config", "config.toml"],
    );
    assert!(text(&refused.stderr).contains("metrics: other machines can reach 0.0.0.0:0"));
}

#[test]
fn peers_shows_the_clocks_of_peers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (_alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let peers = run_json(path, 0, &["peers", "--json", "--peers", "peers.toml"]);
    let peer = &peers["peers"][0];
    assert!(peer["clock_offset_us"].is_i64(), "{peers}");
    assert!(peer["clock_uncertainty_us"].is_u64(), "{peers}");
    let table = text(&run(path, 0, &["peers", "--peers", "peers.toml"]).stdout);
    assert!(table.contains("CLOCK"), "{table}");
    let pings = run_json(path, 0, &["ping", "alice", "--json", "--peers", "peers.toml"]);
    assert!(pings["peers"][0]["clock_uncertainty_us"].is_u64(), "{pings}");
    assert_eq!(pings["peers"][0]["clock_proven"], false, "{pings}");
    let table = text(&run(path, 0, &["ping", "alice", "--peers", "peers.toml"]).stdout);
    assert!(table.contains("(unsigned)"), "{table}");
    // The second ping uses TLS, because the first one announced it.
    let twice = [
        "ping",
        "alice",
        "--count",
        "2",
        "--interval",
        "0s",
        "--peers",
        "peers.toml",
    ];
    let pings = run_json(path, 0, &[&twice[..], &["--json"]].concat());
    assert_eq!(pings["peers"][0]["clock_proven"], true, "{pings}");
    let table = text(&run(path, 0, &twice).stdout);
    assert!(!table.contains("(unsigned)"), "{table}");
}

#[test]
fn ping_asks_for_a_signed_time_if_it_has_a_soul_that_the_peer_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    let (_bob, bob) = Serving::start(path, "bob");
    fs::write(path.join("known.toml"), bob).unwrap();
    let (_alice, alice) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), alice).unwrap();
    let ping = [
        "ping",
        "alice",
        "--count",
        "1",
        "--json",
        "--peers",
        "peers.toml",
        "--soul-file",
        "bob.soul",
    ];
    let pings = run_json(path, 0, &ping);
    assert_eq!(pings["peers"][0]["clock_proven"], true, "{pings}");
}

#[test]
fn metrics_on_an_address_that_comes_later_keep_no_nara_from_serving() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    // An address of the documentation range, which no machine has.
    let later = ["--metrics", "192.0.2.7:9634", "--metrics-public"];
    let (_alice, listening) = Serving::start_with(path, "alice", &later);
    assert_eq!(listening["metrics"], "192.0.2.7:9634");
    run(
        path,
        0,
        &["health", "--data-dir", "alice", "--soul-file", "alice.soul"],
    );
}
