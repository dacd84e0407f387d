//! HTTP/1.1 over a kept connection, with as little as possible between the measurement and the wire.

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;
use uuid::Uuid;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a request that is refused for coming too fast is sent again.
const TRIES: u32 = 20;

/// One connection; opened anew when the server has closed it.
pub struct Connection {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, read to its end.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// How long to wait before asking again, where the server says so.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// The body as JSON of a good answer.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        anyhow::ensure!(self.status.is_success(), "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(|| format!("unexpected answer {}", self.text()))
    }

    /// The beginning of the body.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }
}

/// A request before it is sent.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    method: Method,
    path: &'a str,
    token: Option<&'a str>,
    key: Option<Uuid>,
    body: Bytes,
}

impl<'a> Ask<'a> {
    /// Reads.
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, token: None, key: None, body: Bytes::new() }
    }

    /// Changes something, under a fresh idempotency key.
    pub fn change(method: Method, path: &'a str, body: impl Into<Bytes>) -> Self {
        Self { method, path, token: None, key: Some(Uuid::now_v7()), body: body.into() }
    }

    /// As the holder of this token.
    pub fn by(mut self, token: &'a str) -> Self {
        self.token = Some(token);
        self
    }
}

impl Connection {
    /// A connection to the host of `http://host:port`, opened with the first request.
    pub fn to(url: &str) -> Self {
        Self { address: url.trim_start_matches("http://").trim_end_matches('/').to_owned(), sender: None }
    }

    /// Sends a request and reads its answer.
    pub async fn send(&mut self, ask: &Ask<'_>) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.path).header(HOST, &self.address);
        if let Some(token) = ask.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = ask.key {
            request = request.header("idempotency-key", key.to_string());
        }
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(ask.body.clone()))?;
        let answer = tokio::time::timeout(PATIENCE, self.exchange(request)).await.context("no answer in time").and_then(|a| a);
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    /// Sends a request until it is no longer refused for coming too fast.
    pub async fn send_patiently(&mut self, ask: &Ask<'_>) -> anyhow::Result<Answer> {
        for _ in 0..TRIES {
            let answer = self.send(ask).await?;
            if answer.status != StatusCode::TOO_MANY_REQUESTS {
                return Ok(answer);
            }
            tokio::time::sleep(answer.retry_after.unwrap_or(Duration::from_secs(1))).await;
        }
        anyhow::bail!("{} {} is refused for coming too fast, {TRIES} times", ask.method, ask.path)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(self.open().await?);
        }
        let sender = self.sender.as_mut().context("no connection")?;
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        Ok(Answer { status: head.status, body: body.collect().await?.to_bytes(), retry_after })
    }

    async fn open(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("cannot reach {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // its failure is also the failure of the request under way
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}
