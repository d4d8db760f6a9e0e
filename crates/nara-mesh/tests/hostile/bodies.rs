//! The contents and sizes of bodies.

use std::io::Write as _;

use nara_proto::event::SyncEvent;
use nara_proto::import::ImportRequest;
use nara_proto::zine::Zine;

use crate::raw_http;
use crate::support::{NOW, Target, nara, request, seen, signed};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_the_name_of_another_is_refused() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let sync = target.post(&alice, "/events/sync", br#"{"from":"bob"}"#);
    assert_eq!(sync.status, 403);
    assert_eq!(
        sync.text(),
        "from does not match the authenticated sender alice\n"
    );
    assert!(target.signed_answer(&sync));

    let zine = Zine::signed("bob", NOW.to_seconds(), Vec::new(), bob.keypair());
    assert_eq!(target.post_json(&alice, "/gossip/zine", &zine).status, 403);

    let dm = seen(&bob, "carol", "mesh", NOW.to_nanos());
    let answer = target.post_json(&alice, "/dm", &dm);
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.text(),
        "emitter does not match the authenticated sender alice\n"
    );
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zine_must_be_signed_by_its_sender() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let mut unsigned = Zine::signed("alice", NOW.to_seconds(), Vec::new(), alice.keypair());
    unsigned.signature.clear();
    let wrong = Zine::signed("alice", NOW.to_seconds(), Vec::new(), bob.keypair());
    for zine in [unsigned, wrong] {
        let answer = target.post_json(&alice, "/gossip/zine", &zine);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (403, "Invalid signature\n")
        );
        assert!(target.signed_answer(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_must_be_whole() {
    let target = Target::start().await;
    let alice = nara("alice");
    let good = seen(&alice, "bob", "mesh", NOW.to_nanos());
    let refusal = |event: &SyncEvent| {
        let answer = target.post_json(&alice, "/dm", event);
        assert!(target.signed_answer(&answer));
        (answer.status, answer.text())
    };

    let mut unsigned = good.clone();
    unsigned.sig.clear();
    assert_eq!(refusal(&unsigned), (400, "Unsigned event rejected\n".to_owned()));

    let stranger = seen(&nara("carol"), "bob", "mesh", NOW.to_nanos());
    assert_eq!(refusal(&stranger), (403, "Unknown emitter\n".to_owned()));

    let mut tampered = good.clone();
    tampered.seen.as_mut().unwrap().subject = "carol".to_owned();
    assert_eq!(refusal(&tampered), (403, "Invalid signature\n".to_owned()));

    let mut forged = good.clone();
    forged.id = "00000000000000000000000000000000".to_owned();
    forged.sign("alice", alice.keypair());
    assert_eq!(refusal(&forged).0, 400);
    forged.id.clear();
    forged.sign("alice", alice.keypair());
    assert_eq!(refusal(&forged).0, 400);

    for svc in [
        "social",
        "ping",
        "observation",
        "hey-there",
        "chau",
        "seen",
        "checkpoint",
    ] {
        let mut bare = good.clone();
        bare.seen = None;
        svc.clone_into(&mut bare.svc);
        bare.sign("alice", alice.keypair());
        assert_eq!(refusal(&bare), (400, format!("The event has no {svc} payload\n")));
    }

    assert_eq!(target.count().await, 0);
    let receipt = |success| format!("{{\"from\":\"target\",\"success\":{success}}}\n");
    assert_eq!(refusal(&good), (200, receipt(true)));
    assert_eq!(refusal(&good), (200, receipt(false)), "known already");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_needs_our_own_soul() {
    let target = Target::start().await;
    let alice = nara("alice");
    let events = vec![seen(&alice, "bob", "mesh", NOW.to_nanos())];
    let stolen = ImportRequest::signed(events.clone(), NOW.to_seconds(), alice.keypair());
    let body = nara_proto::go_json::to_vec(&stolen);
    let answer = target.send(&request("POST", "/api/events/import", &[], &body));
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("content-type").unwrap(), "application/json");
    assert_eq!(target.count().await, 0);

    let own = ImportRequest::signed(events, NOW.to_seconds(), target.local.keypair());
    let body = nara_proto::go_json::to_vec(&own);
    let answer = target.send(&request("POST", "/api/events/import", &[], &body));
    assert_eq!(
        answer.text(),
        "{\"success\":true,\"imported\":1,\"duplicates\":0}\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_its_endpoint_takes_is_refused() {
    let target = Target::start().await;
    let large = vec![b' '; (1 << 20) + 1];
    let answer = target.post(&nara("alice"), "/dm", &large);
    assert_eq!(answer.status, 413);
    assert!(target.signed_answer(&answer));

    // Chunked, so that its length is not known in advance.
    let headers = signed(&nara("alice"), NOW, "POST", "/dm");
    let mut bytes = b"POST /dm HTTP/1.1\r\nHost: nara\r\nTransfer-Encoding: chunked\r\n".to_vec();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {}\r\n", String::from_utf8(value).unwrap()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    for _ in 0..32 {
        bytes.extend_from_slice(b"10000\r\n");
        bytes.extend_from_slice(&[b' '; 0x10000]);
        bytes.extend_from_slice(b"\r\n");
    }
    let answer = target.send(&bytes);
    assert_eq!(answer.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_stranger_is_not_even_read() {
    let target = Target::start().await;
    let mut stream = raw_http::connect(target.address()).unwrap();
    // The body is announced and never sent.
    stream
        .write_all(b"POST /gossip/zine HTTP/1.1\r\nHost: nara\r\nContent-Length: 1000000\r\n\r\n")
        .unwrap();
    let answer = raw_http::read_response(&mut stream, false).unwrap().unwrap();
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_are_cut_off() {
    let target = Target::start().await;
    let mut bytes = b"GET /ping HTTP/1.1\r\nHost: nara\r\n".to_vec();
    bytes.extend_from_slice(b"X-Filler: ");
    bytes.resize(20 << 10, b'a');
    let answer = target.send(&bytes);
    assert_eq!(answer.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_costs_its_request_only() {
    let target = Target::start().await;
    let alice = nara("alice");
    let mut stream = raw_http::connect(target.address()).unwrap();
    let mut on_this_connection = |path: &str, at: i64, body: &[u8]| {
        let at = nara_proto::time::UnixMillis::new(NOW.get() + at);
        let bytes = request("POST", path, &signed(&alice, at, "POST", path), body);
        let text = String::from_utf8(bytes)
            .unwrap()
            .replace("Connection: close\r\n", "");
        stream.write_all(text.as_bytes()).unwrap();
        raw_http::read_response(&mut stream, false).unwrap().unwrap()
    };
    let bad = nara_proto::go_json::to_vec(&seen(&alice, "bob", "panic", NOW.to_nanos()));
    let answer = on_this_connection("/dm", 0, &bad);
    assert_eq!((answer.status, answer.text().as_str()), (500, "Internal error\n"));
    assert!(target.signed_answer(&answer));
    let good = nara_proto::go_json::to_vec(&seen(&alice, "bob", "mesh", NOW.to_nanos()));
    assert_eq!(on_this_connection("/dm", 1, &good).status, 200);
}
