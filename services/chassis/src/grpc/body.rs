//! Bodies that keep to limits: of size, of time, and of what may go wrong in them.

use crate::{
    call::with_deadline_sync,
    error::{self, Fault},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::{
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};
use tracing::Span;

/// The bytes before each message of gRPC.
pub const FRAME_HEADER: usize = 5;

/// The code that headers or trailers tell.
pub fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// A request body of one message that must not be larger than a limit.
pub struct Limited {
    inner: Body,
    left: usize,
    limit: usize,
}

impl Limited {
    /// Lets a message of `limit` bytes pass.
    pub fn wrap(inner: Body, limit: usize) -> Body {
        Body::new(Self { inner, left: limit + FRAME_HEADER, limit })
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(size) = frame.as_ref().and_then(|f| f.as_ref().ok()).and_then(|f| f.data_ref()).map(Bytes::len) {
            match self.left.checked_sub(size) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(too_large(self.limit)))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn too_large(limit: usize) -> Status {
    use tonic_types::{ErrorDetails, StatusExt as _};
    let details = ErrorDetails::with_error_info("REQUEST_INVALID", error::DOMAIN, [("limit_bytes".to_owned(), limit.to_string())]);
    let mut status = Status::with_error_details(Code::InvalidArgument, format!("the request is larger than {limit} bytes"), details);
    status.metadata_mut().insert(error::HTTP_CODE, tonic::metadata::MetadataValue::from_static("413"));
    status
}

/// What happens when a guarded body has ended, with the code it ended with and the trailers that told it, if any did.
pub type OnEnd = Box<dyn FnOnce(Code, Option<&HeaderMap>) + Send>;

/// A response body that ends at its deadline, survives a panic, and tells how it ended.
pub struct Guarded {
    inner: Body,
    deadline: Instant,
    sleep: Pin<Box<Sleep>>,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    span: Span,
    on_end: Option<OnEnd>,
    ended: bool,
}

impl Guarded {
    /// Guards `inner`. A body that is dropped before its end has ended with CANCELLED.
    pub fn wrap(inner: Body, deadline: Instant, span: Span, on_end: OnEnd) -> Body {
        let sleep = Box::pin(sleep_until(deadline));
        Body::new(Self { inner, deadline, sleep, stop: None, span, on_end: Some(on_end), ended: false })
    }

    /// A body that ends when the process stops; for streams that have no deadline.
    pub fn until(inner: Body, stop: CancellationToken) -> Body {
        let deadline = Instant::now() + std::time::Duration::from_secs(24 * 3600);
        let sleep = Box::pin(sleep_until(deadline));
        let stop = Some(Box::pin(stop.cancelled_owned()));
        Body::new(Self { inner, deadline, sleep, stop, span: Span::none(), on_end: None, ended: false })
    }

    fn end(&mut self, code: Code, trailers: Option<&HeaderMap>) {
        self.ended = true;
        if let Some(on_end) = self.on_end.take() {
            on_end(code, trailers);
        }
    }

    fn fail(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
        }
        self.end(status.code(), Some(&trailers));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let span = this.span.clone();
        let _entered = span.enter();
        let inner = &mut this.inner;
        let polled = catch_unwind(AssertUnwindSafe(|| with_deadline_sync(this.deadline, || Pin::new(inner).poll_frame(cx))));
        match polled {
            Err(_) => this.fail(&error::status(Fault::Internal("a stream panicked".into()))),
            Ok(Poll::Ready(frame)) => {
                match &frame {
                    None => this.end(Code::Ok, None),
                    Some(Err(status)) => this.end(status.code(), Some(status.metadata().as_ref())),
                    Some(Ok(frame)) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            this.end(code(trailers).unwrap_or(Code::Unknown), Some(trailers));
                        }
                    }
                }
                Poll::Ready(frame)
            }
            Ok(Poll::Pending) if this.sleep.as_mut().poll(cx).is_ready() => this.fail(&error::status(Fault::DeadlineExceeded)),
            Ok(Poll::Pending) => {
                let stopped = this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready());
                if stopped { this.fail(&Status::unavailable("the process stops")) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // A body without frames is never polled; its code is in the headers, and its owner knows it.
        let code = if self.inner.is_end_stream() { Code::Ok } else { Code::Cancelled };
        self.end(code, None);
    }
}
