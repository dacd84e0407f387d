//! What the provider does not tell is found out, never guessed.

use crate::world::{IMPATIENT, World};
use mercato_testkit::{Customer, LONG, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_after_the_charge_is_charged_once() {
    let world = World::start_with(&[IMPATIENT]).await;
    let customer = Customer::new();
    let lost = world.place(&customer, "tok_timeout_after_charge").await;
    let garbage = world.place(&customer, "tok_garbage").await;
    let slow = world.place(&customer, "tok_slow").await;
    for order in [lost, garbage, slow] {
        world.until_told(order, &["payment.initiated", "payment.unknown", "payment.authorized"]).await;
        world.confirm(order, &customer).await;
        world.until_told(order, &["payment.initiated", "payment.unknown", "payment.authorized", "payment.processed"]).await;
        assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999), ("captured".into(), 2999)]);
    }
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_effect_is_sent_again_after_the_settle_time() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_error_500-2").await;
    world.until_told(order, &["payment.initiated", "payment.unknown", "payment.authorized"]).await;
    assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999)]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ill_provider_never_makes_a_payment_fail_before_its_time() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_error_500").await;
    let busy = world.place(&Customer::new(), "tok_unavailable-4").await;
    world.until_told(busy, &["payment.initiated", "payment.authorized"]).await;
    world.until_told(order, &["payment.initiated", "payment.unknown"]).await;
    world.expire(order).await;
    world.until_told(order, &["payment.initiated", "payment.unknown", "payment.failed"]).await;
    assert_eq!(world.latest(order).expect("payment").failure_reason, "PAYMENT_EXPIRED");
    // Our reference is closed there, so that a late authorisation cannot happen.
    assert_eq!(world.at_provider(order).await, [("voided".into(), 0)]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_is_never_accepted_and_given_back() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_wrong_amount").await;
    world.until_told(order, &["payment.initiated", "payment.unknown"]).await;
    world.expire(order).await;
    world.until_told(order, &["payment.initiated", "payment.unknown", "payment.failed"]).await;
    assert_eq!(world.at_provider(order).await, [("authorized".into(), 3000), ("voided".into(), 3000)]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_under_every_behaviour_at_once() {
    let world = World::start_with(&[IMPATIENT, ("MERCATO_PAYMENT_DEADLINE_MS", "15000"), ("MERCATO_PAYMENT_TRIES", "20")]).await;
    let customer = Customer::new();
    let tokens = [
        "tok_approve",
        "tok_decline",
        "tok_soft_decline",
        "tok_timeout_after_charge",
        "tok_garbage",
        "tok_duplicate_webhook",
        "tok_void_fails-2",
        "tok_wrong_amount",
        "tok_error_500-2",
        "tok_unavailable-2",
    ];
    let mut orders = Vec::new();
    for round in 0..6 {
        for token in tokens {
            let order = world.place(&customer, token).await;
            if round % 2 == 0 {
                world.cancel(order, &customer).await;
            }
            orders.push((order, round % 2 == 0));
        }
    }
    for (order, cancelled) in orders {
        let ended = eventually("an end", LONG, || async {
            let last = world.told(order).pop()?;
            let ends: &[&str] = if cancelled { &["payment.voided", "payment.failed"] } else { &["payment.authorized", "payment.failed"] };
            ends.contains(&last.as_str()).then_some(())
        });
        ended.await;
        let held: i64 = world
            .at_provider(order)
            .await
            .iter()
            .map(|(kind, amount)| match kind.as_str() {
                "authorized" => *amount,
                "voided" => -amount,
                _ => 0,
            })
            .sum();
        assert!(held == 0 || (!cancelled && held == 2999), "{held}");
    }
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_without_its_work_item_is_found() {
    let world = World::start_with(&[("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", "1000")]).await;
    // The first run's three calls fail; the item then waits for ten seconds, long enough to be lost.
    let order = world.place(&Customer::new(), "tok_unavailable-3").await;
    let pool = world.pool().await;
    let lose = || async {
        let waiting = "delete from work where kind = 'authorize' and attempt > 0 and lease_until is null";
        let lost = sqlx::query(waiting).execute(pool).await.expect("delete").rows_affected();
        (lost == 1).then_some(())
    };
    eventually("a waiting item", LONG, lose).await;
    let age = "update attempt set due_at = due_at - interval '1 minute'";
    assert_eq!(sqlx::query(age).execute(pool).await.expect("update").rows_affected(), 1);
    world.until_told(order, &["payment.initiated", "payment.unknown", "payment.authorized"]).await;
    assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999)]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_undoes_its_own_result_only() {
    // All calls end at the same time, by their time limit, so that their results are stored together.
    let world = World::start_with(&[("MERCATO_PROVIDER_TIMEOUT_MS", "4000")]).await;
    let customer = Customer::new();
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(world.place(&customer, "tok_timeout_after_charge").await);
    }
    let robbed = world.place(&customer, "tok_timeout_after_charge").await;
    let pool = world.pool().await;
    let rob = || async {
        let steal = "update work w set epoch = w.epoch + 1, lease_until = clock_timestamp() + interval '8 s'
                     from attempt a join payment p on p.id = a.payment_id
                     where w.subject = a.id and p.order_id = $1 and w.kind = 'authorize' and w.lease_until is not null";
        let stolen = sqlx::query(steal).bind(robbed).execute(pool).await.expect("update").rows_affected();
        (stolen == 1).then_some(())
    };
    eventually("a leased item", LONG, rob).await;
    for order in &others {
        world.until_told(*order, &["payment.initiated", "payment.unknown", "payment.authorized"]).await;
    }
    // Whoever has the lease by then asks again under the same key; the doubt of the first was never stored.
    world.until_told(robbed, &["payment.initiated", "payment.authorized"]).await;
    for order in others.into_iter().chain([robbed]) {
        assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999)]);
    }
    world.at_rest().await;
    world.stop().await;
}
