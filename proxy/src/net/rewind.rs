//! A stream whose first bytes were read already and are read again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives back `prefix`, then what `inner` has. Writing goes straight through.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    prefix: Vec<u8>,
    given: usize,
    inner: S,
}

impl<S> Rewound<S> {
    pub(crate) fn new(prefix: Vec<u8>, inner: S) -> Self {
        Self { prefix, given: 0, inner }
    }

    /// Whether bytes are left that are read again.
    pub(crate) fn is_rewound(&self) -> bool {
        !self.prefix.is_empty()
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.prefix.get(self.given..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.given += count;
        if self.given == self.prefix.len() {
            self.prefix = Vec::new(); // its memory is not kept for the life of the connection
            self.given = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    proptest! {
        /// Requirement 22: bytes that were looked at are never lost, doubled or reordered, whatever the reader's
        /// buffer size.
        #[test]
        fn req_22_the_reader_gets_prefix_and_rest_in_order(
            prefix in prop::collection::vec(any::<u8>(), 0..300),
            rest in prop::collection::vec(any::<u8>(), 0..300),
            step in 1usize..50,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut stream = Rewound::new(prefix.clone(), io::Cursor::new(rest.clone()));
                let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
                loop {
                    let count = stream.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return all;
                    }
                    all.extend_from_slice(&buffer[..count]);
                }
            });
            prop_assert_eq!(read, [prefix, rest].concat());
        }
    }
}
