//! `client_wire.json`: the request that a client sends, and its result for the answer. The transfer itself is checked
//! in `nara-mesh`.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use nara_proto::endpoint::{
    Authentication, DirectMessage, Endpoint, EventsSync, GetCoordinates, GossipZine, MeshMessage, Ping,
    WorldRelay,
};
use nara_proto::go_json::{self, Merge};
use nara_proto::identity::{KeyPair, NaraName};
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::sync::SyncResponse;
use nara_proto::time::UnixMillis;
use nara_proto::v1::RequestAuth;
use nara_proto::zine::Zine;

use crate::auth::{header_map, path_of};
use crate::harness::{Case, Unreadable};

pub(crate) fn client_wire(case: &Case<'_>) -> Result<(), Unreadable> {
    let target = case.text("request_target")?;
    match path_of(target) {
        EventsSync::PATH => {
            request::<EventsSync>(case, json(case)?)?;
            answer::<EventsSync>(case, sync_summary)
        }
        GossipZine::PATH => {
            request::<GossipZine>(case, json(case)?)?;
            answer::<GossipZine>(case, zine_summary)
        }
        DirectMessage::PATH => {
            request::<DirectMessage>(case, json(case)?)?;
            acknowledgement(case)
        }
        WorldRelay::PATH => {
            request::<WorldRelay>(case, json(case)?)?;
            acknowledgement(case)
        }
        MeshMessage::PATH => {
            let body = case.text("body")?;
            let message = RuntimeMessage::from_json(body.as_bytes())
                .map_err(|error| case.fail("body", body, error.to_string()))?;
            request::<MeshMessage>(case, message)?;
            acknowledgement(case)
        }
        Ping::PATH => {
            request::<Ping>(case, ())?;
            acknowledgement(case)
        }
        GetCoordinates::PATH => {
            request::<GetCoordinates>(case, ())?;
            acknowledgement(case)
        }
        _ => Err(case.fail("request_target", "a path that a client calls", target)),
    }
}

fn json<T: Merge>(case: &Case<'_>) -> Result<T, Unreadable> {
    let body = case.text("body")?;
    go_json::from_slice(body.as_bytes()).map_err(|error| case.fail("body", body, error.to_string()))
}

/// Checks everything about the request except the connection.
fn request<E: Endpoint>(case: &Case<'_>, request: E::Request) -> Result<(), Unreadable> {
    let query = E::query(&request).map_or_else(String::new, |query| format!("?{query}"));
    case.check("method", E::METHOD.as_str());
    case.check("request_target", format!("{}{query}", E::PATH));
    let body = E::encode(&request);
    case.check(
        "body",
        String::from_utf8_lossy(body.as_deref().unwrap_or_default()),
    );
    case.left_to_mesh(&["host"]);

    let name: NaraName = case.parsed("name")?;
    let keypair = KeyPair::from_soul(&case.parsed("soul")?);
    let mut headers = HeaderMap::new();
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let now = UnixMillis::new(case.int("now_ms")?);
    if E::AUTHENTICATION == Authentication::Signed {
        RequestAuth::sign(&keypair, &name, now, E::METHOD.as_str(), E::PATH).write_to(&mut headers);
    } else if let Ok(name) = HeaderValue::from_bytes(name.as_str().as_bytes()) {
        headers.insert("x-nara-from", name);
    }
    case.claim(
        "headers",
        "the headers of this request",
        header_map(case, "headers")? == headers,
    );
    Ok(())
}

/// Checks an answer that is decoded: status 200 and a valid body. `summary` returns the accepted forms of the result.
fn answer<E: Endpoint>(case: &Case<'_>, summary: fn(&E::Response) -> Vec<String>) -> Result<(), Unreadable> {
    let decoded = E::decode(case.text("server_body")?.as_bytes());
    let status = case.int("server_status")?;
    let results = match decoded {
        Ok(response) if status == 200 => summary(&response),
        _ => {
            case.check("expect", "error");
            case.check("result", "");
            // The Go program's own texts.
            case.prose(&["error"]);
            return Ok(());
        }
    };
    case.check("expect", "ok");
    let result = case.text("result")?;
    if !results.iter().any(|told| told == result) {
        case.fail("result", result, results);
    }
    Ok(())
}

/// Checks an answer of which only the status counts.
fn acknowledgement(case: &Case<'_>) -> Result<(), Unreadable> {
    case.prose(&["server_body", "error"]);
    case.check(
        "expect",
        if case.int("server_status")? == 200 {
            "ok"
        } else {
            "error"
        },
    );
    case.check("result", "");
    Ok(())
}

/// A call for events returns all of them, a call for checkpoints only their number; the requests look the same.
fn sync_summary(answer: &SyncResponse) -> Vec<String> {
    let count = answer.events().len();
    let all = format!(
        "from={} events={count} next_cursor={}",
        answer.from, answer.next_cursor
    );
    vec![all, count.to_string()]
}

fn zine_summary(answer: &Zine) -> Vec<String> {
    vec![format!("from={} events={}", answer.from, answer.events().len())]
}
