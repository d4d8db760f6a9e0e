//! The distributed trace of the work on a request: see [`TraceParent`].

use http::HeaderMap;
use nara_proto::trace_context::{TRACEPARENT, TRACESTATE, TraceParent};
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    /// The trace headers of the request that this task handles.
    static CURRENT: HeaderMap;
}

/// Handles a request of a trace: calls to peers meanwhile, on the same task, belong to it.
#[cfg_attr(
    not(feature = "server"),
    expect(dead_code, reason = "requests come in at a server")
)]
pub(crate) fn within<F: Future>(headers: &HeaderMap, work: F) -> TaskLocalFuture<HeaderMap, F> {
    let of_trace = [TRACEPARENT, TRACESTATE];
    let values = of_trace
        .into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    CURRENT.scope(values.collect(), work)
}

/// Adds the current trace to a request, unless it has its own.
pub(crate) fn continue_in(headers: &mut HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    let _ = CURRENT.try_with(|current| headers.extend(current.clone()));
}

/// Extracts and validates the trace of a caller.
pub(crate) fn take_in(headers: &mut HeaderMap) -> Option<TraceParent> {
    // Most requests have none.
    if !headers.contains_key(TRACEPARENT) && !headers.contains_key(TRACESTATE) {
        return None;
    }
    TraceParent::take_in(headers)
}
