//! Broken servers: a proxy in front of a conforming server, with one defect each.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// The parts of a request that a defect depends on.
pub(super) struct Asked {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A defect of a server.
pub(super) struct Defect {
    pub(super) what: &'static str,
    /// The check that detects it.
    pub(super) found_by: &'static str,
    /// Makes a correct answer incorrect.
    change: fn(&Asked, &mut Response<Bytes>),
}

impl Defect {
    pub(super) const NONE: Self = Self {
        what: "nothing",
        found_by: "",
        change: |_, _| (),
    };
}

/// A peer without the extension, like v1 peers.
pub(super) const NO_RECONCILIATION: Defect = defect("no reconciliation", "", |asked, answer| {
    if asked.path == "/events/reconcile" {
        *answer = Response::new(Bytes::from_static(b"404 page not found\n"));
        *answer.status_mut() = StatusCode::NOT_FOUND;
    }
});

const fn defect(
    what: &'static str,
    found_by: &'static str,
    change: fn(&Asked, &mut Response<Bytes>),
) -> Defect {
    Defect {
        what,
        found_by,
        change,
    }
}

pub(super) const DEFECTS: &[Defect] = &[
    defect("answers are not signed", "v1-answer/200", |_, answer| {
        answer.headers_mut().remove("x-nara-signature");
    }),
    defect("another nara signs the answers", "v1-answer/400", |_, answer| {
        set(answer, "x-nara-name", "somebody");
    }),
    defect(
        "an answer is changed after it was signed",
        "v1-answer/200",
        |_, answer| {
            replace(answer, "{\"from\"", "{ \"from\"");
        },
    ),
    defect(
        "the answer says a later time than it was signed at",
        "v1-answer/empty",
        |_, answer| {
            set(answer, "x-nara-timestamp", "1769100000250");
        },
    ),
    defect(
        "unsigned requests are answered",
        "v1-request/no-signature",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "the time of a request is not looked at",
        "v1-request/too-old",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "signatures are not verified",
        "v1-request/wrong-signature",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "refusals have texts of their own",
        "v1-request/no-name",
        |_, answer| {
            replace(answer, "missing auth headers", "go away");
        },
    ),
    defect("refusals are signed", "v1-request/401-unsigned", |_, answer| {
        set(answer, "x-nara-signature", "AAAA");
    }),
    defect("/ping tells milliseconds", "ping/nanoseconds", |_, answer| {
        let told: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let nanos = told["t"].as_i64().unwrap_or_default();
        replace(answer, &nanos.to_string(), &(nanos / 1_000_000).to_string());
    }),
    defect(
        "/ping calls its address otherwise",
        "ping/mesh-ip",
        |_, answer| replace(answer, "mesh_ip", "mesh_address"),
    ),
    defect(
        "/peer/query redirects like a web server",
        "query/unknown",
        |_, answer| {
            *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            set(answer, "location", "http://127.0.0.1/peer/query");
        },
    ),
    defect("checkpoints have no limit", "checkpoints/limit", |_, answer| {
        replace(answer, "\"limit\":10000", "\"limit\":20000");
    }),
    defect(
        "a full page does not say where the next one begins",
        "sync/next-cursor",
        |_, answer| {
            replace(answer, "next_cursor", "next");
        },
    ),
    defect("JSON is read strictly", "sync/trailing-bytes", |asked, answer| {
        if !asked.body.is_empty() && serde_json::from_slice::<serde_json::Value>(&asked.body).is_err() {
            *answer.status_mut() = StatusCode::BAD_REQUEST;
        }
    }),
    defect(
        "the events of an answer are not those that were signed",
        "sync/signature",
        |_, answer| {
            replace(answer, "\"id\":\"", "\"id\":\"0");
        },
    ),
    defect(
        "zines of strangers are taken",
        "zine/wrong-signature",
        |_, answer| {
            *answer.status_mut() = StatusCode::OK;
        },
    ),
    defect(
        "direct messages are not verified",
        "dm/wrong-signature",
        |asked, answer| {
            if asked.path == "/dm" {
                *answer.status_mut() = StatusCode::OK;
            }
        },
    ),
    defect(
        "postcards are not verified",
        "world/wrong-hop",
        |asked, answer| {
            if asked.path == "/world/relay" {
                *answer.status_mut() = StatusCode::OK;
            }
        },
    ),
    defect(
        "runtime messages get an answer at once",
        "message/nonsense",
        |asked, answer| {
            if asked.path == "/mesh/message" {
                *answer.body_mut() = Bytes::from_static(b"{}");
            }
        },
    ),
    defect("anybody may import", "import/other-key", |asked, answer| {
        if asked.path == "/api/events/import" {
            *answer.status_mut() = StatusCode::OK;
        }
    }),
    defect(
        "the proof of the capability is of something else",
        "capability/proof",
        |_, answer| {
            let changed = answer.headers().get("x-nara-capability").and_then(|value| {
                let text = value.to_str().ok()?.replace("signatures=(", "signatures=(v3 ");
                HeaderValue::try_from(text).ok()
            });
            if let Some(changed) = changed {
                answer.headers_mut().insert("x-nara-capability", changed);
            }
        },
    ),
    defect("v2 answers are not signed", "v2-answer/200", |_, answer| {
        answer.headers_mut().remove("signature");
    }),
    defect(
        "the recipient is not looked at",
        "v2-request/to-another",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "a nonce counts more than once",
        "v2-request/replay",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "the digest is not compared",
        "v2-request/other-body",
        |_, answer| {
            *answer.status_mut() = StatusCode::OK;
        },
    ),
    defect(
        "parameters of other profiles are taken",
        "v2-request/unknown-parameter",
        |_, answer| {
            accept_refused(answer);
        },
    ),
    defect(
        "v1 is good enough for those who speak v2",
        "v2-request/downgrade",
        |_, answer| accept_refused(answer),
    ),
    defect(
        "refusals do not tell the time",
        "v2-request/too-old",
        |_, answer| {
            answer.headers_mut().remove("x-nara-time");
        },
    ),
    defect(
        "bad queries of streams are ignored",
        "stream/since",
        |_, answer| {
            *answer.status_mut() = StatusCode::OK;
        },
    ),
    defect(
        "frames of other versions are refused",
        "reconcile/other-version",
        |asked, answer| {
            if asked.path == "/events/reconcile" {
                *answer.status_mut() = StatusCode::BAD_REQUEST;
            }
        },
    ),
    defect(
        "what was asked for by another is sent",
        "fetch/other-from",
        |asked, answer| {
            if asked.path == "/events/fetch" && asked.headers.contains_key("x-nara-signature") {
                *answer.status_mut() = StatusCode::OK;
            }
        },
    ),
];

fn accept_refused(answer: &mut Response<Bytes>) {
    if answer.status() == StatusCode::UNAUTHORIZED {
        *answer.status_mut() = StatusCode::OK;
    }
}

fn set(answer: &mut Response<Bytes>, name: &'static str, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn replace(answer: &mut Response<Bytes>, old: &str, new: &str) {
    if let Ok(text) = std::str::from_utf8(answer.body()) {
        let text = text.replace(old, new);
        *answer.body_mut() = text.into();
    }
}

/// Starts a proxy in front of a server. Returns its address.
pub(super) async fn proxy(target: SocketAddr, defect: &Defect) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let change = defect.change;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move {
                Ok::<_, Infallible>(forward(target, request, change).await)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

async fn forward(
    target: SocketAddr,
    request: Request<Incoming>,
    change: fn(&Asked, &mut Response<Bytes>),
) -> Response<UnsyncBoxBody<Bytes, hyper::Error>> {
    let (head, body) = request.into_parts();
    let asked = Asked {
        path: head.uri.path().to_owned(),
        headers: head.headers.clone(),
        body: body.collect().await.unwrap().to_bytes(),
    };
    let request = Request::from_parts(head, Full::new(asked.body.clone()));
    let stream = TcpStream::connect(target).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    let (mut head, body) = answer.into_parts();
    let is_stream = head
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "text/event-stream");
    if is_stream {
        return Response::from_parts(head, body.boxed_unsync());
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::TRANSFER_ENCODING);
    let mut answer = Response::from_parts(head, body.collect().await.unwrap().to_bytes());
    change(&asked, &mut answer);
    answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}
