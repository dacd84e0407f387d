//! The broker's data are lost, the databases are whole: `mercato events repeat` says again what hearers wait for.

use crate::house::{ALL, House, LONG, Visitor, patiently};
use mercato_chassis::role::Role;
use mercato_contracts::mercato::{
    ordering::v1::{Order, order, order_service_client::OrderServiceClient},
    payment::v1::{RefundPaymentRequest, payment_service_client::PaymentServiceClient},
};
use mercato_testkit::eventually;

const BUT_PAYMENT: &str = "catalog,inventory,ordering,customer,gateway";
const BUT_ORDERING: &str = "catalog,inventory,payment,customer,gateway";

/// Waits until every order is in a state.
async fn all(house: &House, visitor: &Visitor, orders: &[Order], what: &str, is: impl Fn(&Order) -> bool) {
    for order in orders {
        let look = || async { house.order(visitor, &order.id).await.filter(&is) };
        eventually(&format!("order {} is {what}", order.id), LONG, look).await;
    }
}

fn said_and_not_taken(told: &str) -> usize {
    let line = told.lines().find_map(|line| line.strip_prefix("said and not taken: ")).expect("the line");
    line.parse().expect("a number")
}

#[tokio::test]
async fn what_the_broker_has_lost_is_said_again() {
    let mut house = House::new().await;
    house.provider().await;
    let visitor = orders_that_payment_never_hears_of(&mut house).await;
    let orders = payments_that_ordering_never_hears_of(&mut house, &visitor).await;
    refunds_of_orders_that_nobody_looks_at_any_more(&mut house, &orders).await;
    levels_that_catalog_never_hears_of(&mut house).await;
    nothing_changes_in_an_open_shop(&mut house, &visitor).await;
    all_who_count_are_known(&house).await;
}

/// Sent, deleted from the outbox, and gone before anybody took it: no row of payment tells that there are such orders.
async fn orders_that_payment_never_hears_of(house: &mut House) -> Visitor {
    house.start(BUT_PAYMENT).await;
    let (visitor, product) = (house.sign_in("CUSTOMER").await, house.product().await);
    for _ in 0..5 {
        let key = house.key();
        house.place(&visitor, &product, &key, "tok_approve").await;
    }
    house.sent("ordering").await;
    house.kill(BUT_PAYMENT);
    house.empty().await;
    assert_eq!(said_and_not_taken(&house.succeeds(&["events", "check"])), 5);
    visitor
}

/// They are said again; payment does its part, and its events are lost as well.
async fn payments_that_ordering_never_hears_of(house: &mut House, visitor: &Visitor) -> Vec<Order> {
    let told = house.succeeds(&["events", "repeat"]);
    assert!(told.contains("orders: 5 said again\n"), "{told}");
    let told = house.succeeds(&["events", "repeat"]);
    assert!(told.contains("orders: 0 said again\n"), "what lies in the outbox is on its way: {told}");
    // the outbox of ordering is emptied by a process that hears nothing
    house.start(BUT_PAYMENT).await;
    house.sent("ordering").await;
    house.kill(BUT_PAYMENT);
    house.start(BUT_ORDERING).await;
    house.counts("payment", "select count(*) from payment where status = 'AUTHORIZED'", 5).await;
    house.sent("payment").await;
    house.kill(BUT_ORDERING);
    house.empty().await;
    assert_eq!(said_and_not_taken(&house.succeeds(&["events", "check"])), 5);

    house.succeeds(&["events", "repeat"]);
    house.start(ALL).await;
    let mut orders = OrderServiceClient::new(house.channel("ordering"));
    let list = patiently("orders", async || orders.list_orders(visitor.request(Default::default(), None)).await);
    let placed = list.await.expect("orders").into_inner().orders;
    assert_eq!(placed.len(), 5);
    all(house, visitor, &placed, "paid", |order| order.status() == order::Status::Paid).await;
    house.comes_to_rest().await;
    assert_eq!(house.count("payment", "select count(*) from attempt where step = 'capture'").await, 5, "each is charged once");
    placed
}

