//! `http.json` and `http_fixture.json`, as far as possible without a server: authentication, parsing of bodies,
//! spelling and signature of answers. The handling of valid requests is checked in `nara-mesh`.

use std::collections::BTreeMap;

use nara_proto::endpoint::{
    AllCheckpoints, Authentication, DirectMessage, Endpoint, EventsImport, EventsSync, GetCoordinates,
    GossipZine, MeshMessage, PeerQuery, Ping, WorldRelay,
};
use nara_proto::event::SyncEvent;
use nara_proto::go_json::{self, Merge};
use nara_proto::identity::{KeyPair, NaraId, NaraName, PublicKey, Soul};
use nara_proto::import::{ImportRequest, ImportResponse};
use nara_proto::peer::Coordinates;
use nara_proto::sync::{SyncRequest, SyncResponse};
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuth;
use nara_proto::world::WorldMessage;
use nara_proto::zine::Zine;

use crate::auth::{header_map, path_of, verify_request};
use crate::events::{is_signature_of, keypair};
use crate::harness::{Case, Unreadable};

/// The server of the fixture.
struct Server {
    name: NaraName,
    keypair: KeyPair,
    keys: BTreeMap<String, PublicKey>,
}

impl Server {
    fn of(fixture: &Case<'_>) -> Result<Self, Unreadable> {
        let server = fixture.inner(fixture.object("server")?);
        let name: NaraName = server.parsed("name")?;
        let keypair = nara(&server)?;
        server.left_to_mesh(&["mesh_ip", "personality"]);
        let coordinates = server.object("coordinates")?;
        let as_text = serde_json::to_vec(coordinates).unwrap_or_default();
        let read: Option<Coordinates> = go_json::from_slice(&as_text).ok();
        let again = read.and_then(|read| serde_json::from_str(&go_json::to_string(&read)).ok());
        server.check("coordinates", again.unwrap_or(serde_json::Value::Null));

        let mut keys = BTreeMap::from([(name.as_str().to_owned(), keypair.public_key())]);
        for fields in fixture.objects("known_peers")? {
            let peer = fixture.inner(fields);
            peer.left_to_mesh(&["mesh_ip"]);
            let key = nara(&peer)?.public_key();
            keys.insert(peer.text("name")?.to_owned(), key);
            fixture.absorb("known_peers", peer);
        }
        fixture.absorb("server", server);
        Ok(Self { name, keypair, keys })
    }
}

/// Checks a nara of the fixture: name, soul, id and key belong together.
fn nara(case: &Case<'_>) -> Result<KeyPair, Unreadable> {
    let soul: Soul = case.parsed("soul")?;
    case.check("nara_id", NaraId::derive(&soul, case.text("name")?).as_str());
    keypair(case)
}

pub(crate) fn fixture(case: &Case<'_>) -> Result<(), Unreadable> {
    Server::of(case)?;
    case.check("expect", "fixture");
    case.left_to_mesh(&["now_ms"]);
    for text in case.texts("ledger")? {
        let event = go_json::from_slice::<SyncEvent>(text.as_bytes());
        let again = event.map(|event| go_json::to_string(&event));
        case.claim(
            "ledger",
            "is spelled as we spell it",
            again.is_ok_and(|again| again == text),
        );
    }
    Ok(())
}

/// Our answer if it does not depend on ledger or neighbourhood: status and body.
type Decided = Option<(u16, String)>;

