//! Exports spans to an OpenTelemetry collector: feature `otlp`.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context as OtelContext, ContextGuard};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::{Failure, Outcome};
use crate::panics;

/// The environment variables that name the collector.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// Time limit for exporting one batch. Meanwhile spans wait in a bounded queue; when it is full, they are
/// dropped.
const SENDING: Duration = Duration::from_secs(10);

/// Time limit for exporting the last spans at shutdown.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The most bytes of the collector's answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// The exporter, for the lifetime of the process.
static EXPORTING: OnceLock<SdkTracerProvider> = OnceLock::new();

type Layers<S> = Vec<Box<dyn Layer<S> + Send + Sync>>;

/// Returns the layers that export spans; `None` if no collector is configured.
pub(crate) fn layers<S>() -> Outcome<Option<Layers<S>>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if ENDPOINTS.iter().all(|name| std::env::var_os(name).is_none()) {
        // An empty list of layers would silence the log.
        return Ok(None);
    }
    let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Failure::usage("spans cannot be exported").caused_by(cause).hint(
            "set OTEL_EXPORTER_OTLP_ENDPOINT to the address of a collector, such as http://127.0.0.1:4318",
        )
    };
    // A separate runtime: the exporter calls the collector from its own thread, outside tokio.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("otlp")
        .enable_all()
        .build()
        .map_err(panics::refused)?;
    let sender = Sender {
        runtime: Some(runtime),
        is_failing: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(sender);
    let exporter = exporter.build().map_err(|error| unusable(error.into()))?;
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => Resource::builder().build(),
        None => Resource::builder().with_service_name("nara-mesh").build(),
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("nara-mesh");
    EXPORTING.get_or_init(|| provider);
    let exporting = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(spans());
    Ok(Some(vec![
        BeginRemote.with_filter(spans()).boxed(),
        exporting.boxed(),
        EndRemote.with_filter(spans()).boxed(),
    ]))
}

/// Exports the last spans within a time limit.
pub(crate) fn end() {
    if let Some(provider) = EXPORTING.get() {
        // The collector may be unreachable.
        let _ = provider.shutdown_with_timeout(LAST_SPANS);
    }
}

/// Selects the spans to export: incoming requests and outgoing calls.
fn spans() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    let is_ours: fn(&Metadata<'_>) -> bool =
        |metadata| metadata.is_span() && metadata.target().starts_with("nara_");
    filter_fn(is_ours).with_max_level_hint(LevelFilter::DEBUG)
}

thread_local! {
    /// The remote parent of the span that is being created.
    static REMOTE: RefCell<Option<ContextGuard>> = const { RefCell::new(None) };
}

/// Makes the trace of an incoming request the parent of its span. Runs before the exporting layer.
struct BeginRemote;

/// Ends what [`BeginRemote`] began. Runs after the exporting layer.
struct EndRemote;

impl<S: Subscriber> Layer<S> for BeginRemote {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut named = Named::default();
        attributes.record(&mut named);
        if let Some(remote) = named.context() {
            let guard = OtelContext::new().with_remote_span_context(remote).attach();
            REMOTE.set(Some(guard));
        }
    }
}

impl<S: Subscriber> Layer<S> for EndRemote {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        drop(REMOTE.take());
    }
}

/// The trace context in the fields of a span.
#[derive(Default)]
struct Named {
    trace: Option<String>,
    parent: Option<String>,
}

impl Named {
    fn context(&self) -> Option<SpanContext> {
        let trace = TraceId::from_hex(self.trace.as_deref()?).ok()?;
        let parent = SpanId::from_hex(self.parent.as_deref()?).ok()?;
        let state = TraceState::default();
        Some(SpanContext::new(trace, parent, TraceFlags::SAMPLED, true, state))
    }
}

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "trace_id" => self.trace = Some(value.to_owned()),
            "parent_id" => self.parent = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Sends batches of spans to the collector.
struct Sender {
    /// `Some` until the sender is dropped.
    runtime: Option<Runtime>,
    is_failing: AtomicBool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime inside an async context must not block.
            runtime.shutdown_background();
        }
    }
}

impl HttpClient for Sender {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let to = request.uri().clone();
        let within = async { tokio::time::timeout(SENDING, send(request)).await };
        let sending = self.runtime.as_ref().map(|runtime| runtime.spawn(within));
        Box::pin(async move {
            let outcome = match sending {
                Some(sending) => match sending.await? {
                    Ok(outcome) => outcome,
                    Err(late) => Err(late.into()),
                },
                None => Err("the program is shutting down".into()),
            };
            self.tell(&to, &outcome);
            outcome
        })
    }
}

impl Sender {
    /// Logs once that the collector rejects spans, and once that it accepts them again.
    fn tell(&self, to: &Uri, outcome: &Result<Response<Bytes>, HttpError>) {
        let fault = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("status {}", answer.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(fault.is_some(), Ordering::Relaxed);
        match fault {
            Some(fault) if !was_failing => {
                tracing::warn!("the collector at {to} does not accept spans, dropping them: {fault}");
            }
            None if was_failing => tracing::info!("the collector at {to} accepts spans again"),
            _ => {}
        }
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    if head.uri.scheme_str() != Some("http") {
        return Err("only http:// is supported: run a collector on this machine".into());
    }
    let authority = head.uri.authority().ok_or("the address has no host")?.clone();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    head.headers
        .insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse()?;
    let answer = sender
        .send_request(Request::from_parts(head, Full::new(body)))
        .await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
