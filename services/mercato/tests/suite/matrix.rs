//! Whose is what: every public method asked by the owner, by somebody else, by support and by nobody, about an order, a payment and an
//! account that belong to the owner. What is refused changes nothing, and somebody else cannot tell what is there from what is not.

use super::{
    door::{self, Ask, Door, Refused, contract},
    fresh,
    garbage::OURS,
    inputs::{World, public},
    settled,
    shop::shop,
    shopper::with,
    state,
};
use mercato_contracts::methods::{Caller, Idempotency, Method};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Code;

one_at_a_time!(is_decided_for_every_method_and_caller, is_missed_where_nobody_asks, is_not_told_to_others_even_by_time);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Owner,
    Other,
    Support,
    Nobody,
}

const ALL: [Who; 4] = [Who::Other, Who::Nobody, Who::Support, Who::Owner];

/// What an answer may be.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// An answer, or a refusal of the business: the caller may ask this.
    Served,
    /// As if there were nothing.
    Absent,
    /// Known, and not allowed.
    NotAllowed,
    /// No token.
    NoToken,
    /// Something failed that must not: nobody expects this.
    Broken,
}

/// Methods about something that belongs to one customer.
const OWNED: [&str; 8] =
    ["GetOrder", "GetOrderTimeline", "WatchOrder", "CancelOrder", "GetPayment", "GetCustomer", "UpdateCustomer", "ListOrders"];

/// The table: from the method's policy alone, and from what it is about.
fn expected(method: &Method, who: Who) -> Expected {
    match (method.caller, who) {
        (Caller::Public, _) => Expected::Served,
        (_, Who::Nobody) => Expected::NoToken,
        (Caller::Roles(roles), Who::Support) if roles.contains(&"support") => Expected::Served,
        (Caller::Roles(_), _) => Expected::NotAllowed,
        (_, Who::Owner) => Expected::Served,
        (_, Who::Support) if method.or_roles.contains(&"support") => Expected::Served,
        // another customer's list is no thing that could be absent
        (_, Who::Other | Who::Support) if method.name == "ListOrders" => Expected::NotAllowed,
        (_, Who::Other | Who::Support) if OWNED.contains(&method.name) => Expected::Absent,
        _ => Expected::Served,
    }
}

/// What was answered, in the words of the table.
fn judged(answer: &Result<(), Refused>) -> Expected {
    match answer.as_ref().map_err(|refused| (refused.code, refused.reason.as_str())) {
        Err((Code::NotFound, _)) => Expected::Absent,
        Err((Code::PermissionDenied, _)) => Expected::NotAllowed,
        Err((Code::Unauthenticated, reason)) if reason.is_empty() || reason == "TOKEN_MISSING" => Expected::NoToken,
        Err((code, _)) if OURS.contains(&code) => Expected::Broken,
        _ => Expected::Served,
    }
}

/// The request that is about what the owner has.
fn request(world: &World, method: &Method) -> serde_json::Value {
    let good = world.good(method.name);
    match method.name {
        "ListOrders" => with(good, json!({ "userId": world.owner.id })),
        "UpdateCustomer" => with(good, json!({ "customerId": world.owner.id })),
        "PlaceOrder" => with(good, json!({ "userId": world.owner.id })),
        _ => good,
    }
}

fn token(world: &World, who: Who) -> Option<String> {
    match who {
        Who::Owner => world.owner.token.clone(),
        Who::Other => Some(shop().signer.good(&["customer"])),
        Who::Support => Some(shop().signer.good(&["support"])),
        Who::Nobody => None,
    }
}

async fn ask(door: &Arc<dyn Door>, world: &World, method: &'static Method, who: Who) -> Result<(), Refused> {
    let key = (method.idempotency == Idempotency::Key).then(|| fresh("matrix-"));
    let ask = Ask { method: method.name, body: request(world, method), token: token(world, who), key };
    settled(async || {
        let ask = ask.clone();
        if method.server_streaming { door.listen(ask).await.map(drop) } else { door.ask(ask).await.map(drop) }
    })
    .await
}

/// Where the answers to those who may not ask differ from the table; `disguise` says as whom each really comes.
async fn faults(door: &Arc<dyn Door>, world: &World, disguise: fn(Who) -> Who) -> Vec<String> {
    let mut faults = Vec::new();
    for method in public() {
        for who in ALL {
            let expected = expected(method, who);
            if expected == Expected::Served {
                continue;
            }
            let answer = ask(door, world, method, disguise(who)).await;
            let got = judged(&answer);
            if got != expected {
                faults.push(format!("{} {who:?}: {got:?} instead of {expected:?}: {answer:?}", method.name));
            }
        }
    }
    faults
}

