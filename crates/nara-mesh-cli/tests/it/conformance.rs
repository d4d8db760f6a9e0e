//! `conformance` against our server, against a v1-only double, and against servers that are broken on
//! purpose.

mod broken;
mod schema;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::TcpTransport;
use nara_mesh::{LocalNara, Signatures};
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::time::UnixNanos;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::broken::{DEFECTS, Defect};
use crate::v1_peer::V1Peer;
use crate::{nara_mesh, naras, new_soul, run, run_json, text};

/// A server, and the folder in which the program runs against it.
struct Scene {
    folder: TempDir,
    runtime: Runtime,
    server: RunningServer,
}

impl Scene {
    /// Starts a server that knows the two checking naras and has a few events.
    fn new(signatures: Signatures) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let souls = folder.path().join("souls");
        std::fs::create_dir(&souls).unwrap();
        let registry = PeerRegistry::default();
        for name in ["v1", "v2"] {
            registry
                .register(entry(&new_soul(&souls, name)).to_info())
                .unwrap();
        }
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(serve(registry, signatures));
        Self {
            folder,
            runtime,
            server,
        }
    }

    /// Runs the checks, and returns the report after comparing exit code and schema.
    fn check(&self, expected: i32, address: SocketAddr, more: &[&str]) -> Value {
        let address = address.to_string();
        let args = [&["conformance", &address, "--souls", "souls", "--json"], more].concat();
        let report = run_json(self.folder.path(), expected, &args);
        schema::validate(&report);
        report
    }
}

fn entry(soul: &Value) -> PeerEntry {
    let mut entry = PeerEntry::new(soul["name"].as_str().unwrap().parse().unwrap());
    entry.id = Some(soul["id"].as_str().unwrap().parse().unwrap());
    entry.key = Some(nara_proto::PublicKey::from_base64(soul["public_key"].as_str().unwrap()).unwrap());
    entry
}

async fn serve(registry: PeerRegistry, signatures: Signatures) -> RunningServer {
    let nara = LocalNara::generate("target").unwrap();
    let ledger = Arc::new(MemoryLedger::new());
    let now = SystemClock.now_nanos().get();
    let events = (0..7)
        .map(|number| tease(&nara, now - number * 10_000_000_000))
        .collect();
    ledger.insert_verified(events).await.unwrap();
    let client = MeshClient::builder(nara.clone())
        .registry(registry)
        .signatures(signatures)
        .build();
    MeshServer::builder(nara, ledger)
        .client(client)
        .signatures(signatures)
        // The server has just started, but some checks send requests dated before its start.
        .refuse_before_start(false)
        .serve(([127, 0, 0, 1], 0).into())
        .await
        .unwrap()
}

fn tease(nara: &LocalNara, ts: i64) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: nara.name().as_str().to_owned(),
        target: "somebody".to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    let payload = Payload::Social(payload);
    SyncEvent::signed(UnixNanos::new(ts), payload, nara.name().as_str(), nara.keypair())
}

/// Returns the checks with a verdict.
fn with_verdict<'a>(report: &'a Value, verdict: &str) -> Vec<&'a Value> {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .filter(|check| check["verdict"] == verdict)
        .collect()
}

/// Returns the failed checks, except known deviations.
fn failures(report: &Value) -> Vec<&Value> {
    let mut failed = with_verdict(report, "fail");
    failed.retain(|check| check["level"] != "deviation-known");
    failed
}

#[test]
fn our_server_conforms_also_where_it_is_written_to() {
    let scene = Scene::new(Signatures::V2AndV1);
    let report = scene.check(0, scene.server.local_addr(), &["--write"]);
    assert_eq!(failures(&report), Vec::<&Value>::new());
    let skipped = with_verdict(&report, "skipped");
    assert!(skipped.is_empty(), "{skipped:?}");
    assert!(with_verdict(&report, "pass").len() >= 80);
    assert_eq!(report["peer"]["announces"]["v2"], true);
    assert_eq!(report["peer"]["refuses_us"], Value::Null);
    // Checks that need --write say so when they are skipped.
    let cautious = scene.check(0, scene.server.local_addr(), &["--only", "dm,world"]);
    let skipped = with_verdict(&cautious, "skipped");
    assert!(skipped.len() >= 4);
    assert!(
        skipped
            .iter()
            .all(|check| check["detail"].as_str().unwrap().contains("--write"))
    );
}