pub(crate) fn exchange(case: &Case<'_>) -> Result<(), Unreadable> {
    let server = Server::of(&case.fixture()?)?;
    let now = UnixMillis::new(case.int("server_now_ms")?);
    case.left_to_mesh(&["ledger_growth"]);
    let decided = decide(case, &server, now)?;

    if case.text("expect")? == "aborted" {
        case.claim(
            "expect",
            "nothing that we refuse before looking at it",
            decided.is_none(),
        );
        return Ok(());
    }
    case.check("expect", case.int("status")?.to_string());
    let body = case.text("response_body")?;
    if let Some((status, ours)) = decided {
        case.check("status", status);
        // An answer to HEAD may have been recorded without its body.
        if !(body.is_empty() && case.text("method")? == "HEAD") {
            case.check("response_body", ours);
        }
    }
    let headers = header_map(case, "response_headers")?;
    let auth = ResponseAuth::from_headers(&headers);
    case.check("response_signed", auth.is_ok());
    if !case.flag("response_body_exact")? {
        // The sent bytes are not recorded, so neither spelling nor signature can be checked.
        case.left_to_mesh(&["response_signature_valid"]);
        return Ok(());
    }
    check_spelling(case, body)?;
    let verified = auth.as_ref().is_ok_and(|auth| {
        auth.name() == &server.name
            && auth
                .verify(&server.keypair.public_key(), body.as_bytes(), now)
                .is_ok()
    });
    case.check("response_signature_valid", verified);
    if let Ok(auth) = auth {
        let ours = ResponseAuth::sign(&server.keypair, &server.name, auth.timestamp(), body.as_bytes());
        case.claim(
            "response_headers",
            "the signature that the server makes",
            auth == ours,
        );
    }
    Ok(())
}

/// Returns the answer as far as authentication and body determine it.
fn decide(case: &Case<'_>, server: &Server, now: UnixMillis) -> Result<Decided, Unreadable> {
    let (method, target) = (case.text("method")?, case.text("request_target")?);
    let path = path_of(target);
    let headers = header_map(case, "request_headers")?;
    let body = case.text("request_body")?.as_bytes();
    let Some((authentication, expected_method)) = rules_of(path) else {
        return Ok(None);
    };
    if authentication == Authentication::Signed
        && let Err(error) = verify_request(&headers, &server.keys, method, path, now)
    {
        return Ok(Some((401, format!("Authentication failed: {error}\n"))));
    }
    if authentication != Authentication::Open && method != expected_method {
        return Ok(Some((405, "Method not allowed\n".to_owned())));
    }
    let plain = |text: &str| Some((400, format!("{text}\n")));
    Ok(match path {
        EventsSync::PATH => match go_json::from_slice::<SyncRequest>(body) {
            Err(_) => plain("Invalid JSON"),
            Ok(request) if request.from.is_empty() => plain("from is required"),
            Ok(_) => None,
        },
        GossipZine::PATH => match go_json::from_slice::<Zine>(body) {
            Err(_) => plain("Invalid JSON"),
            Ok(zine) if zine.from.is_empty() => plain("from is required"),
            Ok(zine) => match server.keys.get(&zine.from) {
                Some(key) if zine.verify(key).is_err() => Some((403, "Invalid signature\n".to_owned())),
                _ => None,
            },
        },
        DirectMessage::PATH => match go_json::from_slice::<SyncEvent>(body) {
            Err(_) => plain("Invalid JSON"),
            Ok(event) if event.emitter.is_empty() || !event.is_signed() => plain("Unsigned event rejected"),
            Ok(event) => match server.keys.get(&event.emitter) {
                None => Some((403, "Unknown emitter\n".to_owned())),
                // Without its payload, v1 peers crash before they check the signature.
                Some(_) if is_payload_missing(&event) => None,
                Some(key) if event.verify(key).is_err() => Some((403, "Invalid signature\n".to_owned())),
                Some(_) => None,
            },
        },
        WorldRelay::PATH => match go_json::from_slice::<WorldMessage>(body) {
            Err(_) => plain("Invalid JSON"),
            Ok(message) => {
                let chain = message.verify_chain(|name| server.keys.get(name).copied());
                let error = chain.err();
                error.and_then(|error| plain(&format!("chain verification failed: {error}")))
            }
        },
        // The answer is always empty.
        MeshMessage::PATH => Some((200, String::new())),
        EventsImport::PATH => match go_json::from_slice::<ImportRequest>(body) {
            Err(_) => Some((400, import_failure("Invalid JSON"))),
            Ok(request) => {
                let refused = request.verify(&server.keypair.public_key(), now).err();
                refused.map(|error| (403, import_failure(&format!("Authentication failed: {error}"))))
            }
        },
        _ => None,
    })
}

