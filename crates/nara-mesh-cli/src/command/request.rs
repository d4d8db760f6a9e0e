//! `request`: sends one signed request of any kind to a peer, and prints its verified answer.

mod proof;
mod stream;

use std::collections::BTreeMap;

use std::fs::File;
use std::io::{self, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use nara_local_api::client::CallError;
use nara_mesh::Coverage;
use nara_mesh::client::{BodyProof, ClientErrorKind, Verification};
use nara_proto::trace_context::{InvalidTraceParent, TRACEPARENT, TRACESTATE, TraceParent};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::RequestArgs;
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless, stdout_bytes};
use crate::running;
use crate::settings::Settings;

/// The largest body that is sent as a whole, in bytes: the limit that naras buffer.
const MOST: usize = 16 << 20;

pub(super) fn run(args: &RequestArgs, settings: &Settings, printer: Printer) -> Outcome {
    if args.stream {
        return stream::run(args, settings, printer);
    }
    let body = args.data.as_deref().map(data).transpose()?.unwrap_or_default();
    let (request, trace) = build(args, Bytes::from(body))?;
    let (answer, verification) = match running::find(&args.running, settings)? {
        Some(nara) => {
            let peer = args.peer.to_string();
            let mut answer = block_on(async {
                nara.request_peer(&peer, request).await.map_err(|error| {
                    let kind = ClientErrorKind::TooLarge.as_str();
                    let is_too_large =
                        matches!(&error, CallError::Problem(problem) if problem.name() == kind);
                    advised(is_too_large, error)
                })
            })?;
            let verification = proof::told(answer.headers_mut());
            (answer, verification)
        }
        None => {
            let client = connect::client(running::instead(&args.running, settings, None)?, settings)?;
            let request = request.map(http_body_util::Full::new);
            let answer = connect::block_on_keeping(&client, settings, async {
                client
                    .request(&args.peer, request)
                    .await
                    .map_err(|error| advised(error.kind() == ClientErrorKind::TooLarge, error))
            });
            answer?.into_parts()
        }
    };
    show(args, answer, &verification, trace, printer)
}

/// The hint for a body that is too large to buffer.
const ADVICE: &str = "pass --stream to send and print bodies of any size";

/// The failure of a request; has the hint [`ADVICE`] if the answer is too large to buffer.
fn advised(is_too_large: bool, failure: impl Into<Failure>) -> Failure {
    let failure = failure.into();
    if is_too_large {
        failure.hint(ADVICE)
    } else {
        failure
    }
}

fn show(
    args: &RequestArgs,
    answer: Response<Bytes>,
    verification: &Verification,
    trace: TraceParent,
    printer: Printer,
) -> Outcome {
    let (head, body) = answer.into_parts();
    show_head(args, &head, verification, trace, printer)?;
    if printer.is_json() {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.to_string()).or_default().push(value);
        }
        let text = std::str::from_utf8(&body).ok();
        printer.json(Printed {
            peer: args.peer.to_string(),
            status: head.status.as_u16(),
            headers,
            body: text.map(str::to_owned),
            body_base64: text.is_none().then(|| STANDARD.encode(&body)),
            verification: proven(verification),
            traceparent: trace.to_string(),
        })?;
    } else {
        stdout_bytes(&body)?;
    }
    Ok(exit_of(head.status))
}

/// Prints status, headers and proof before the body, as far as requested.
fn show_head(
    args: &RequestArgs,
    head: &Parts,
    verification: &Verification,
    trace: TraceParent,
    printer: Printer,
) -> Outcome<()> {
    if args.include {
        printer.line(format_args!("HTTP/1.1 {}", head.status))?;
        for (name, value) in &head.headers {
            printer.line(format_args!(
                "{name}: {}",
                String::from_utf8_lossy(value.as_bytes())
            ))?;
        }
        printer.line("")?;
    }
    if args.include || args.explain {
        printer.note(format_args!(
            "trace     {} (in the logs of both naras)",
            trace.trace_id()
        ));
    }
    if args.explain {
        for line in explain(verification) {
            printer.note(line);
        }
    } else if let Some(gap) = gap(verification) {
        printer.warn(gap);
    }
    if head.status.is_redirection() && !args.include {
        let to = head.headers.get(http::header::LOCATION);
        let to = to.map(|to| format!(" to {}", harmless(&String::from_utf8_lossy(to.as_bytes()))));
        printer.note(format_args!(
            "the answer is {}{}; redirects are not followed",
            head.status,
            to.unwrap_or_default()
        ));
    }
    Ok(())
}

/// Returns the exit code for a status.
fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Unauthenticated,
        status if status.is_client_error() || status.is_server_error() => Exit::Failed,
        _ => Exit::Ok,
    }
}

/// Builds the request and its trace context: from the header, from the environment, or a new one.
fn build<B>(args: &RequestArgs, body: B) -> Outcome<(Request<B>, TraceParent)> {
    let mut request = Request::builder()
        .method(args.method.clone())
        .uri(args.path.as_str());
    for (name, value) in &args.headers {
        request = request.header(name, value);
    }
    if !args.path.starts_with('/') {
        return Err(Failure::usage(format!(
            "{:?} is not a path: it must begin with /",
            args.path
        )));
    }
    let mut request = request
        .body(body)
        .map_err(|error| Failure::usage(format!("the request is malformed: {error}")))?;
    let trace = trace_of(request.headers_mut())?;
    Ok((request, trace))
}