#[test]
fn a_selection_that_matches_no_check_is_refused_before_the_peer_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["conformance", "127.0.0.1:1", "--only", "tls,v2-reqest"];
    let told = text(&run(folder.path(), 2, &args).stderr);
    assert!(told.contains("no check matches \"v2-reqest\""), "{told}");
}

#[test]
fn a_second_run_with_the_same_souls_finds_the_same() {
    let scene = Scene::new(Signatures::V2AndV1);
    for _ in 0..2 {
        let report = scene.check(0, scene.server.local_addr(), &["--only", "v1-request,v2-request"]);
        assert_eq!(failures(&report), Vec::<&Value>::new());
        assert!(with_verdict(&report, "skipped").is_empty());
    }
}

#[test]
fn a_server_with_v1_only_conforms_and_v2_is_skipped() {
    let scene = Scene::new(Signatures::V1Only);
    let report = scene.check(0, scene.server.local_addr(), &[]);
    assert_eq!(failures(&report), Vec::<&Value>::new());
    for skipped in with_verdict(&report, "skipped") {
        let detail = skipped["detail"].as_str().unwrap();
        let expected = ["v2", "--write", "announces only"];
        assert!(expected.iter().any(|word| detail.contains(word)), "{skipped}");
    }
    let groups = ["v2-request/", "v2-answer/", "tls/"];
    for check in report["checks"].as_array().unwrap() {
        let id = check["id"].as_str().unwrap();
        if groups.iter().any(|group| id.starts_with(group)) {
            assert_eq!(check["verdict"], "skipped", "{id}");
        }
    }
}

/// What the double of a v1 peer does not implement, by the checks that detect it: it accepts everything it is
/// sent, answers every path alike and relays nothing, because its tests need no more. Its own messages
/// conform to the specification.
const NOT_OF_THE_DOUBLE: &[&str] = &[
    "ping/content-type",
    "query/target-is-required",
    "query/known",
    "query/get-only",
    "checkpoints/keys",
    "checkpoints/default",
    "checkpoints/limit",
    "checkpoints/offset",
    "http/404-body",
    "http/clean-path",
    "v1-request/all-signed-endpoints",
    "v1-request/no-name",
    "v1-request/no-timestamp",
    "v1-request/no-signature",
    "v1-request/empty-name",
    "v1-request/no-number",
    "v1-request/unknown-sender",
    "v1-request/no-base64",
    "v1-request/short-signature",
    "v1-request/wrong-signature",
    "v1-request/other-key",
    "v1-request/other-path",
    "v1-request/other-method",
    "v1-request/other-time",
    "v1-request/decoded-path",
    "v1-request/before-method",
    "v1-request/401-unsigned",
    "v1-request/repeated-header",
    "v1-request/plus",
    "v1-request/replay",
    "v1-answer/405",
    "v1-answer/invalid-json",
    "v1-answer/nosniff",
    "sync/from-is-required",
    "sync/slices",
    "sync/null-body",
    "sync/empty-body",
    "sync/strict-integers",
    "zine/from-is-required",
    "zine/unsigned",
    "zine/wrong-signature",
    "dm/unsigned",
    "dm/wrong-signature",
    "world/unknown-hop",
    "world/wrong-hop",
    "world/no-base64",
    "world/refusal-is-signed",
    "world/travels",
    "import/invalid-json",
    "import/other-key",
    "import/stale",
    "import/no-base64",
    "import/post-only",
    "import/content-type",
    "import/unsigned",
    "limits/large-body",
    "limits/large-zine",
    "limits/large-header",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_peer_fails_the_checks_that_are_known_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let souls = folder.path().join("souls");
    std::fs::create_dir(&souls).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let greta = V1Peer::start(naras::nara("greta"), free, TcpTransport, SystemClock).await;
    for name in ["v1", "v2"] {
        let entry = entry(&new_soul(&souls, name));
        greta.knows(entry.name.as_str(), entry.key.unwrap());
    }
    greta.remember((1..8).map(|n| naras::tease(greta.nara(), "alice", n * 1_000_000_000)));
    let address = greta.address().to_string();
    let path = folder.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let args = ["conformance", &address, "--souls", "souls", "--json", "--write"];
        nara_mesh(&path).args(args).output().unwrap()
    });
    let output = output.await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::validate(&report);
    let failed = with_verdict(&report, "fail");
    let ids: Vec<_> = failed.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert_eq!(ids, NOT_OF_THE_DOUBLE);
    assert!(with_verdict(&report, "pass").len() >= 25, "{report:#}");
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn every_defect_is_found() {
    let scene = Scene::new(Signatures::V2AndV1);
    let target = scene.server.local_addr();
    let found_by: Vec<&str> = DEFECTS.iter().map(|defect| defect.found_by).collect();
    // The proxy itself introduces no defect.
    let honest = scene.runtime.block_on(broken::proxy(target, &Defect::NONE));
    let report = scene.check(0, honest, &["--only", &found_by.join(",")]);
    assert_eq!(failures(&report), Vec::<&Value>::new());
    assert!(with_verdict(&report, "skipped").is_empty());
    for defect in DEFECTS {
        let broken = scene.runtime.block_on(broken::proxy(target, defect));
        let report = scene.check(5, broken, &["--only", defect.found_by]);
        let failed = failures(&report);
        assert!(
            failed.iter().any(|check| check["id"] == defect.found_by),
            "{} is not found: {report:#}",
            defect.what
        );
        for check in failed {
            assert!(!check["exchanges"].as_array().unwrap().is_empty(), "{check}");
            assert!(!check["detail"].as_str().unwrap().is_empty(), "{check}");
        }
    }
}