fn is_payload_missing(event: &SyncEvent) -> bool {
    matches!(
        event.validate(),
        Err(nara_proto::event::InvalidEvent::MissingPayload(_))
    )
}

fn import_failure(error: &str) -> String {
    let answer = ImportResponse {
        error: error.to_owned(),
        ..ImportResponse::default()
    };
    String::from_utf8_lossy(&go_json::to_body(&answer)).into_owned()
}

/// Returns the authentication and the method of a path; `None` for an unknown path.
fn rules_of(path: &str) -> Option<(Authentication, &'static str)> {
    fn rules<E: Endpoint>() -> (&'static str, Authentication, String) {
        (E::PATH, E::AUTHENTICATION, E::METHOD.to_string())
    }
    let all = [
        rules::<AllCheckpoints>(),
        rules::<DirectMessage>(),
        rules::<EventsImport>(),
        rules::<EventsSync>(),
        rules::<GetCoordinates>(),
        rules::<GossipZine>(),
        rules::<MeshMessage>(),
        rules::<PeerQuery>(),
        rules::<Ping>(),
        rules::<WorldRelay>(),
    ];
    let (_, authentication, method) = all.into_iter().find(|(known, ..)| *known == path)?;
    Some((authentication, if method == "GET" { "GET" } else { "POST" }))
}

/// Parses an answer with status 200 as the type of its endpoint and writes it again; the inner signatures are the
/// server's.
fn check_spelling(case: &Case<'_>, body: &str) -> Result<(), Unreadable> {
    if case.int("status")? != 200 || (body.is_empty() && case.text("method")? == "HEAD") {
        return Ok(());
    }
    match path_of(case.text("request_target")?) {
        EventsSync::PATH => {
            let response: SyncResponse = respell(case, body)?;
            check_inner(case, &response.sig, &response.digest())?;
        }
        GossipZine::PATH => {
            let zine: Zine = respell(case, body)?;
            check_inner(case, &zine.signature, &zine.digest())?;
        }
        DirectMessage::PATH | WorldRelay::PATH => drop(respell::<nara_proto::peer::Receipt>(case, body)?),
        Ping::PATH => drop(respell::<nara_proto::peer::PingResponse>(case, body)?),
        GetCoordinates::PATH => drop(respell::<nara_proto::peer::CoordinatesResponse>(case, body)?),
        PeerQuery::PATH => drop(respell::<nara_proto::peer::PeerQueryResponse>(case, body)?),
        AllCheckpoints::PATH => drop(respell::<nara_proto::peer::CheckpointsResponse>(case, body)?),
        EventsImport::PATH => drop(respell::<ImportResponse>(case, body)?),
        MeshMessage::PATH => case.check("response_body", ""),
        path => return Err(case.fail("request_target", "a path with an answer", path)),
    }
    Ok(())
}

fn respell<T: Merge + serde::Serialize>(case: &Case<'_>, body: &str) -> Result<T, Unreadable> {
    let value = go_json::from_slice::<T>(body.as_bytes())
        .map_err(|error| case.fail("response_body", body, error.to_string()))?;
    case.check(
        "response_body",
        String::from_utf8_lossy(&go_json::to_body(&value)),
    );
    Ok(value)
}

fn check_inner(case: &Case<'_>, signature: &str, digest: &[u8; 32]) -> Result<(), Unreadable> {
    let server = Server::of(&case.fixture()?)?;
    let same = is_signature_of(signature, &server.keypair, digest);
    case.claim("response_body", "is signed by the server inside, too", same);
    Ok(())
}
