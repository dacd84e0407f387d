//! REST as a browser or a script speaks it: the routes come from the contracts, the rest is plain HTTP and JSON.

use super::{
    door::{Answer, Ask, Door, Refused, method},
    settled_but,
};
use async_trait::async_trait;
use bytes::Bytes;
use mercato_contracts::methods::HttpBinding;
use reqwest::{Client, Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Map, Value};
use std::time::Duration;
use tonic::Code;

/// The door.
pub struct Rest {
    client: Client,
    base: String,
}

impl Rest {
    /// A client of this shop.
    pub fn new(base: &str) -> Self {
        let client = Client::builder().timeout(Duration::from_secs(45)).build().expect("an http client");
        Self { client, base: base.to_owned() }
    }

    async fn send(&self, ask: &Ask) -> Response {
        let binding = method(ask.method).http.first().expect("a method with a route");
        self.request(binding, ask).send().await.unwrap_or_else(|error| panic!("{}: {error:?}", ask.method))
    }

    fn request(&self, binding: &HttpBinding, ask: &Ask) -> RequestBuilder {
        let mut fields = ask.body.as_object().expect("a request is an object").clone();
        let path = fill(binding.template, &mut fields);
        let body = match binding.body {
            "" => None,
            "*" => Some(Value::Object(std::mem::take(&mut fields))),
            field => Some(fields.remove(&camel(field)).unwrap_or_default()),
        };
        let verb = Method::from_bytes(binding.verb.as_bytes()).expect("a verb");
        let mut request = self.client.request(verb, format!("{}{path}{}", self.base, query(&fields)));
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(token) = &ask.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = &ask.key {
            request = request.header("idempotency-key", key);
        }
        request
    }
}

#[async_trait]
impl Door for Rest {
    async fn ask(&self, ask: Ask) -> Result<Answer, Refused> {
        let response = self.send(&ask).await;
        let http = response.status();
        let replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        let bytes = response.bytes().await.expect("a whole answer").to_vec();
        if !http.is_success() {
            return Err(refused(http.as_u16(), &bytes));
        }
        assert_eq!(http.as_u16(), method(ask.method).http_success, "{}", ask.method);
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("an answer in JSON") };
        Ok(Answer { body, bytes, replayed, http: Some(http.as_u16()), asked: 1 })
    }

    async fn listen(&self, ask: Ask) -> Result<Vec<Value>, Refused> {
        let response = self.send(&ask).await;
        let http = response.status();
        let bytes = response.bytes().await.expect("a stream that ends in order");
        if !http.is_success() {
            return Err(refused(http.as_u16(), &bytes));
        }
        let text = std::str::from_utf8(&bytes).expect("text");
        Ok(text.lines().filter_map(|line| line.strip_prefix("data:")).map(|data| serde_json::from_str(data).expect("JSON")).collect())
    }
}

/// An answer to a request made by hand.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    /// Whether it only says that it cannot be now.
    fn passing(&self) -> bool {
        let told = || serde_json::from_slice::<Value>(&self.bytes).is_ok_and(|body| body["code"].is_i64());
        matches!(self.status, 503 | 504) || self.status == 409 && told() && refused(self.status, &self.bytes).passing()
    }
}

/// Sends a request until its answer says more than that it cannot be now.
///
/// # Errors
/// When there is no answer at all.
pub async fn reply(request: RequestBuilder) -> Result<Reply, reqwest::Error> {
    let passing = |told: &Result<Reply, reqwest::Error>| told.as_ref().is_ok_and(Reply::passing);
    settled_but(passing, async || {
        let answer = request.try_clone().expect("a body in memory").send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Reply { status, headers, bytes: answer.bytes().await? })
    })
    .await
}

/// Reads a refusal.
pub fn refused(http: u16, bytes: &[u8]) -> Refused {
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let body: Value = serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("HTTP {http} without JSON ({error}): {}", text()));
    let code = body["code"].as_i64().unwrap_or_else(|| panic!("HTTP {http} without a code: {}", text()));
    let detail = |kind: &str| {
        let details = body["details"].as_array().into_iter().flatten();
        details.into_iter().find(|d| d["@type"].as_str().is_some_and(|t| t.ends_with(kind))).cloned().unwrap_or_default()
    };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let info = detail(".ErrorInfo");
    let metadata = info["metadata"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), word(value))).collect();
    let violations = detail(".BadRequest");
    Refused {
        code: Code::from_i32(i32::try_from(code).expect("a code")),
        reason: word(&info["reason"]),
        metadata,
        fields: violations["fieldViolations"].as_array().into_iter().flatten().map(|v| word(&v["field"])).collect(),
        message: word(&body["message"]),
        http: Some(http),
        asked: 1,
    }
}

/// Puts fields into the braces of a template, and takes them out of the request.
pub fn fill(template: &str, fields: &mut Map<String, Value>) -> String {
    let mut path = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}').expect("a closed brace");
        let value = fields.remove(&camel(name)).unwrap_or_else(|| panic!("{template} needs {name}"));
        path.push_str(before);
        path.push_str(&escape(&text(&value)));
        rest = tail;
    }
    path + rest
}

fn query(fields: &Map<String, Value>) -> String {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escape(&text(value)))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |out, word| out + &word[..1].to_uppercase() + &word[1..])
}
