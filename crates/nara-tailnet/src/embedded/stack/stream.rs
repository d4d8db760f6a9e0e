//! A connection of the stack that reports errors as a socket does, and its end to the tap.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ts_netstack_smoltcp::netcore::{Error, InternalErrorKind};
use ts_netstack_smoltcp::netsock::TcpStream;

use crate::embedded::tap::Tap;

/// The maximum number of bytes per write: the stack copies all of them before it takes those that fit.
pub(super) const AT_ONCE: usize = 64 * 1024;

/// A connection of the stack; see the module.
pub(super) struct Stream {
    inner: TcpStream,
    tap: Arc<Tap>,
}

impl Stream {
    pub(super) const fn new(inner: TcpStream, tap: Arc<Tap>) -> Self {
        Self { inner, tap }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tap
            .closed(&(self.inner.local_addr(), self.inner.remote_addr()));
    }
}

/// Translates "invalid state", with which the stack reports a reset connection.
fn as_socket(error: io::Error) -> io::Error {
    let is_reset = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .is_some_and(|error| *error == Error::Internal(InternalErrorKind::InvalidSocketState));
    if is_reset {
        io::ErrorKind::ConnectionReset.into()
    } else {
        error
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(AsyncRead::poll_read(Pin::new(&mut self.inner), cx, buffer)).map_err(as_socket))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let some = bytes.get(..AT_ONCE).unwrap_or(bytes);
        Poll::Ready(ready!(AsyncWrite::poll_write(Pin::new(&mut self.inner), cx, some)).map_err(as_socket))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let first = filled.next().map_or(&[][..], |slice| slice);
        if first.len() >= AT_ONCE || filled.next().is_none() {
            return self.poll_write(cx, first);
        }
        // A head and its body share a packet, and several TLS records a write.
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut gathered = Vec::with_capacity(len.min(AT_ONCE));
        for slice in slices {
            let room = AT_ONCE - gathered.len();
            gathered.extend_from_slice(slice.get(..room).unwrap_or(slice));
        }
        self.poll_write(cx, &gathered)
    }

    /// Otherwise HTTP copies a whole body behind its head before it writes the first byte.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.inner), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.inner), cx)
    }
}
