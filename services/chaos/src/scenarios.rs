//! More scenarios with a fixed end: how long it takes to come back, Redis away, and a provider that cannot be relied on.

use crate::{
    acceptance::{Findings, world},
    door::Customer,
    facts::Facts,
    history::{Ask, History, Op, Reply, Way},
    load::{self, Demand, Shop},
    proxy::Link,
    run::{self, Options, Outcome},
    settle,
    world::{Target, World},
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
/// Every process that is killed, and how many seconds it may take from the kill until an order that was asked for afterwards is taken,
/// and until it is paid. A consumer that was killed is missed by the broker for six seconds, and only then others get its partitions.
const GATES: [(Target, u64, u64); 4] =
    [(Target::Service("mercato"), 5, 15), (Target::Postgres, 15, 30), (Target::Kafka, 5, 30), (Target::Redis, 5, 10)];
/// How long each phase of the scenario of Redis lasts.
const PHASE: Duration = Duration::from_secs(12);
/// Without Redis a call may take twice as long, and this much more.
const SLACK: Duration = Duration::from_millis(250);
/// Failed voids until a person is asked, in the scenario of the provider.
const TRIES: &str = "5";

/// Kills the service, PostgreSQL, the broker and Redis one after the other under load, starts each again at once, and measures how
/// long it takes until an order that was placed afterwards is paid. Every acknowledged order must be there.
///
/// # Errors
/// When the shop cannot be started, hurt or read.
pub async fn recovery(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let shop = Arc::new(load::furnish(&world, load::CUSTOMERS, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let demand = Demand { seed: options.seed, orders: options.orders, time: Duration::from_secs(60), patience: PATIENCE };
    let kills = async {
        let mut took = Vec::new();
        for (target, taken_in, paid_in) in GATES {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let began = Instant::now();
            world.kill(target).await?;
            let (launched, after) = tokio::join!(world.launch(target), until_paid(&shop, &history, target, began));
            launched?;
            let (taken, paid) = after?;
            took.push((target, [(taken_in, taken, "taken"), (paid_in, paid, "paid")]));
        }
        Ok::<_, anyhow::Error>(took)
    };
    let (took, ()) = tokio::join!(kills, load::run(&shop, &history, demand));
    for (target, took) in took? {
        for (gate, took, what) in took {
            findings.say(format!("{target}: killed and started, the next order was {what} after {took:.2?} (at most {gate} s)"));
            findings.demand(took.as_secs() < gate, || format!("{target}: {took:.2?} until an order was {what}, {gate} s are allowed"));
        }
    }
    let facts = findings.judge(&world, &shop, &history).await?;
    findings.say(format!("{} orders came to their end", facts.orders.len()));
    Ok(findings.outcome(&mut world))
}

/// Places an order and waits until it is paid; tells when it was taken and when it was paid, since `began`.
async fn until_paid(shop: &Shop, history: &History, target: Target, began: Instant) -> Result<(Duration, Duration)> {
    let buyer = &shop.customers[0];
    let (key, ask) = (format!("after-{target}"), Ask::Place { lines: vec![(shop.cold[0], 1)], token: "tok_approve".into() });
    let id = placed(history, buyer, &key, ask).await?;
    let taken = began.elapsed();
    while status(buyer, id).await.as_deref() != Some("PAID") {
        ensure!(began.elapsed() < PATIENCE * 2, "the order after {target} is not paid");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((taken, began.elapsed()))
}

async fn placed(history: &History, buyer: &Customer, key: &str, ask: Ask) -> Result<Uuid> {
    let op = history.invoke(buyer.id, Way::Rest, key, ask.clone(), false);
    let reply = load::until_definite(history, op, buyer, Way::Rest, key, &ask, PATIENCE).await;
    reply.as_ref().and_then(Reply::seen).map(|seen| seen.id).with_context(|| format!("{key} was answered {reply:?}"))
}

async fn status(buyer: &Customer, id: Uuid) -> Option<String> {
    Some(buyer.ask(Way::Grpc, "", &Ask::Read(id)).await.seen()?.status.clone())
}

/// Redis is killed, comes back, and is frozen: every order is answered as ever, and about as fast.
///
/// # Errors
/// When the shop cannot be started, hurt or read.
pub async fn redis_stall(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let shop = Arc::new(load::furnish(&world, load::CUSTOMERS, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let demand = Demand { seed: options.seed, orders: options.orders, time: PHASE * 5, patience: PATIENCE };
    let phases = async {
        let mut starts = vec![("before", history.now())];
        tokio::time::sleep(PHASE).await;
        world.kill(Target::Redis).await?;
        starts.push(("killed", history.now()));
        tokio::time::sleep(PHASE).await;
        world.launch(Target::Redis).await?;
        starts.push(("back", history.now()));
        tokio::time::sleep(PHASE).await;
        world.freeze(Target::Redis, "STOP").await?;
        starts.push(("frozen", history.now()));
        tokio::time::sleep(PHASE).await;
        world.freeze(Target::Redis, "CONT").await?;
        starts.push(("goes on", history.now()));
        Ok::<_, anyhow::Error>(starts)
    };
    let (starts, ()) = tokio::join!(phases, load::run(&shop, &history, demand));
    let (starts, ops) = (starts?, history.ops());
    let mut calm = None;
    for (n, (name, from)) in starts.iter().enumerate() {
        let to = starts.get(n + 1).map_or(Duration::MAX, |(_, to)| *to);
        let mine: Vec<&Op> = ops.iter().filter(|op| op.places() && (*from..to).contains(&op.invoked)).collect();
        let unknown = mine.iter().filter(|op| op.tries.first().is_some_and(|(_, reply)| !reply.definite())).count();
        let [half, most] = quantiles(&mine);
        findings.say(format!(
            "{name}: {} orders, {unknown} without an answer at first; half within {half:.1?}, 99 of 100 within {most:.1?}",
            mine.len()
        ));
        let bound = calm.get_or_insert(most).mul_f64(2.0) + SLACK;
        findings.demand(most <= bound, || format!("{name}: 99 of 100 orders within {most:.1?}, {bound:.1?} are allowed"));
        findings.demand(unknown == 0, || format!("{name}: {unknown} orders without an answer at first"));
    }
    findings.judge(&world, &shop, &history).await?;
    Ok(findings.outcome(&mut world))
}

/// How long half and 99 of 100 first tries took at most.
fn quantiles(ops: &[&Op]) -> [Duration; 2] {
    let mut took: Vec<Duration> = ops.iter().filter_map(|op| Some(op.tries.first()?.0.saturating_sub(op.invoked))).collect();
    took.sort_unstable();
    [0.5, 0.99].map(|part| took.get(((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1))).copied().unwrap_or_default())
}

/// A provider that answers too late after charging, that fails to give a hold back, and whose messages are repeated, old or forged.
///
/// # Errors
/// When the shop cannot be started, hurt or read.
pub async fn provider(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[("MERCATO_PAYMENT_TRIES", TRIES)]).await?;
    let shop = load::furnish(&world, 4, 20).await?;
    let (mut findings, history) = (Findings::default(), History::default());
    let late = late_answer(&mut findings, &shop, &history).await?;
    let retried = cancelled_while_paying(&world, &shop, &history, "tok_void_fails-2").await?;
    let stuck = cancelled_while_paying(&world, &shop, &history, "tok_void_fails-99").await?;
    let facts = findings.judge(&world, &shop, &history).await?;
    let count = |order: Uuid, kind: &str| facts.provider.iter().filter(|entry| entry.order() == Some(order) && entry.kind == kind).count();
    let (held, taken) = (count(late, "authorized"), count(late, "captured"));
    findings.say(format!("answered too late: held {held} times, charged {taken} times"));
    findings.demand((held, taken) == (1, 1), || "it must be held and charged once".to_owned());
    let end = |id: Uuid| facts.orders.iter().find(|order| order.id == id).map_or("nothing", |order| order.status.as_str());
    let cases = |id: Uuid| facts.open_cases.iter().filter(|case| **case == id).count();
    findings.say(format!(
        "the void fails twice: {}, voided {} times, {} open cases",
        end(retried),
        count(retried, "voided"),
        cases(retried)
    ));
    findings
        .demand((end(retried), count(retried, "voided"), cases(retried)) == ("CANCELLED", 1, 0), || "it must be tried again".to_owned());
    findings.say(format!("the void fails always: {}, voided {} times, {} open cases", end(stuck), count(stuck, "voided"), cases(stuck)));
    findings.demand((end(stuck), cases(stuck)) == ("NEEDS_OPERATOR", 1), || "one open case was demanded".to_owned());
    webhooks(&mut findings, &world, &facts, [late, retried]).await?;
    let busy = settle::settle(&world, PATIENCE).await?;
    let after = run::facts(&world, &shop, &history).await?;
    findings.demand(busy.is_empty() && same(&facts, &after), || "messages that should change nothing changed something".to_owned());
    findings.say("duplicate, late, forged and lying messages changed nothing".to_owned());
    Ok(findings.outcome(&mut world))
}

/// The provider charges and does not answer: the order waits, and is paid once the payment was looked up.
async fn late_answer(findings: &mut Findings, shop: &Shop, history: &History) -> Result<Uuid> {
    let buyer = &shop.customers[0];
    let ask = Ask::Place { lines: vec![(shop.cold[0], 1)], token: "tok_timeout_after_charge".into() };
    let id = placed(history, buyer, "late-answer", ask).await?;
    let (began, mut seen) = (Instant::now(), BTreeMap::new());
    while began.elapsed() < PATIENCE {
        if let Some(status) = status(buyer, id).await {
            let paid = status == "PAID";
            seen.entry(status).or_insert(began.elapsed());
            if paid {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    findings.say(format!("answered too late: {}", seen.iter().map(|(s, at)| format!("{s} after {at:.1?}")).collect::<Vec<_>>().join(", ")));
    findings.demand(seen.contains_key("PENDING") && seen.contains_key("PAID"), || format!("it must wait and then be paid, not {seen:?}"));
    findings.demand(!seen.contains_key("CANCELLED"), || "an unknown outcome was taken for a failure".to_owned());
    Ok(id)
}

/// An order that is cancelled when the provider holds the money and payment does not know it yet.
async fn cancelled_while_paying(world: &World, shop: &Shop, history: &History, token: &str) -> Result<Uuid> {
    world.provider_link.set(Link::Slow(Duration::from_millis(400)));
    let buyer = &shop.customers[1];
    let ask = Ask::Place { lines: vec![(shop.cold[1], 1)], token: token.into() };
    let id = placed(history, buyer, token, ask).await?;
    let end = Instant::now() + PATIENCE;
    while !crate::load_facts::provider(&world.provider()).await?.iter().any(|entry| entry.order() == Some(id)) {
        ensure!(Instant::now() < end, "the provider never heard of order {id}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (key, ask) = (format!("{token}-cancel"), Ask::Cancel(id));
    let op = history.invoke(buyer.id, Way::Rest, &key, ask.clone(), false);
    load::until_definite(history, op, buyer, Way::Rest, &key, &ask, PATIENCE).await;
    world.provider_link.set(Link::Good);
    Ok(id)
}

/// Messages that must not change anything: repeated, old, forged, cut, and signed ones that lie.
async fn webhooks(findings: &mut Findings, world: &World, facts: &Facts, [paid, cancelled]: [Uuid; 2]) -> Result<()> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let body = |kind: &str, order: Uuid| {
        let reference = facts.provider.iter().find(|entry| entry.order() == Some(order)).map_or_else(String::new, |e| e.reference.clone());
        serde_json::json!({ "eventId": Uuid::now_v7(), "type": kind, "reference": reference }).to_string().into_bytes()
    };
    let sign = |time: i64, body: &[u8]| mercato_provider::sign(world.webhook_secret(), time, body);
    let (twice, lie) = (body("payment.captured", paid), body("payment.captured", cancelled));
    let forged = mercato_provider::sign("a secret that is not ours", now, &lie);
    let sent: [(&str, &[u8], String, bool); 6] = [
        ("once", &twice, sign(now, &twice), true),
        ("twice", &twice, sign(now, &twice), true),
        ("late", &lie, sign(now - 3600, &lie), false),
        ("forged", &lie, forged, false),
        ("cut", &lie[..lie.len() - 1], sign(now, &lie), false),
        ("lying", &lie, sign(now, &lie), true),
    ];
    let (client, url) = (reqwest::Client::new(), format!("{}/api/payments/webhooks/dev", world.edge()));
    for (what, body, signature, welcome) in sent {
        let request = client.post(&url).header("x-signature", signature).header("content-type", "application/json").body(body.to_vec());
        let status = request.send().await?.status();
        findings.say(format!("a message sent {what}: {status}"));
        findings
            .demand(status.is_success() == welcome && !status.is_server_error(), || format!("a message sent {what} was answered {status}"));
    }
    Ok(())
}

/// Whether orders, payments, ledgers and events are what they were.
fn same(one: &Facts, other: &Facts) -> bool {
    (&one.orders, &one.payments, &one.ledger, &one.provider, &one.versions, &one.open_cases)
        == (&other.orders, &other.payments, &other.ledger, &other.provider, &other.versions, &other.open_cases)
}
