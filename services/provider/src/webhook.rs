//! Webhooks: signed hints that something happened. They are lost when the provider dies; nobody may depend on them.

use anyhow::Context;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use sha2::Sha256;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

/// Where webhooks go and what signs them.
#[derive(Clone)]
pub struct Target {
    /// The full URL.
    pub url: String,
    /// The shared secret.
    pub secret: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The value of the header `x-signature`: `t=<unix>,v1=<hex hmac-sha256(secret, t + "." + body)>`.
pub fn sign(secret: &str, unix: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("hmac takes keys of any length");
    mac.update(unix.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={unix},v1={hex}")
}

/// Queues webhooks; a full queue drops them.
#[derive(Debug, Clone)]
pub struct Sender(Option<mpsc::Sender<Vec<u8>>>);

const PAUSES: [Duration; 4] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];
const AT_ONCE: usize = 32;
/// The rest of a larger answer is not read, which costs its connection.
const LARGEST: usize = 64 * 1024;

impl Sender {
    /// Starts sending to the target; without one nothing is ever sent.
    pub fn spawn(target: Option<Target>) -> anyhow::Result<Self> {
        let Some(target) = target else { return Ok(Self(None)) };
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().context("http client")?;
        let (queue, bodies) = mpsc::channel(10_000);
        tokio::spawn(dispatch(client, Arc::new(target), bodies));
        Ok(Self(Some(queue)))
    }

    /// Sends `{eventId, type, reference}` soon; twice with the same id when `twice`.
    pub fn send(&self, kind: &str, reference: &str, twice: bool) {
        let Some(queue) = &self.0 else { return };
        let body = json!({"eventId": Uuid::now_v7(), "type": format!("payment.{kind}"), "reference": reference}).to_string().into_bytes();
        for _ in 0..if twice { 2 } else { 1 } {
            if queue.try_send(body.clone()).is_err() {
                tracing::warn!(reference, "the webhook queue is full; dropped");
            }
        }
    }
}

async fn dispatch(client: reqwest::Client, target: Arc<Target>, mut bodies: mpsc::Receiver<Vec<u8>>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(body) = bodies.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (client, target) = (client.clone(), target.clone());
        tokio::spawn(async move {
            deliver(&client, &target, body).await;
            drop(slot);
        });
    }
}

/// Any answer but 429 and 5xx ends the tries: a refusal will not change. A connection whose answer is not read to its end cannot be used
/// again, so it is.
async fn deliver(client: &reqwest::Client, target: &Target, body: Vec<u8>) {
    for pause in PAUSES {
        let signature = sign(&target.secret, OffsetDateTime::now_utc().unix_timestamp(), &body);
        let request = client.post(&target.url).header("content-type", "application/json").header("x-signature", signature);
        match answered(request.body(body.clone())).await {
            Ok(status) if status.is_success() => return,
            Ok(status) if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                tracing::warn!(status = status.as_u16(), "a webhook was refused");
                return;
            }
            Ok(status) => tracing::debug!(status = status.as_u16(), "a webhook failed"),
            Err(error) => tracing::debug!(%error, "a webhook could not be sent"),
        }
        tokio::time::sleep(pause).await;
    }
    tracing::warn!("a webhook was given up");
}

async fn answered(request: RequestBuilder) -> reqwest::Result<StatusCode> {
    let mut answer = request.send().await?;
    let mut read = 0;
    while let Some(chunk) = answer.chunk().await? {
        read += chunk.len();
        if read > LARGEST {
            break;
        }
    }
    Ok(answer.status())
}
