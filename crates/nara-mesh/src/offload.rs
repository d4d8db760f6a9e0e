//! Work that would block a thread of the runtime, and work that must not be cancelled half-way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::TryFutureExt as _;
use futures_util::future::{BoxFuture, Either};
use nara_proto::event::SyncEvent;
use tokio::runtime::Handle;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::erased::{Erased, typed};

/// The maximum number of signatures that are verified on the runtime's thread. One takes some 50 µs, and up to a
/// millisecond for an event of maximum size; moving the work to another thread takes 10 µs.
const SIGNATURES_VERIFIED_HERE: usize = 4;

/// Returns whether verifying these events takes long: a checkpoint has a signature of each voter.
pub(crate) fn are_many(events: &[SyncEvent]) -> bool {
    let signatures = |event: &SyncEvent| {
        let voters = event
            .checkpoint
            .as_deref()
            .and_then(|payload| payload.signatures.as_ref());
        voters.map_or(0, Vec::len).max(1)
    };
    events.iter().map(signatures).sum::<usize>() > SIGNATURES_VERIFIED_HERE
}

/// Runs `work` on a blocking thread. Its types are erased, because the runtime compiles each kind of task, 2 kB.
pub(crate) fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send + Unpin {
    let work: Box<dyn FnOnce() -> Erased + Send> = Box::new(|| Box::new(work()));
    spawn_blocking(work).map_ok(typed)
}

/// Runs `work` inline if it is small, otherwise on a blocking thread. It starts with the call, not with the first poll:
/// small work is done when this function returns.
pub(crate) fn offload<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send {
    // Started here, so that the future holds the result and not the work.
    let work = if large {
        Either::Right(on_blocking_thread(work))
    } else {
        Either::Left(work())
    };
    async move {
        match work {
            Either::Left(done) => done,
            Either::Right(elsewhere) => match elsewhere.await {
                Ok(done) => done,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is shutting down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Waits for a future that is nearly always ready, or until a time. For a ready future it neither reads the clock nor
/// creates a timer.
///
/// # Errors
/// [`Elapsed`], like [`timeout_at`].
pub(crate) async fn promptly<F: Future + Unpin>(
    mut future: F,
    by: impl FnOnce() -> Instant,
) -> Result<F::Output, Elapsed> {
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await {
        return Ok(done);
    }
    timeout_at(by(), future).await
}

/// Runs `work` to its end, even if its future is dropped, and holds `held` until then. It becomes a separate task only
/// then, because most work is awaited.
pub(crate) fn to_its_end<T, H>(work: BoxFuture<'static, T>, held: H) -> ToItsEnd<T, H>
where
    T: Send + 'static,
    H: Send + Unpin + 'static,
{
    ToItsEnd(Some((work, held)))
}

/// The future of [`to_its_end`]. Dropped before its end, it continues in the background.
pub(crate) struct ToItsEnd<T: Send + 'static, H: Send + 'static>(Option<(BoxFuture<'static, T>, H)>);

impl<T: Send + 'static, H: Send + Unpin + 'static> Future for ToItsEnd<T, H> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Work that panicked is not put back: there is nothing left to do.
        let (mut work, held) = self.0.take().expect("it is not asked again after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some((work, held));
        }
        polled
    }
}

impl<T: Send + 'static, H: Send + 'static> Drop for ToItsEnd<T, H> {
    fn drop(&mut self) {
        // Without a runtime, the work ends here.
        if let (Some((work, held)), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            let rest = async move {
                work.await;
                drop(held);
            };
            runtime.spawn(rest.in_current_span());
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::event::{CheckpointPayload, Payload, SeenPayload};
    use nara_proto::time::UnixNanos;

    use super::*;

    #[test]
    fn every_voter_of_a_checkpoint_is_a_signature_to_verify() {
        let checkpoint = |voters| {
            let payload = CheckpointPayload {
                signatures: Some(vec![String::new(); voters]),
                ..CheckpointPayload::default()
            };
            SyncEvent::new(UnixNanos::new(1), Payload::Checkpoint(payload))
        };
        let seen = SyncEvent::new(UnixNanos::new(1), Payload::Seen(SeenPayload::default()));
        assert!(!are_many(&[checkpoint(4)]));
        assert!(are_many(&[checkpoint(5)]));
        assert!(are_many(&[checkpoint(4), seen.clone()]));
        assert!(!are_many(&[(); 4].map(|()| seen.clone())));
        assert!(are_many(&[(); 5].map(|()| seen.clone())));
    }
}
