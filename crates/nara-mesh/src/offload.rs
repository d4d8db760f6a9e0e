//! Work that would keep a thread of the runtime from serving others, and work that must not be left half-way.

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Up to this many events are verified on the thread of the runtime. One takes some 50 µs, and up to a millisecond if it
/// is as large as an event may be; to move the work elsewhere takes 10 µs.
pub(crate) const EVENTS_VERIFIED_HERE: usize = 4;

/// Runs `work` here if it is small, else on a thread where it delays nobody.
pub(crate) async fn offload<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !large {
        return work();
    }
    joined(tokio::task::spawn_blocking(work)).await
}

/// Runs `work` to its end, also if nobody waits for it any more: what it holds is held as long as it takes.
pub(crate) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(work.in_current_span())).await
}

async fn joined<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
