//! The distributed trace to which the work on a request belongs: see [`TraceParent`].

use http::HeaderMap;
use nara_proto::trace_context::{TRACEPARENT, TRACESTATE, TraceParent};
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    /// The headers of the trace of the request that this task works on.
    static CURRENT: HeaderMap;
}

/// Works on a request of a trace: what is called meanwhile, on the same task, belongs to it.
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

/// Makes a request part of the trace of the request that this task works on, unless it belongs to one.
pub(crate) fn continue_in(headers: &mut HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    let _ = CURRENT.try_with(|current| headers.extend(current.clone()));
}

/// Checks the trace that a caller has named.
pub(crate) fn take_in(headers: &mut HeaderMap) -> Option<TraceParent> {
    // Most requests have none.
    if !headers.contains_key(TRACEPARENT) && !headers.contains_key(TRACESTATE) {
        return None;
    }
    TraceParent::take_in(headers)
}