fn trace_of(headers: &mut HeaderMap) -> Outcome<TraceParent> {
    if headers.contains_key(TRACEPARENT) {
        return TraceParent::take_in(headers).ok_or_else(|| {
            Failure::usage(format!("--header traceparent: {InvalidTraceParent}"))
                .hint("omit it to have one generated")
        });
    }
    // A convention of programs that start others. Invalid values are ignored, as in a header.
    for (name, variable) in [(TRACEPARENT, "TRACEPARENT"), (TRACESTATE, "TRACESTATE")] {
        let value = std::env::var(variable).ok();
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    if let Some(given) = TraceParent::take_in(headers) {
        return Ok(given);
    }
    let (mut trace_id, mut parent_id) = ([0; 16], [0; 8]);
    let drawn = getrandom::fill(&mut trace_id).and_then(|()| getrandom::fill(&mut parent_id));
    let drawn = drawn.ok().and_then(|()| TraceParent::new(trace_id, parent_id));
    let new = drawn.ok_or_else(|| Failure::failed("the operating system provides no random bytes"))?;
    new.write_to(headers);
    Ok(new)
}

/// Reads the body of an argument: the text itself, `@FILE`, or `-` (curl's `@-` too) for stdin.
fn data(text: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MOST as u64 + 1;
    let read = reader(text)?.take(most).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(text, error))?;
    if bytes.len() > MOST {
        let message =
            format!("the body is larger than {MOST} bytes, the most for a request without --stream");
        return Err(Failure::usage(message).hint(ADVICE));
    }
    Ok(bytes)
}

/// Opens the body of an argument for reading.
fn reader(text: &str) -> Outcome<Box<dyn io::Read + Send>> {
    Ok(match text.strip_prefix('@') {
        _ if matches!(text, "-" | "@-") => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).map_err(|error| unreadable(text, error))?),
        None => Box::new(io::Cursor::new(text.to_owned())),
    })
}

fn unreadable(text: &str, error: io::Error) -> Failure {
    Failure::usage(format!("--data {text} cannot be read")).caused_by(error)
}

/// Describes what is not proven, if that deserves a warning.
fn gap(verification: &Verification) -> Option<&'static str> {
    match (verification.request, verification.body) {
        (Some(Coverage::MethodAndPath), _) => Some(
            "the peer could verify method and path only: query, headers and body may have been changed in transit",
        ),
        (_, BodyProof::None) => Some("the body of the answer is not proven"),
        (_, BodyProof::HeadOnly) => Some("the head of the answer is proven, its body is not"),
        _ => None,
    }
}

fn explain(verification: &Verification) -> Vec<String> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let request = match verification.request {
        None => "unknown",
        Some(Coverage::MethodAndPath) => "method and path (a signature of profile v1)",
        Some(Coverage::Head) => "method, path and query, not the body (a signature over a streamed body)",
        Some(Coverage::Whole) => "method, path, query and body (a signature of profile v2)",
        Some(Coverage::Channel) => "all of it (a TLS connection to the holder of the key)",
        Some(_) => "some of it",
    };
    let body = match verification.body {
        BodyProof::None => "not proven",
        BodyProof::HeadOnly => "not proven; its head is signed",
        BodyProof::AtEnd => "a signed digest, compared at its end",
        BodyProof::Channel => "a TLS connection to the holder of the key",
        BodyProof::Whole => "a signature over all of it",
        _ => "proven",
    };
    vec![
        format!("request   the peer could verify: {request}"),
        format!(
            "answer    from {}",
            or_unknown(verification.responder.as_ref().map(ToString::to_string))
        ),
        format!(
            "key       {}",
            or_unknown(verification.key.as_ref().map(ToString::to_string))
        ),
        format!(
            "learned   {}",
            or_unknown(verification.key_source.as_ref().map(ToString::to_string))
        ),
        format!("body      {body}"),
        format!(
            "bound     {}",
            if verification.bound {
                "to this request"
            } else {
                "no"
            }
        ),
    ]
}

fn proven(verification: &Verification) -> Proven {
    Proven {
        responder: verification.responder.as_ref().map(ToString::to_string),
        public_key: verification.key.as_ref().map(ToString::to_string),
        key_source: verification.key_source.as_ref().map(ToString::to_string),
        signed_at_ms: verification.signed_at.map(|at| at.get()),
        bound: verification.bound,
        channel: verification.channel,
        body: format!("{:?}", verification.body),
        request: verification.request.map(|coverage| format!("{coverage:?}")),
    }
}

/// The output of `request`. The body is text, else Base64.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    peer: String,
    status: u16,
    headers: BTreeMap<String, Vec<String>>,
    body: Option<String>,
    body_base64: Option<String>,
    verification: Proven,
    /// The trace to which the request belongs (W3C Trace Context).
    traceparent: String,
}

/// What the signatures prove about an answer.
#[derive(Serialize, ToSchema)]
struct Proven {
    responder: Option<String>,
    public_key: Option<String>,
    key_source: Option<String>,
    signed_at_ms: Option<i64>,
    bound: bool,
    channel: bool,
    body: String,
    /// What the peer could verify of the request.
    request: Option<String>,
}
