//! Requests that are refused because of their time, and the information in the refusals.

use std::sync::Arc;

use nara_mesh::Signatures;
use nara_mesh::client::MeshClient;
use nara_mesh::clock::ManualClock;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::MeshServer;
use nara_proto::sync::SyncRequest;
use nara_proto::time::{UnixMillis, UnixNanos};

use crate::naras::known;
use crate::raw_http::RawResponse;
use crate::support::{NOW, Target, free_port, nara, registry, request, signed};

/// Sends a request of alice that is signed this many milliseconds ahead of the target's clock.
fn ask(target: &Target, ms: i64) -> RawResponse {
    let at = UnixMillis::new(NOW.get() + ms);
    let headers = signed(&nara("alice"), at, "POST", "/events/sync");
    target.send(&request("POST", "/events/sync", &headers, br#"{"from":"alice"}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_time_tells_the_time_and_keeps_its_text() {
    let target = Target::start().await;
    let stale = ask(&target, -40_000);
    assert_eq!(stale.status, 401);
    assert_eq!(
        stale.text(),
        "Authentication failed: timestamp too old or in future: 40s\n"
    );
    assert_eq!(stale.header("x-nara-time"), Some(NOW.to_string()));
    assert_eq!(
        stale.header("x-nara-clock-fault"),
        None,
        "it knows no other clock"
    );

    let forged = {
        let headers = signed(&nara("bob"), NOW, "POST", "/dm");
        target.send(&request("POST", "/events/sync", &headers, b"{}"))
    };
    assert_eq!(forged.status, 401);
    assert_eq!(forged.header("x-nara-time"), None, "only where it matters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_time_names_the_wrong_clock_by_the_clocks_of_other_peers() {
    for (others_ms, request_ms, fault) in [
        (0, -40_000, Some("sender")),
        (0, 40_000, Some("sender")),
        (-28_000, -40_000, Some("receiver")),
        (28_000, -40_000, Some("sender")),
        (20_000, 40_000, None),
    ] {
        let registry = registry(&[&nara("alice")]);
        let client = MeshClient::builder(nara("target"))
            .registry(registry.clone())
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .build();
        for name in ["carol", "dave", "erin"] {
            let other = nara(name);
            let clock = ManualClock::new(UnixNanos::new(NOW.to_nanos().get() + others_ms * 1_000_000));
            let server = MeshServer::builder(other.clone(), Arc::new(MemoryLedger::new()))
                .registry(crate::support::registry(&[&nara("target")]))
                .clock(Arc::new(clock))
                .refuse_before_start(false)
                .serve(free_port())
                .await
                .unwrap();
            registry
                .register(known(&other, Some(server.local_addr())))
                .unwrap();
            client
                .fetch_sync_events(other.id(), SyncRequest::recent(1))
                .await
                .unwrap();
        }
        let target = Target::start_with(|builder| builder.registry(registry).client(client)).await;
        let refused = ask(&target, request_ms);
        assert_eq!(refused.status, 401);
        assert_eq!(
            refused.header("x-nara-clock-fault").as_deref(),
            fault,
            "{others_ms} {request_ms}"
        );
    }
}

/// With a v1 signature and with a v2 signature.
#[tokio::test(flavor = "multi_thread")]
async fn our_client_reports_the_wrong_clock_after_a_refusal_for_time() {
    for signatures in [Signatures::V1Only, Signatures::V2AndV1] {
        let target = Target::start_with(|builder| builder.signatures(signatures)).await;
        let late = ManualClock::new(UnixNanos::new(NOW.to_nanos().get() - 40_000_000_000));
        let client = MeshClient::builder(nara("alice"))
            .signatures(signatures)
            .clock(Arc::new(late))
            .build();
        let known = known(&target.local, Some(target.address()));
        client.registry().register(known).unwrap();
        let call = client.fetch_sync_events(target.local.id(), SyncRequest::recent(1));
        let error = call.await.unwrap_err();
        assert!(error.is_clock_skew(), "{error}");
        assert!(
            error.to_string().contains("its clock is 40s ahead of ours"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_learns_the_clock_of_a_peer_however_the_peer_proves_itself() {
    for signatures in [Signatures::V1Only, Signatures::V2AndV1] {
        let target = Target::start_with(|builder| builder.signatures(signatures)).await;
        let late = ManualClock::new(UnixNanos::new(NOW.to_nanos().get() - 20_000_000_000));
        let client = MeshClient::builder(nara("alice"))
            .signatures(signatures)
            .clock(Arc::new(late))
            .build();
        let known = known(&target.local, Some(target.address()));
        let peer = client.registry().register(known).unwrap();
        for _ in 0..3 {
            let call = client.fetch_sync_events(target.local.id(), SyncRequest::recent(1));
            call.await.unwrap();
            let offset = peer.clock_offset().unwrap();
            let wrong = offset.nanos().abs_diff(20_000_000_000);
            // Profile v2 has whole seconds.
            assert!(
                wrong <= offset.uncertainty().as_nanos() as u64 && wrong < 1_000_000_000,
                "{offset}"
            );
        }
    }
}
