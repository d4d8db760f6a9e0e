//! An in-process connection with latency, which can be cut.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
    duplex, split,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The number of bytes that a connection buffers in each direction.
const BUFFER: usize = 64 << 10;

/// The number of pieces in flight in each direction of a slow connection.
const ON_THEIR_WAY: usize = 64;

/// The maximum size of a piece in bytes.
const PIECE: usize = 4 << 10;

/// Returns both ends of a new connection; cancelling `cut` breaks it.
pub(super) fn connect(
    latency: Duration,
    rate: Option<NonZeroU32>,
    cut: &CancellationToken,
) -> (WireEnd, WireEnd) {
    let (near, mut far) = duplex(BUFFER);
    if !latency.is_zero() || rate.is_some() {
        let (other_near, other_far) = duplex(BUFFER);
        let (near_read, near_write) = split(far);
        let (far_read, far_write) = split(other_near);
        tokio::spawn(carry(near_read, far_write, latency, rate, cut.clone()));
        tokio::spawn(carry(far_read, near_write, latency, rate, cut.clone()));
        far = other_far;
    }
    let open = Arc::new(());
    (WireEnd::new(near, cut, &open), WireEnd::new(far, cut, &open))
}

/// Copies bytes from one end to the other, at this rate, each piece `latency` later.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    latency: Duration,
    rate: Option<NonZeroU32>,
    cut: CancellationToken,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(ON_THEIR_WAY);
    // Pieces of a slow connection take at most 100 ms.
    let most = rate.map_or(PIECE, |rate| PIECE.min(rate.get() as usize / 10).max(1));
    let reading = async move {
        loop {
            let mut piece = BytesMut::with_capacity(most);
            let reading = (&mut from).take(most as u64).read_buf(&mut piece).await;
            let Ok(sent @ 1..) = reading else { return };
            if let Some(rate) = rate {
                sleep(Duration::from_secs(sent as u64) / rate.get()).await;
            }
            let due = Instant::now() + latency;
            if sender.send((due, piece.freeze())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The reader at the other end sees the end as well. If this fails, it is gone already.
        let _ = to.shutdown().await;
    };
    tokio::select! {
        () = cut.cancelled() => {}
        _ = async { tokio::join!(reading, writing) } => {}
    }
}

/// One end of a connection.
pub(super) struct WireEnd {
    stream: DuplexStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Alive while at least one end is.
    open: Arc<()>,
}

impl WireEnd {
    fn new(stream: DuplexStream, cut: &CancellationToken, open: &Arc<()>) -> Self {
        Self {
            stream,
            open: open.clone(),
            cut: Box::pin(cut.clone().cancelled_owned()),
        }
    }

    /// Returns a reference that is dead when both ends are dropped.
    pub(super) fn open(&self) -> Weak<()> {
        Arc::downgrade(&self.open)
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for WireEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WireEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
