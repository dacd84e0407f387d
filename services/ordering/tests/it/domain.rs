//! Whatever neighbours say, in whatever order and however often: the order only ever walks its allowed ways.

use mercato_chassis::money::Money;
use mercato_ordering::domain::pricing::{self, Offer, PricingError, Wanted};
use mercato_ordering::domain::{Address, Command, Event, Line, Order, PaymentStatus, Placed, Status, decide};
use mercato_ordering::events;
use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

fn money(amount: &str) -> Money {
    Money::parse("EUR", amount).expect("a good amount")
}

fn placed() -> Placed {
    let line = Line { product_id: Uuid::now_v7(), name: "cup".into(), quantity: 2, price: money("4.50"), total: money("9.00") };
    Placed {
        id: Uuid::now_v7(),
        customer_id: Uuid::now_v7(),
        lines: vec![line],
        total: money("9.00"),
        address: Address { street: "a".into(), city: "b".into(), zip_code: "123".into(), ..Address::default() },
        payment_method: "credit_card".into(),
    }
}

fn new_order() -> Order {
    Order::created(placed(), OffsetDateTime::UNIX_EPOCH)
}

fn tell(order: &mut Order, command: Command) -> Vec<Event> {
    let events = decide(order, command).unwrap_or_default();
    for event in &events {
        order.apply(event, OffsetDateTime::UNIX_EPOCH);
    }
    events
}

fn any_command() -> impl Strategy<Value = Command> {
    let id = || "pay".to_owned();
    prop_oneof![
        Just(Command::PaymentAuthorized { payment_id: id() }),
        Just(Command::PaymentUnknown { payment_id: id() }),
        Just(Command::PaymentFailed { payment_id: id(), reason: "PAYMENT_DECLINED".into() }),
        Just(Command::PaymentProcessed { payment_id: id() }),
        any::<bool>().prop_map(move |refunded| Command::PaymentReturned { payment_id: id(), refunded }),
        Just(Command::PaymentStuck { step: "capture".into() }),
        Just(Command::StockCommitted),
        Just(Command::StockGone),
        Just(Command::StockReleased),
        Just(Command::Cancel { reason: "CANCELLED_BY_CUSTOMER".into() }),
    ]
}

fn allowed(from: Status, to: Status) -> bool {
    use Status::*;
    from == to
        || matches!(
            (from, to),
            (Pending, Confirmed | Cancelled | NeedsOperator)
                | (Confirmed, Paid | NeedsOperator)
                | (Cancelled, NeedsOperator)
                | (Paid, Completed)
                | (NeedsOperator, Paid | Cancelled)
        )
}

