//! Closes idle connections.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::transport::BoxMeshStream;

/// The state of a connection, and its start time.
///
/// hyper has one timer for idle connections and for slow headers; a mesh keeps connections open much longer than it
/// waits for the rest of a header, so this distinguishes the two by watching the bytes.
#[derive(Debug)]
pub(in crate::server) struct Watch {
    state: Mutex<State>,
    header_read: Duration,
    idle: Duration,
    /// Notified when a deadline moves forward.
    sooner: Notify,
}

/// The minimum time for reading an answer.
pub(in crate::server) const LEAST_TIME_TO_READ: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Whether bytes moved after `since`.
    moved: bool,
    /// The deadline for reading the answer that is being written.
    answer_by: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A header has begun and is not complete.
    Header,
    /// Between requests, or while an answer is being written. `since` is the time of the last progress.
    Idle,
    /// A handler is running; its own limits apply.
    Request,
}

/// The reason why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Expired {
    /// The header of a request took too long.
    Header,
    /// No request arrived, or no byte of the answer was read.
    Idle,
    /// The answer was not read in time.
    Answer,
}

/// Limits the time for reading an answer until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct ReadInTime(Arc<Watch>);

impl Drop for ReadInTime {
    fn drop(&mut self) {
        self.0.state().answer_by = None;
    }
}

impl Watch {
    pub(in crate::server) fn new(header_read: Duration, idle: Duration) -> Arc<Self> {
        let state = State {
            phase: Phase::Idle,
            since: Instant::now(),
            moved: false,
            answer_by: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            header_read,
            idle,
            sooner: Notify::new(),
        })
    }

    /// Records the start of a handler.
    pub(in crate::server) fn request_began(&self) {
        self.enter(Phase::Request);
    }

    /// Records the end of a handler.
    pub(in crate::server) fn request_ended(&self) {
        self.enter(Phase::Idle);
    }

    /// Gives the peer this time to read the answer, at least [`LEAST_TIME_TO_READ`].
    pub(in crate::server) fn read_within(self: &Arc<Self>, time: Duration) -> ReadInTime {
        self.state().answer_by = Some(Instant::now() + time.max(LEAST_TIME_TO_READ));
        ReadInTime(self.clone())
    }

    /// Aborts the answer that is being written, and its connection.
    pub(in crate::server) fn cut_off(&self) {
        self.state().answer_by = Some(Instant::now());
        self.sooner.notify_one();
    }

    /// Waits until the connection must be closed.
    pub(in crate::server) async fn expired(&self) -> Expired {
        loop {
            let State {
                phase,
                since,
                answer_by,
                ..
            } = *self.state();
            let now = Instant::now();
            let of_phase = match phase {
                Phase::Header => Some((since + self.header_read, Expired::Header)),
                Phase::Idle => Some((since + self.idle, Expired::Idle)),
                Phase::Request => None,
            };
            let of_answer = answer_by.map(|at| (at, Expired::Answer));
            let deadlines = of_phase.into_iter().chain(of_answer);
            // A later state cannot expire before the next check.
            let recheck = now + self.header_read.min(LEAST_TIME_TO_READ);
            match deadlines.min_by_key(|(at, _)| *at) {
                Some((at, why)) if at <= now => return why,
                Some((at, _)) => self.sleep_until(at.min(recheck)).await,
                None => self.sleep_until(recheck).await,
            }
        }
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::select! {
            () = sleep_until(at) => {}
            () = self.sooner.notified() => {}
        }
    }

    /// Records the time of the activity since the last call. The poller of the connection calls it afterwards, so that
    /// a request that is read and answered at once reads the clock once.
    pub(in crate::server) fn settle(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.moved) {
            state.since = Instant::now();
        }
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state();
        (state.phase, state.moved) = (phase, true);
    }

    fn read_some(&self) {
        let mut state = self.state();
        if state.phase == Phase::Idle {
            (state.phase, state.moved) = (Phase::Header, true);
        }
    }

    fn wrote_some(&self) {
        let mut state = self.state();
        state.moved |= state.phase == Phase::Idle;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A plain value is valid even if a thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that notifies its [`Watch`] when bytes move.
pub(in crate::server) struct WatchedStream {
    stream: BoxMeshStream,
    watch: Arc<Watch>,
}

impl WatchedStream {
    pub(in crate::server) fn new(stream: BoxMeshStream, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.read_some();
        }
        outcome
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = outcome {
            self.watch.wrote_some();
        }
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(1..)) = outcome {
            self.watch.wrote_some();
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
