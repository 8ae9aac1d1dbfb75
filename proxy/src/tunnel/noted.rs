//! A socket under HTTP/2 that keeps why it broke: h2 keeps the words alone, and no alert of TLS can be told by these.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use pillion_mesh::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::moved::Side;
use crate::net::relay::{End, end_of};

/// Why a tunnel's socket broke, where it did. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<OnceLock<(Reason, Option<String>)>>);

impl Fault {
    /// As the end of a connection.
    pub(super) fn end(&self) -> Option<End> {
        self.0.get().map(|(reason, detail)| End { reason: *reason, detail: detail.clone() })
    }
}

/// Passes everything on, and notes the first fault.
#[derive(Debug)]
pub(super) struct Noted<S> {
    inner: S,
    fault: Fault,
}

impl<S> Noted<S> {
    pub(super) fn new(inner: S, fault: Fault) -> Self {
        Self { inner, fault }
    }

    fn note<T>(&self, polled: Poll<io::Result<T>>, reading: bool) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            let End { reason, detail } = end_of(Side::Server, error, reading);
            _ = self.fault.0.set((reason, detail));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.note(polled, true)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(polled, false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note(polled, false)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(polled, false)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