proptest! {
    /// I-12: confirmed only after authorised, paid only after confirmed, and no step back.
    #[test]
    fn no_step_out_of_order(commands in prop::collection::vec(any_command(), 0..40)) {
        let mut order = new_order();
        let mut ever = (false, false);
        for command in commands {
            let before = order.status;
            for event in tell(&mut order, command) {
                match event {
                    Event::PaymentAuthorized { .. } => ever.0 = true,
                    Event::Confirmed => { prop_assert!(ever.0, "confirmed without an authorisation"); ever.1 = true; }
                    Event::PaymentProcessed { .. } => prop_assert!(ever.1, "captured without a confirmation"),
                    _ => {}
                }
            }
            prop_assert!(allowed(before, order.status), "{before:?} -> {:?}", order.status);
        }
    }

    /// I-13: versions count every event, and what was stored folds to the same order.
    #[test]
    fn the_stream_folds_to_the_order(commands in prop::collection::vec(any_command(), 0..40)) {
        let mut order = new_order();
        let created = Event::Created { placed: order.placed.clone(), payment_token: "tok".into() };
        let mut stored = vec![(events::kind(&created), events::payload(&created, &order))];
        for command in commands {
            let mut so_far = order.clone();
            for event in tell(&mut order, command) {
                so_far.apply(&event, OffsetDateTime::UNIX_EPOCH);
                stored.push((events::kind(&event), events::payload(&event, &so_far)));
            }
        }
        prop_assert_eq!(order.version, i64::try_from(stored.len()).expect("few"));
        let Event::Created { placed, .. } = events::decode(stored[0].0, &stored[0].1).expect("readable") else {
            return Err(TestCaseError::fail("the first event is no order.created"));
        };
        let mut folded = Order::created(placed, OffsetDateTime::UNIX_EPOCH);
        for (kind, payload) in &stored[1..] {
            folded.apply(&events::decode(kind, payload).expect("readable"), OffsetDateTime::UNIX_EPOCH);
        }
        prop_assert_eq!(folded, order);
    }

    /// A message that comes twice changes nothing the second time.
    #[test]
    fn the_second_time_nothing_happens(commands in prop::collection::vec(any_command(), 1..30)) {
        let mut order = new_order();
        for command in commands {
            tell(&mut order, command.clone());
            let again = decide(&order, command).unwrap_or_default();
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }

    /// I-11: a cancelled order stays open until the stock is released and no money is in the air.
    #[test]
    fn a_cancelled_order_is_open_until_everything_went_back(commands in prop::collection::vec(any_command(), 0..40)) {
        let mut order = new_order();
        commands.into_iter().for_each(|c| drop(tell(&mut order, c)));
        if order.status == Status::Cancelled && !order.open() {
            prop_assert!(!order.stock_held);
            prop_assert!(matches!(order.payment_status, PaymentStatus::Failed | PaymentStatus::Voided | PaymentStatus::Refunded));
        }
    }

    /// The total is the sum of the lines, in whole minor units, for any prices and quantities.
    #[test]
    fn the_total_is_the_sum_of_the_lines(lines in prop::collection::vec((0_i64..1_000_000, 1_i32..999), 1..20)) {
        let wanted: Vec<Wanted> = lines.iter().map(|(_, quantity)| Wanted { product_id: Uuid::now_v7(), quantity: *quantity, shown_price: None }).collect();
        let offers = lines.iter().map(|(minor, _)| Offer { name: "x".into(), price: Money::from_minor("EUR", *minor).expect("in range") }).collect();
        let (priced, total) = pricing::price(&wanted, offers).expect("in range");
        prop_assert_eq!(total.minor(), lines.iter().map(|(minor, quantity)| minor * i64::from(*quantity)).sum::<i64>());
        prop_assert_eq!(priced.len(), lines.len());
    }
}

#[test]
fn a_declined_payment_cancels_with_its_reason() {
    let mut order = new_order();
    tell(&mut order, Command::PaymentFailed { payment_id: "p".into(), reason: "PAYMENT_DECLINED".into() });
    assert_eq!((order.status, order.payment_status, order.reason.as_str()), (Status::Cancelled, PaymentStatus::Failed, "PAYMENT_DECLINED"));
    assert!(order.open(), "the stock is still held");
    tell(&mut order, Command::StockReleased);
    assert!(!order.open());
}

#[test]
fn an_authorisation_after_the_cancellation_confirms_nothing() {
    let mut order = new_order();
    tell(&mut order, Command::Cancel { reason: "CANCELLED_BY_CUSTOMER".into() });
    assert!(tell(&mut order, Command::PaymentAuthorized { payment_id: "p".into() }).is_empty());
    assert!(tell(&mut order, Command::StockCommitted).is_empty());
}

#[test]
fn a_confirmed_order_cannot_be_cancelled() {
    let mut order = new_order();
    tell(&mut order, Command::PaymentAuthorized { payment_id: "p".into() });
    tell(&mut order, Command::StockCommitted);
    assert!(decide(&order, Command::Cancel { reason: "CANCELLED_BY_CUSTOMER".into() }).is_err());
}

#[test]
fn what_the_customer_was_shown_must_be_the_price() {
    let id = Uuid::now_v7();
    let judge = |shown, shown_total: Option<&str>| {
        let wanted = vec![Wanted { product_id: id, quantity: 2, shown_price: Some(shown) }];
        let (lines, total) = pricing::price(&wanted, vec![Offer { name: "cup".into(), price: money("29.99") }]).expect("in range");
        pricing::agree(&wanted, &lines, total, shown_total.map(money))
    };
    assert_eq!(judge(29.99, None), Ok(()));
    assert_eq!(judge(29.99, Some("59.98")), Ok(()));
    assert_eq!(judge(29.999, None), Err(PricingError::AmountInvalid));
    let Err(PricingError::PriceChanged(change)) = judge(19.99, None) else { panic!("another unit price passed") };
    assert_eq!((change.expected_total, change.actual_total), (money("39.98"), money("59.98")));
    assert_eq!(change.unit, Some((id, money("19.99"), money("29.99"))));
    let Err(PricingError::PriceChanged(change)) = judge(29.99, Some("50.00")) else { panic!("another total passed") };
    assert_eq!((change.expected_total, change.actual_total, change.unit), (money("50.00"), money("59.98"), None));
}

#[test]
fn currencies_are_never_added_up() {
    let wanted: Vec<Wanted> = (0..2).map(|_| Wanted { product_id: Uuid::now_v7(), quantity: 1, shown_price: None }).collect();
    let dollars = Money::parse("USD", "1.00").expect("good");
    let offers = vec![Offer { name: "a".into(), price: money("1.00") }, Offer { name: "b".into(), price: dollars }];
    assert_eq!(pricing::price(&wanted, offers).expect_err("mixed"), PricingError::CurrencyMixed);
}

#[test]
fn a_product_may_appear_once() {
    let line = Wanted { product_id: Uuid::now_v7(), quantity: 1, shown_price: None };
    assert_eq!(pricing::distinct(&[line.clone(), line.clone()]), Err(PricingError::Repeated(line.product_id)));
}
