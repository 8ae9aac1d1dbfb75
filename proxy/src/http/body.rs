//! Bodies as they pass: counted, never buffered, and cut where they may no longer pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::HeaderMap;
use pillion_mesh::reason::Reason;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::headers::strip_trailers;
use super::record::Recording;

/// How long a client that asks first (`Expect: 100-continue`) is held back for the other side's word; then its body goes
/// on without (RFC 9110 10.1.1).
const WORD: Duration = Duration::from_secs(1);

/// The body of a request on its way to the other side.
pub(crate) struct RequestBody {
    inner: Incoming,
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    cut: Option<Cut>,
    count: Arc<AtomicU64>,
}

/// Says why a body must end.
type Cut = Pin<Box<dyn Future<Output = String> + Send>>;

impl RequestBody {
    /// `count` counts its bytes.
    pub(super) fn new(inner: Incoming, count: Arc<AtomicU64>) -> Self {
        Self { inner, held: None, cut: None, count }
    }

    /// Ends when `cut` does, also behind the answer, which need not wait for the body's end.
    pub(super) fn until(self, cut: impl Future<Output = String> + Send + 'static) -> Self {
        Self { cut: Some(Box::pin(cut)), ..self }
    }

    /// Is not asked for before `word` was given, or a moment has passed: hyper tells the client to go on when it is.
    pub(super) fn held_until(self, word: CancellationToken) -> Self {
        let held = async move {
            let _ = timeout(WORD, word.cancelled_owned()).await;
        };
        Self { held: Some(Box::pin(held)), ..self }
    }
}

impl RequestBody {
    fn passed(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => {
                let data = frame.data_ref().map_or(0, Bytes::len);
                self.count.fetch_add(data as u64, Ordering::Relaxed);
                frame
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(cut) = &mut self.cut
            && let Poll::Ready(because) = cut.as_mut().poll(cx)
        {
            self.cut = None;
            return Poll::Ready(Some(Err(because.into())));
        }
        if let Some(held) = &mut self.held {
            ready!(held.as_mut().poll(cx));
            self.held = None;
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(self.passed(frame?))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer on its way to the client.
pub(super) enum AnswerBody {
    /// Of our own.
    Own(Full<Bytes>),
    /// Of the other side.
    Passed(Box<Passed>),
}

/// An answer that passes. Its request is recorded when it ends, however it does.
pub(super) struct Passed {
    inner: Incoming,
    cut: Option<Cut>,
    recording: Option<Recording>,
}

/// A body that did not come to its end.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl AnswerBody {
    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        Self::Own(Full::new(text.into()))
    }

    pub(super) fn passed(
        inner: Incoming,
        cut: impl Future<Output = String> + Send + 'static,
        recording: Recording,
    ) -> Self {
        Self::Passed(Box::new(Passed { inner, cut: Some(Box::pin(cut)), recording: Some(recording) }))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            AnswerBody::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            AnswerBody::Passed(passed) => passed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Own(body) => body.is_end_stream(),
            AnswerBody::Passed(passed) => passed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Own(body) => body.size_hint(),
            AnswerBody::Passed(passed) => passed.inner.size_hint(),
        }
    }
}

impl Passed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(cut) = &mut self.cut
            && let Poll::Ready(because) = cut.as_mut().poll(cx)
        {
            self.cut = None;
            self.end(Reason::PolicyChanged, Some(because.clone()));
            return Poll::Ready(Some(Err(because.into())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.note(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.end(Reason::ServerReset, Some(format!("the answer broke off: {error}")));
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.end(Reason::Completed, None);
                Poll::Ready(None)
            }
        }
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(recording) = &mut self.recording else { return };
        if let Some(data) = frame.data_ref() {
            recording.answered_bytes(data.len());
        }
        if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
            recording.grpc_status(status);
        }
    }

    fn end(&mut self, reason: Reason, detail: Option<String>) {
        if let Some(mut recording) = self.recording.take() {
            recording.finish(reason, detail);
        }
    }
}

/// hyper does not ask for the end of a body that it knows to be at its end.
impl Drop for Passed {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.end(Reason::Completed, None);
        }
    }
}

/// `grpc-status` of trailers, or of a head without a body.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
