//! Payments follow their orders.

use crate::world::World;
use mercato_contracts::mercato::payment::v1::{self as proto, payment::Status};
use mercato_testkit::{Actor, Customer, Guest};
use tonic::Code;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn approved_confirmed_and_captured() {
    let world = World::start().await;
    let customer = Customer::new();
    let order = world.place(&customer, "tok_approve").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    world.confirm(order, &customer).await;
    world.until_told(order, &["payment.initiated", "payment.authorized", "payment.processed"]).await;

    let get = proto::GetPaymentRequest { order_id: order.to_string() };
    let payment = world.client().get_payment(customer.request(get.clone())).await.expect("payment").into_inner();
    assert_eq!((payment.status(), payment.amount.map(|m| m.amount)), (Status::Captured, Some("29.99".into())));
    let foreign = world.client().get_payment(Customer::new().request(get.clone())).await.expect_err("another's");
    let absent = proto::GetPaymentRequest { order_id: Uuid::now_v7().to_string() };
    let absent = world.client().get_payment(customer.request(absent)).await.expect_err("absent");
    assert_eq!((foreign.code(), absent.code()), (Code::NotFound, Code::NotFound));
    assert_eq!(world.client().get_payment(Guest.request(get)).await.expect_err("nobody").code(), Code::Unauthenticated);

    // Everything is told once more: nothing happens.
    world.place_again(order, &customer).await;
    world.confirm(order, &customer).await;
    world.all_heard(&customer).await;
    assert_eq!(world.told(order).len(), 3);
    assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999), ("captured".into(), 2999)]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_declined_then_approved_with_another_key() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_soft_decline-2").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    let kinds: Vec<String> = world.at_provider(order).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["soft_declined", "soft_declined", "authorized"]);
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_declined_until_time_runs_out() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_soft_decline-1000").await;
    world.until_at_provider(order, 2).await;
    world.expire(order).await;
    world.until_told(order, &["payment.initiated", "payment.failed"]).await;
    assert_eq!(world.latest(order).expect("payment").failure_reason, "PAYMENT_EXPIRED");
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_orders_give_back_what_they_hold_or_took() {
    let world = World::start().await;
    let customer = Customer::new();
    let held = world.place(&customer, "tok_approve").await;
    let taken = world.place(&customer, "tok_approve").await;
    let doubtful = world.place(&customer, "tok_garbage").await;
    let stubborn = world.place(&customer, "tok_void_fails-1").await;
    for order in [held, taken, stubborn] {
        world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    }
    world.confirm(taken, &customer).await;
    world.until_told(taken, &["payment.initiated", "payment.authorized", "payment.processed"]).await;
    world.until_at_provider(doubtful, 1).await;
    for order in [held, taken, doubtful, stubborn] {
        world.cancel(order, &customer).await;
    }
    for order in [held, stubborn] {
        world.until_told(order, &["payment.initiated", "payment.authorized", "payment.voided"]).await;
    }
    world.until_told(doubtful, &["payment.initiated", "payment.unknown", "payment.authorized", "payment.voided"]).await;
    world.until_told(taken, &["payment.initiated", "payment.authorized", "payment.processed", "payment.refunded"]).await;
    assert_eq!(world.latest(taken).expect("payment").status(), Status::Refunded);
    assert_eq!(world.at_provider(taken).await.last(), Some(&("refunded".into(), 2999)));
    for order in [held, doubtful, stubborn] {
        assert_eq!(world.at_provider(order).await, [("authorized".into(), 2999), ("voided".into(), 2999)]);
    }
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_before_it_was_created_starts_nothing() {
    let world = World::start().await;
    let customer = Customer::new();
    let order = Uuid::now_v7();
    world.cancel(order, &customer).await;
    world.until_told(order, &["payment.voided"]).await;
    world.created_after_all(order, &customer).await;
    world.all_heard(&customer).await;
    world.at_rest().await;
    assert_eq!(world.told(order), ["payment.voided"]);
    assert_eq!(world.at_provider(order).await, []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_back_becomes_one_case() {
    let world = World::start().await;
    let customer = Customer::new();
    let order = world.place(&customer, "tok_void_fails-1000").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    world.cancel(order, &customer).await;
    world.until_told(order, &["payment.initiated", "payment.authorized", "payment.stuck"]).await;
    assert_eq!(world.latest(order).expect("payment").status(), Status::NeedsOperator);
    let cases = "select step, reason from operator_case where order_id = $1 and closed_at is null";
    let cases: Vec<(String, String)> = sqlx::query_as(cases).bind(order).fetch_all(world.pool().await).await.expect("cases");
    assert_eq!(cases.len(), 1, "{cases:?}");
    assert_eq!(cases[0].0, "void");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_fails_at_first_is_tried_again() {
    let world = World::start_with(&[("MERCATO_PAYMENT_TRIES", "20")]).await;
    let customer = Customer::new();
    let order = world.place(&customer, "tok_capture_fails-5").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    world.confirm(order, &customer).await;
    world.until_told(order, &["payment.initiated", "payment.authorized", "payment.processed"]).await;
    world.at_rest().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_append_only_and_balanced() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_approve").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    let pool = world.pool().await;
    for (statement, refusal) in [
        ("update posting set amount_minor = 1", "the ledger is append-only"),
        ("delete from posting", "the ledger is append-only"),
        ("truncate posting", "the ledger is append-only"),
        ("delete from ledger", "cannot delete from view"),
    ] {
        let refused = sqlx::query(statement).execute(pool).await.expect_err(statement);
        assert!(refused.to_string().contains(refusal), "{statement}: {refused}");
    }
    for (debit, credit, amount, constraint) in [
        ("'sales'", "'sales'", 5, "posting_two_sides"),
        ("'sales'", "'nobody'", 5, "posting_credit_check"),
        ("'sales'", "'provider.balance'", 0, "posting_amount_minor_check"),
    ] {
        let insert = format!(
            "insert into posting (tx_id, nth, payment_id, debit, credit, amount_minor, currency, provider_ref)
             select tx_id, 9, payment_id, {debit}, {credit}, {amount}, currency, provider_ref from posting limit 1"
        );
        let refused = sqlx::query(sqlx::AssertSqlSafe(insert)).execute(pool).await.expect_err("no posting");
        assert_eq!(mercato_chassis::error::constraint(&refused), Some(constraint));
    }
    let lines: Vec<(String, String)> =
        sqlx::query_as("select account, side from ledger order by line").fetch_all(pool).await.expect("the ledger");
    assert_eq!(lines, [("provider.hold".to_owned(), "D".to_owned()), ("customer.hold".to_owned(), "C".to_owned())]);
    world.stop().await;
}
