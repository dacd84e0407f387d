//! Garbage over gRPC: everything that can be wrong with a field, for every field of every public method, through Envoy.

use super::{
    door::{self, Refused},
    fresh,
    grpc::{channel, refused},
    inputs::{self, Bad, World, bad, public, token_for, verdict},
    settled,
    shop::shop,
    state,
};
use futures_util::StreamExt as _;
use mercato_contracts::methods::{Idempotency, Method};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

one_at_a_time!(in_any_field_is_refused_and_leaves_nothing_behind, that_keeps_the_contract_is_answered_in_order);

/// Answers that are ours to avoid, whatever was sent: those that still come when a busy machine has had time.
pub const OURS: [Code; 7] =
    [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss, Code::DeadlineExceeded, Code::Unimplemented, Code::Cancelled];
/// Calls at the same time.
const AT_ONCE: usize = 8;

/// Words that tell a stranger how we are made.
const INSIDE: [&str; 9] = ["sqlx", "postgres", "panicked", ".rs:", "/src/", "kafka", "redis", "argon2", "duplicate key"];

/// The word in a refusal that tells too much, if there is one.
pub fn inside(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    INSIDE.into_iter().find(|word| text.contains(word))
}

/// Calls a method with these bytes; of a stream the first message counts.
pub async fn call(channel: &Channel, method: &'static Method, token: Option<String>, bytes: Vec<u8>) -> Result<(), Refused> {
    call_for(channel, method, token, bytes).await.map(drop)
}

/// The same, with the answer as it travelled.
pub async fn call_for(channel: &Channel, method: &'static Method, token: Option<String>, bytes: Vec<u8>) -> Result<Vec<u8>, Refused> {
    let key = (method.idempotency == Idempotency::Key).then(|| fresh("garbage-"));
    let ask = door::Ask { method: method.name, body: serde_json::Value::Null, token, key };
    settled(async || call_once(channel, method, &ask, bytes.clone()).await).await
}

async fn call_once(channel: &Channel, method: &'static Method, ask: &door::Ask, bytes: Vec<u8>) -> Result<Vec<u8>, Refused> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the edge listens");
    let request = super::grpc::with_headers(Request::new(bytes), ask);
    let path = http::uri::PathAndQuery::from_static(method.path);
    let answer: Result<Vec<u8>, Status> = if method.server_streaming {
        match client.server_streaming(request, path, Raw).await {
            Ok(stream) => stream.into_inner().message().await.map(Option::unwrap_or_default),
            Err(status) => Err(status),
        }
    } else {
        client.unary(request, path, Raw).await.map(tonic::Response::into_inner)
    };
    answer.map_err(|status| refused(&status))
}

/// A bad input and whose it is.
struct Case {
    method: &'static Method,
    bad: Bad,
    /// The fields the contract complains about; none when the bytes are no message.
    broken: Result<(), Vec<String>>,
}

fn cases(world: &World) -> Vec<Case> {
    let of = |method: &'static Method| {
        let request = door::contract(method).input();
        let all = bad(method, &world.good(method.name));
        all.into_iter().map(move |bad| Case { method, broken: verdict(&request, &bad.bytes), bad }).collect::<Vec<_>>()
    };
    public().flat_map(of).collect()
}

/// What is wrong with the answer to what breaks the contract.
async fn refusal(channel: Channel, world: &World, case: Case) -> Option<String> {
    let Case { method, bad, broken } = case;
    let told = |why: String| Some(format!("{} {} {}: {why}", method.name, bad.path.join("."), bad.what));
    let refused = match call(&channel, method, token_for(method, world), bad.bytes.clone()).await {
        Ok(()) => return told("was accepted".into()),
        Err(refused) => refused,
    };
    if (refused.code, refused.reason.as_str()) != (Code::InvalidArgument, "REQUEST_INVALID") {
        return told(format!("{refused:?}"));
    }
    if let Some(word) = inside(&format!("{} {:?}", refused.message, refused.metadata)) {
        return told(format!("`{word}` in {refused:?}"));
    }
    let broken = broken.err().unwrap_or_default();
    // bytes that are no message have no fields to name; the decoder names the one where it stopped
    let last = bad.path.last().map(String::as_str).unwrap_or_default();
    let named = broken.iter().all(|field| refused.fields.contains(field)) && !(broken.is_empty() && refused.message.is_empty());
    if named || snake(&refused.message).contains(&snake(last)) { None } else { told(format!("the field is not named: {refused:?}")) }
}

/// `zipCode` as `zip_code`.
fn snake(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect()
}

async fn in_any_field_is_refused_and_leaves_nothing_behind() {
    let world = World::new(&door::grpc()).await;
    let channel = channel(&shop().edge);
    let before = state::at_rest().await;
    let broken: Vec<Case> = cases(&world).into_iter().filter(|case| case.broken.is_err()).collect();
    let many = broken.len();
    let asked = broken.into_iter().map(|case| refusal(channel.clone(), &world, case));
    let faults: Vec<String> = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(async |fault| fault).collect().await;
    assert!(faults.is_empty(), "{} of {many}:\n{}", faults.len(), faults.join("\n"));
    assert!(many > 500, "only {many} bad inputs");
    println!("{many} inputs were refused");
    state::unchanged(&before, &state::at_rest().await);
}

/// Strange but allowed, or refused by a rule that no contract can hold: an answer that is no fault of ours.
async fn that_keeps_the_contract_is_answered_in_order() {
    let world = World::new(&door::grpc()).await;
    let channel = channel(&shop().edge);
    let kept: Vec<Case> = cases(&world).into_iter().filter(|case| case.broken.is_ok()).collect();
    let many = kept.len();
    let ask = async |case: Case| {
        let answer = call(&channel, case.method, token_for(case.method, &world), case.bad.bytes.clone()).await;
        let fault = answer.err().filter(|refused| {
            let words = format!("{} {:?}", refused.message, refused.metadata);
            OURS.contains(&refused.code) || refused.reason.is_empty() || inside(&words).is_some()
        });
        fault.map(|refused| format!("{} {} {}: {refused:?}", case.method.name, case.bad.path.join("."), case.bad.what))
    };
    let asked = kept.into_iter().map(ask);
    let faults: Vec<String> = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(async |fault| fault).collect().await;
    assert!(faults.is_empty(), "{} of {many}:\n{}", faults.len(), faults.join("\n"));
    println!("{many} inputs were answered");
    inputs::still_served(&world).await;
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buf, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf as _;
        Ok(Some(buf.copy_to_bytes(buf.remaining()).to_vec()))
    }
}
