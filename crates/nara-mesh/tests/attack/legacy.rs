//! A v1-only nara: like v1 peers, it verifies name, time, method and path, and does not detect replays.

use bytes::Bytes;
use http::{HeaderValue, Response};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::transport::TcpTransport;
use nara_proto::go_json;
use nara_proto::peer::PingResponse;
use nara_proto::sync::SyncResponse;
use nara_proto::v1::{RequestAuth, ResponseAuth};

use crate::fake_peer::{Answer, FakePeer, Received, plain};
use crate::support::free_port;

/// Starts `nara`, which accepts requests of `caller`.
pub(crate) async fn start(nara: &LocalNara, caller: &LocalNara, clock: &ManualClock) -> FakePeer {
    let (nara, key, clock) = (nara.clone(), caller.public_key(), clock.clone());
    FakePeer::start(TcpTransport, free_port(), move |request| {
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/ping" {
            return plain(200, go_json::to_body(&ping_answer(&nara)));
        }
        let now = clock.now_millis();
        let verified = RequestAuth::from_headers(&request.headers)
            .is_ok_and(|auth| auth.verify(&key, request.method.as_str(), path, now).is_ok());
        if !verified {
            return plain(401, "Authentication failed: signature verification failed\n");
        }
        signed(&nara, &clock, body(&nara, &clock, request))
    })
    .await
}

/// Returns the `/ping` answer of `nara`.
pub(crate) fn ping_answer(nara: &LocalNara) -> PingResponse {
    PingResponse {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        ..PingResponse::default()
    }
}

/// Returns a valid answer of each endpoint that the tests use.
fn body(nara: &LocalNara, clock: &ManualClock, request: &Received) -> Bytes {
    let body = match request.target.as_str() {
        "/events/sync" => {
            // The answer repeats the request's parameter, so that answers can be distinguished.
            let asked: nara_proto::sync::SyncRequest = go_json::from_slice(&request.body).unwrap();
            let mut answer = SyncResponse::signed(
                nara.name().as_str(),
                Vec::new(),
                clock.now_seconds(),
                nara.keypair(),
            );
            answer.next_cursor = asked.limit.to_string();
            go_json::to_body(&answer)
        }
        _ => request.target.clone().into(),
    };
    body.into()
}

/// Returns an answer that `nara` signs now.
pub(crate) fn signed(nara: &LocalNara, clock: &ManualClock, body: Bytes) -> Answer {
    let mut response = Response::new(body.clone());
    ResponseAuth::sign(nara.keypair(), nara.name(), clock.now_millis(), &body)
        .write_to(response.headers_mut());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    Answer::With(response)
}