/// The planted fault: others are let in as the owner would be, as if no handler asked whose a thing is. Every method that must ask shows up.
async fn is_missed_where_nobody_asks() {
    let door = door::grpc();
    let world = World::new(&door).await;
    let faults = faults(&door, &world, |who| if who == Who::Other { Who::Owner } else { who }).await;
    for method in OWNED {
        assert!(faults.iter().any(|fault| fault.starts_with(&format!("{method} Other"))), "{method} is not among {faults:?}");
    }
}

async fn is_decided_for_every_method_and_caller() {
    for (name, door) in [("rest", door::rest()), ("grpc", door::grpc())] {
        let world = World::new(&door).await;
        let before = state::at_rest().await;
        let faults = faults(&door, &world, |who| who).await;
        assert!(faults.is_empty(), "{name}\n{}", faults.join("\n"));
        state::unchanged(&before, &state::at_rest().await);
        // and the control: those who may, are answered, whatever the business says then
        let everybody = public().flat_map(|method| ALL.map(|who| (method, who)));
        for (method, who) in everybody.filter(|(method, who)| expected(method, *who) == Expected::Served) {
            let answer = ask(&door, &world, method, who).await;
            let got = judged(&answer);
            let absent_by_nature = ["DeleteProduct", "UpdateCustomer"].contains(&method.name) || method.name == "ReceiveWebhook";
            let fine = got == Expected::Served || (got == Expected::Absent && absent_by_nature);
            assert!(fine, "{name} {} {who:?}: {answer:?}", method.name);
        }
    }
}

/// The refusal and how long it took; a try that had no time says nothing about either.
async fn timed(door: &Arc<dyn Door>, ask: &Ask) -> (Duration, Refused) {
    let mut took = Duration::ZERO;
    let told = settled(async || {
        let began = Instant::now();
        let told = door.ask(ask.clone()).await;
        took = began.elapsed();
        told
    });
    let refused = told.await.expect_err("not theirs");
    (took, refused)
}

/// How many times as long it takes to refuse `theirs` as what is not there, after both were refused in the same words.
async fn ratio(about: impl Fn(&str) -> Ask, door: &Arc<dyn Door>, theirs: &str) -> f64 {
    let mut times: BTreeMap<bool, Vec<Duration>> = BTreeMap::new();
    for round in 0..40 {
        let absent = super::signer::subject();
        let mut told = BTreeMap::new();
        // each comes first as often as second
        for foreign in [round % 2 == 0, round % 2 == 1] {
            let id = if foreign { theirs } else { &absent };
            let (took, refused) = timed(door, &about(id)).await;
            times.entry(foreign).or_default().push(took);
            let same = |text: &str| text.replace(id, "ID");
            let metadata: Vec<_> = refused.metadata.iter().map(|(name, value)| (name.clone(), same(value))).collect();
            told.insert(foreign, (refused.code, refused.reason.clone(), same(&refused.message), metadata));
        }
        assert_eq!(told[&true], told[&false], "another's looks like none");
    }
    let median = |foreign: bool| {
        let mut times = times[&foreign].clone();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    median(true) / median(false)
}

/// Another's and nobody's are refused alike, and by the same statement: over many pairs neither takes twice as long. What a busy machine
/// makes of the times is not the same each time, a difference of ours is.
async fn is_not_told_to_others_even_by_time() {
    let door = door::grpc();
    let world = World::new(&door).await;
    let other = token(&world, Who::Other);
    let about =
        |method: &'static str, field: &'static str, id: &str| Ask { method, body: json!({ field: id }), token: other.clone(), key: None };
    for (method, field, theirs) in [
        ("GetOrder", "orderId", &world.order),
        ("GetOrderTimeline", "orderId", &world.order),
        ("GetPayment", "orderId", &world.order),
        ("GetCustomer", "customerId", &world.owner.id),
    ] {
        let mut ratios = Vec::new();
        while ratios.len() < 5 && !ratios.last().is_some_and(|ratio| (0.5..2.0).contains(ratio)) {
            ratios.push(ratio(|id| about(method, field, id), &door, theirs).await);
        }
        let last = ratios.last().expect("a round");
        assert!((0.5..2.0).contains(last), "{method}: another's takes {ratios:.2?} times as long as none");
    }
}

/// The table above is about methods that are there.
#[test]
fn the_table_is_about_real_methods() {
    for name in OWNED {
        assert!(!contract(door::method(name)).name().is_empty());
    }
}