/// An order that has come to its end has no timer: what happens to its money is known by the event alone.
async fn refunds_of_orders_that_nobody_looks_at_any_more(house: &mut House, orders: &[Order]) {
    house.kill(ALL);
    house.start(BUT_ORDERING).await;
    let staff = house.sign_in("STAFF").await;
    let order = &orders[0];
    let key = house.key();
    let refund = RefundPaymentRequest { order_id: order.id.clone(), ..Default::default() };
    let mut payments = PaymentServiceClient::new(house.channel("payment"));
    let asked = patiently("a refund", async || payments.refund_payment(staff.request(refund.clone(), Some(&key))).await);
    asked.await.expect("a refund");
    house.counts("payment", "select count(*) from payment where status = 'REFUNDED'", 1).await;
    house.sent("payment").await;
    house.kill(BUT_ORDERING);
    house.empty().await;
    house.succeeds(&["events", "repeat"]);
    house.start(ALL).await;
    let visitor = house.sign_in("CUSTOMER").await;
    let refunded = |order: &Order| order.payment_status() == order::PaymentStatus::PaymentRefunded;
    all(house, &visitor, &orders[..1], "refunded", refunded).await;
    house.comes_to_rest().await;
    taken_and_given_back_are_two_events(house, &order.id).await;
}

/// An order that waits for its money and hears only that it was given back would wait for ever.
async fn taken_and_given_back_are_two_events(house: &mut House, order: &str) {
    house.kill(ALL);
    house.sql("ordering", &format!("update inbox_sequence set last_seq = 2 where aggregate = '{order}'")).await;
    house.succeeds(&["events", "repeat"]);
    let both = "select count(*) from outbox where (sequence, kind) in ((3, 'payment.processed'), (4, 'payment.refunded'))";
    assert_eq!(house.count("payment", both).await, 2);
    assert_eq!(house.count("payment", "select count(*) from outbox").await, 2);
    house.start(ALL).await;
    house.comes_to_rest().await;
}

/// Levels carry their version and nobody counts them; still the last one must come, for there may never be another.
async fn levels_that_catalog_never_hears_of(house: &mut House) {
    house.kill(ALL);
    let sold = "select available from product_stock order by version desc limit 1";
    let known = house.count("catalog", sold).await;
    house.sql("catalog", "update product_stock set available = 999999, version = version - 1").await;
    house.empty().await;
    house.succeeds(&["events", "repeat"]);
    house.start(ALL).await;
    house.counts("catalog", sold, known).await;
    house.counts("catalog", "select count(*) from product_stock where available = 999999", 0).await;
}

/// What is on its way is said twice, and taken once.
async fn nothing_changes_in_an_open_shop(house: &mut House, visitor: &Visitor) {
    let product = house.product().await;
    let mut placed = Vec::new();
    for _ in 0..4 {
        let key = house.key();
        placed.push(house.place(visitor, &product, &key, "tok_approve").await);
        house.succeeds(&["events", "repeat"]);
    }
    all(house, visitor, &placed, "paid", |order| order.status() == order::Status::Paid).await;
    house.comes_to_rest().await;
    assert_eq!(house.count("payment", "select count(*) from attempt where step = 'capture'").await, 9, "each is charged once");
}

/// A consumer that counts and does not say so would be passed over.
async fn all_who_count_are_known(house: &House) {
    let roles: [&dyn Role; 5] = [
        &mercato_catalog::Catalog,
        &mercato_inventory::Inventory,
        &mercato_ordering::Ordering,
        &mercato_payment::Payment,
        &mercato_customer::Customer,
    ];
    for role in roles {
        let known: Vec<String> = role.counts().iter().map(|(consumer, topic)| format!("('{consumer}', '{topic}')")).collect();
        let others = if known.is_empty() { String::new() } else { format!("where (consumer, topic) not in ({})", known.join(", ")) };
        let query = format!("select count(*) from inbox_sequence {others}");
        assert_eq!(house.count(role.name(), &query).await, 0, "{}: a consumer is not among `Role::counts`", role.name());
    }
}