#[test]
fn a_peer_that_refuses_our_keys_is_told_what_its_peers_file_needs() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(serve(PeerRegistry::default(), Signatures::V2AndV1));
    let address = server.local_addr().to_string();
    let args = ["conformance", &address, "--souls", "new", "--json"];
    let output = run(folder.path(), 4, &args);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::validate(&report);
    assert!(
        report["peer"]["refuses_us"]
            .as_str()
            .unwrap()
            .contains("unknown sender"),
        "{report}"
    );
    assert!(with_verdict(&report, "skipped").len() > with_verdict(&report, "pass").len());
    let stderr = text(&output.stderr);
    for profile in ["v1", "v2"] {
        assert!(
            stderr.contains(&format!("name = \"conformance-{profile}-")),
            "{stderr}"
        );
        assert!(folder.path().join(format!("new/{profile}.soul")).exists());
    }
}

#[test]
fn sync_check_compares_pages_with_a_peer_that_cannot_reconcile() {
    let scene = Scene::new(Signatures::V2AndV1);
    let target = scene.server.local_addr();
    let peer = scene
        .runtime
        .block_on(broken::proxy(target, &broken::NO_RECONCILIATION))
        .to_string();
    let sync = |expected, ledger: &str, more: &[&str]| {
        let own = [
            "--soul-file",
            "souls/v1.soul",
            "--tls",
            "plain",
            "--json",
            "--to",
            ledger,
        ];
        run_json(
            scene.folder.path(),
            expected,
            &[&["sync", &peer], more, &own].concat(),
        )
    };
    sync(0, "same.db", &[]);
    let same = sync(0, "same.db", &["--check"]);
    assert_eq!(
        (&same["in_sync"], &same["events_here"]),
        (&true.into(), &7.into())
    );
    assert_eq!(
        (&same["by_pages"]["pages"], &same["by_pages"]["events_there"]),
        (&1.into(), &7.into())
    );
    assert!(same["bytes_received"].as_u64().unwrap() > 1000, "{same}");
    let other = sync(5, "empty.db", &["--check"]);
    assert_eq!(
        (&other["in_sync"], &other["by_pages"]["missing_here"]),
        (&false.into(), &7.into())
    );
    // A comparison stores nothing.
    assert_eq!(sync(5, "empty.db", &["--check"])["events_here"], 0);
    sync(0, "empty.db", &["--check", "--until", "1"]);
    sync(0, "empty.db", &["--check", "--services", "checkpoint"]);
    sync(5, "empty.db", &["--check", "--from", "1"]);
}

#[test]
fn without_a_nara_there_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = run(folder.path(), 3, &["conformance", &closed.to_string()]);
    assert!(
        text(&output.stderr).contains("no nara answers at"),
        "{}",
        text(&output.stderr)
    );
    let unknown = run(folder.path(), 2, &["conformance", "nobody"]);
    assert!(text(&unknown.stderr).contains("the address of nobody is not known"));
}

#[test]
fn the_checks_are_listed_without_a_peer() {
    let listed = run_json(Path::new("."), 0, &["conformance", "--list", "--json"]);
    let checks = listed["checks"].as_array().unwrap();
    assert!(checks.len() >= 80);
    assert!(
        checks
            .iter()
            .all(|check| check["section"].as_str().unwrap().starts_with("docs/protocol/"))
    );
}
