//! Refunds: never more than was taken, once for a key.

use crate::world::{World, euros};
use mercato_chassis::Refusal;
use mercato_contracts::mercato::payment::v1 as proto;
use mercato_testkit::{Actor, Customer, Staff};
use tonic::Code;
use uuid::Uuid;

fn refund(order: Uuid, amount: Option<&str>) -> proto::RefundPaymentRequest {
    proto::RefundPaymentRequest { order_id: order.to_string(), amount: amount.map(euros), comment: "damaged".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_keep_within_what_was_taken() {
    let world = World::start().await;
    let customer = Customer::new();
    let support = Staff::with_roles(&["support"]);
    let order = world.place(&customer, "tok_approve").await;
    let mut told = vec!["payment.initiated", "payment.authorized"];
    world.until_told(order, &told).await;
    let mut client = world.client();
    let early = client.refund_payment(support.request(refund(order, None))).await.expect_err("nothing captured");
    assert_eq!((early.code(), Refusal::of(&early).reason.as_str()), (Code::FailedPrecondition, "PAYMENT_NOT_CAPTURED"));
    world.confirm(order, &customer).await;
    told.push("payment.processed");
    world.until_told(order, &told).await;

    assert_eq!(client.refund_payment(customer.request(refund(order, None))).await.expect_err("a customer").code(), Code::PermissionDenied);
    let without_key = client.refund_payment(support.request_without_key(refund(order, None))).await.expect_err("no key");
    assert_eq!(Refusal::of(&without_key).reason, "IDEMPOTENCY_KEY_MISSING");
    let key = Uuid::now_v7().to_string();
    for _ in 0..3 {
        client.refund_payment(support.request_with_key(refund(order, Some("10.00")), &key)).await.expect("accepted");
    }
    told.push("payment.refunded");
    world.until_told(order, &told).await;
    let too_much = client.refund_payment(support.request(refund(order, Some("20.00")))).await.expect_err("too much");
    let refusal = Refusal::of(&too_much);
    assert_eq!((refusal.reason.as_str(), refusal.metadata["captured"].as_str()), ("REFUND_TOO_LARGE", "29.99"));
    for wrong in ["0", "-1.00"] {
        let status = client.refund_payment(support.request(refund(order, Some(wrong)))).await.expect_err("not positive");
        assert_eq!(Refusal::of(&status).reason, "AMOUNT_INVALID");
    }

    // Ten at once ask for all that is left: one gets it.
    let calls = (0..10).map(|_| {
        let (mut client, request) = (world.client(), support.request(refund(order, None)));
        tokio::spawn(async move { client.refund_payment(request).await.is_ok() })
    });
    let mut granted = 0;
    for call in calls.collect::<Vec<_>>() {
        granted += u32::from(call.await.expect("call"));
    }
    assert_eq!(granted, 1);
    told.push("payment.refunded");
    world.until_told(order, &told).await;
    let payment = world.latest(order).expect("payment");
    assert_eq!((payment.status(), payment.refunded_amount.map(|m| m.amount)), (proto::payment::Status::Refunded, Some("29.99".into())));
    assert_eq!(world.at_provider(order).await[2..], [("refunded".into(), 1000), ("refunded".into(), 1999)]);
    let absent = client.refund_payment(support.request(refund(Uuid::now_v7(), None))).await.expect_err("no payment");
    assert_eq!(Refusal::of(&absent).reason, "PAYMENT_NOT_FOUND");
    world.at_rest().await;
    world.stop().await;
}
