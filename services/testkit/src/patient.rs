//! Calls on a machine that may be busy: what it had no time for is asked again, as every client is told to.

use crate::LONG;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full};
use mercato_chassis::Refusal;
use mercato_contracts::methods::{self, Idempotency};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _};

/// How long to wait before a call is made again.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a call was refused only because the machine is busy, so that the same call with the same key is to be made again.
pub fn busy(status: &Status) -> bool {
    match status.code() {
        Code::DeadlineExceeded | Code::Unavailable => true,
        // a throttled login and a wrong etag have these codes as well
        Code::ResourceExhausted | Code::Aborted => {
            ["OVERLOADED", "CONFLICT", "REQUEST_IN_PROGRESS"].contains(&Refusal::of(status).reason.as_str())
        }
        _ => false,
    }
}

/// Makes a call again while the machine is too [`busy`] to answer it. The call must be one that may be repeated: with the same key, if it
/// needs one.
///
/// # Panics
/// When there is no answer within [`LONG`].
pub async fn patiently<T, R>(what: &str, mut call: impl FnMut() -> R) -> Result<T, Status>
where
    R: Future<Output = Result<T, Status>>,
{
    let end = Instant::now() + LONG;
    loop {
        match call().await {
            Err(status) if busy(&status) => {
                assert!(Instant::now() < end, "{what}: {status:?}");
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// A channel that makes reading calls and those with a key [`patiently`]; all others once.
#[derive(Debug, Clone)]
pub struct Patient {
    channel: Channel,
}

type Answer = http::Response<Body>;

impl Patient {
    /// Over this channel.
    pub fn over(channel: Channel) -> Patient {
        Patient { channel }
    }

    async fn call_again(self, request: http::Request<Body>) -> Result<Answer, Status> {
        let (head, body) = request.into_parts();
        let message = body.collect().await?.to_bytes();
        let what = head.uri.path().to_owned();
        patiently(&what, || {
            let request = http::Request::from_parts(head.clone(), Body::new(Full::new(message.clone())));
            let answer = once(self.channel.clone(), request);
            async { whole(answer.await?).await }
        })
        .await
    }
}

async fn once(mut channel: Channel, request: http::Request<Body>) -> Result<Answer, Status> {
    let answer = async { channel.ready().await?.call(request).await };
    answer.await.map_err(|error: tonic::transport::Error| Status::from_error(error.into()))
}

/// The answer as it came, if there is one to the end; the refusal of a busy machine as an error.
async fn whole(answer: Answer) -> Result<Answer, Status> {
    let (head, body) = answer.into_parts();
    let body: Collected<Bytes> = body.collect().await?;
    let refused = [Some(&head.headers), body.trailers()].into_iter().flatten().filter_map(Status::from_header_map).find(busy);
    refused.map_or_else(|| Ok(http::Response::from_parts(head, Body::new(body))), Err)
}

impl Service<http::Request<Body>> for Patient {
    type Response = Answer;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = methods::find(request.uri().path()).filter(|method| !method.server_streaming && !method.client_streaming);
        if method.is_some_and(|method| matches!(method.idempotency, Idempotency::ReadOnly | Idempotency::Key)) {
            Box::pin(self.clone().call_again(request))
        } else {
            Box::pin(once(self.channel.clone(), request))
        }
    }
}
