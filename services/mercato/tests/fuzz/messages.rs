//! Messages: every request anybody can send, every event, and what is made of them before a store is asked.

use super::{
    corpus,
    engine::Target,
    mutate::{self, Rng},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::Full;
use mercato_catalog::convert as catalog_convert;
use mercato_chassis::money::{Currency, Money};
use mercato_contracts::{
    codec::Checked,
    mercato::{catalog, customer, inventory, ordering, payment},
    methods::METHODS,
    validate::{self, Validate},
};
use mercato_ordering::{convert as order_convert, domain::Order, events};
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::collections::BTreeSet;
use tonic::{Code, Status, Streaming, codec::Codec as _};

/// The most that may travel in the headers of an answer.
const DETAILS: usize = 8 * 1024;
/// Requests are the face we show to strangers: they get most of the inputs.
const REQUEST: usize = 6;
const OTHER: usize = 2;
const AT: time::OffsetDateTime = time::OffsetDateTime::UNIX_EPOCH;

/// Decodes as the codec of a server does, and holds what must be true of whatever comes out.
fn read<M>(bytes: &[u8]) -> Option<M>
where
    M: Message + Default + Validate + Send + 'static,
{
    let message = M::decode(bytes).ok();
    let verdict = message.as_ref().map(validate::check);
    // one in sixteen goes the whole way through the codec
    if bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).is_multiple_of(16) {
        let refused = through_codec::<M>(bytes).err().map(|status| status.code());
        let expected = (!matches!(verdict, Some(Ok(())))).then_some(Code::InvalidArgument);
        assert_eq!(refused, expected, "the codec judges otherwise than its parts");
    }
    let message = message?;
    // what the idempotency key is bound to: the encoding of what was understood, which must be the same each time
    let encoded = message.encode_to_vec();
    let again = M::decode(encoded.as_slice()).expect("what we encode, we read").encode_to_vec();
    assert!(encoded == again, "the fingerprint of a request is not stable");
    match verdict? {
        Ok(()) => Some(message),
        Err(violations) => {
            let status = violations.into_status();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(!status.message().is_empty(), "a refusal that says nothing");
            assert!(status.details().len() + status.message().len() < DETAILS, "a refusal of {} bytes", status.details().len());
            None
        }
    }
}

/// Reads one request from a stream, as tonic does it for a server.
fn through_codec<M>(bytes: &[u8]) -> Result<M, Status>
where
    M: Message + Default + Validate + Send + 'static,
{
    let mut frame = BytesMut::with_capacity(bytes.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes.len()).expect("inputs are short"));
    frame.put_slice(bytes);
    let decoder = Checked::<(), M>::default().decoder();
    let mut stream = Streaming::new_request(decoder, Full::<Bytes>::new(frame.freeze()), None, Some(1024 * 1024));
    let first = stream.message().now_or_never().expect("all bytes are there")?;
    Ok(first.expect("a frame was sent"))
}

macro_rules! targets {
    (@then $message:ty,) => {
        drop::<$message> as fn($message)
    };
    (@then $message:ty, $then:expr) => {{
        let then: fn($message) = $then;
        then
    }};
    ($pool:expr, $($package:ident { $($name:ident $(=> $then:expr)?),* $(,)? })*) => {
        vec![$($({
            let then = targets!(@then $package::v1::$name, $($then)?);
            target($pool, concat!("mercato.", stringify!($package), ".v1.", stringify!($name)), move |bytes| {
                if let Some(message) = read::<$package::v1::$name>(bytes) { then(message); }
            })
        }),*),*]
    };
}

fn target(pool: &DescriptorPool, name: &str, run: impl Fn(&[u8]) + Send + Sync + 'static) -> Target {
    let message = pool.get_message_by_name(name).unwrap_or_else(|| panic!("no message {name}"));
    let share = if name.ends_with("Request") { REQUEST } else { OTHER };
    Target { name: name.to_owned(), corpus: corpus::of(&message), mutate: mutate::message, run: Box::new(run), share }
}

fn eur() -> Currency {
    Currency::find("EUR").expect("a currency")
}

/// One target a message.
pub fn all(pool: &DescriptorPool) -> Vec<Target> {
    let mut targets = targets!(pool,
        catalog {
            GetProductRequest, BatchGetProductsRequest, ListCategoriesRequest, DeleteProductRequest,
            ListProductsRequest => |request| drop(catalog_convert::listing(&request, eur())),
            CreateProductRequest => |request| drop(catalog_convert::details(request, eur())),
            UpdateProductRequest => |request| drop(catalog_convert::change(request.product.unwrap_or_default(), request.update_mask, eur())),
            ProductCreated, ProductUpdated, ProductDeleted,
        }
        customer {
            LoginRequest, RefreshTokenRequest, LogoutRequest, RegisterCustomerRequest, GetCustomerRequest, UpdateCustomerRequest,
            SetCustomerRolesRequest, GetJsonWebKeySetRequest, CustomerRegistered, CustomerUpdated, CustomerRolesChanged,
        }
        inventory {
            GetStockRequest, SetStockRequest, ListStockChangesRequest, CommitReservationRequest, CommitReservationsRequest,
            ReleaseReservationRequest, GetReservationRequest,
            ReserveRequest => |request| drop(mercato_inventory::convert::reserve(&request)),
            InventoryUpdated, InventoryReserved, InventoryCommitted, InventoryReleased,
        }
        ordering {
            GetOrderRequest, ListOrdersRequest, CancelOrderRequest, GetOrderTimelineRequest, WatchOrderRequest, ListStuckOrdersRequest,
            RetryOrderRequest,
            PlaceOrderRequest => money,
            Order => |order| if let Ok(order) = order_convert::order_from_proto(&order, true, String::new()) {
                drop(order_convert::order_to_proto(&order));
            },
            OrderCreated, OrderPaymentAuthorized, OrderPaymentUnknown, OrderConfirmed, OrderPaymentProcessed, OrderPaymentFailed,
            OrderCancelled, OrderPaymentReturned, OrderStockReleased, OrderCompleted, OrderFailed,
        }
        payment {
            GetPaymentRequest, RefundPaymentRequest, ReceiveWebhookRequest, GetOrderPaymentRequest,
            PaymentInitiated, PaymentAuthorized, PaymentUnknown, PaymentProcessed, PaymentFailed, PaymentVoided, PaymentRefunded,
            PaymentStuck,
        }
    );
    targets.push(story(pool));
    targets
}

/// The amounts a customer shows us, in all their forms.
fn money(request: ordering::v1::PlaceOrderRequest) {
    if let Some(total) = &request.expected_total
        && let Ok(money) = Money::parse(&total.currency_code, &total.amount)
    {
        let text = money.to_amount();
        assert_eq!(Money::parse(money.currency().code(), &text).map(|again| again.minor()), Ok(money.minor()), "{text}");
        drop((money.checked_mul(999), money.checked_add(money), money.split(&[1, 2, 3])));
    }
    for number in request.total_amount.into_iter().chain(request.items.iter().filter_map(|item| item.price)) {
        let read = Money::from_f64_exact("EUR", number);
        assert!(read.is_err() || number.is_finite(), "{number} is no amount");
    }
}

/// The story of an order as it is stored: a kind and a payload, told to an order that has begun.
fn story(pool: &DescriptorPool) -> Target {
    const KINDS: [(&str, &str); 11] = [
        ("order.created", "OrderCreated"),
        ("order.payment_authorized", "OrderPaymentAuthorized"),
        ("order.payment_unknown", "OrderPaymentUnknown"),
        ("order.confirmed", "OrderConfirmed"),
        ("order.payment_processed", "OrderPaymentProcessed"),
        ("order.payment_failed", "OrderPaymentFailed"),
        ("order.cancelled", "OrderCancelled"),
        ("order.payment_returned", "OrderPaymentReturned"),
        ("order.stock_released", "OrderStockReleased"),
        ("order.completed", "OrderCompleted"),
        ("order.failed", "OrderFailed"),
    ];
    let mut corpus = Vec::new();
    for (place, (_, name)) in KINDS.iter().enumerate() {
        let message = pool.get_message_by_name(&format!("mercato.ordering.v1.{name}")).expect("an event of ours");
        let marked = |payload: Vec<u8>| [vec![u8::try_from(place).expect("few kinds")], payload].concat();
        corpus.extend(corpus::of(&message).into_iter().take(6).map(marked));
    }
    let run = |bytes: &[u8]| {
        let Some((kind, payload)) = bytes.split_first() else { return };
        let kind = KINDS[usize::from(*kind) % KINDS.len()].0;
        let Ok(event) = events::decode(kind, payload) else { return };
        assert_eq!(events::kind(&event), kind);
        drop(events::describe(&event));
        if let events_created @ mercato_ordering::domain::Event::Created { placed, .. } = &event {
            let mut order = Order::created(placed.clone(), AT);
            order.apply(events_created, AT);
            let again = events::decode(kind, &events::payload(events_created, &order)).expect("what we write, we read");
            assert_eq!(&again, events_created);
        }
    };
    let mutate = |rng: &mut Rng, corpus: &[Vec<u8>]| {
        let kind = rng.of(corpus).first().copied().unwrap_or_default();
        let payloads: Vec<Vec<u8>> = corpus.iter().map(|input| input[1..].to_vec()).collect();
        [vec![kind], mutate::message(rng, &payloads)].concat()
    };
    Target { name: "the story of an order".into(), corpus, mutate, run: Box::new(run), share: 3 * OTHER }
}

/// Messages that ought to be targets and are none.
pub fn forgotten(pool: &DescriptorPool, targets: &[Target]) -> Vec<String> {
    let known: BTreeSet<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let inputs = METHODS.iter().filter_map(|method| {
        let service = pool.get_service_by_name(method.service)?;
        service.methods().find(|m| m.name() == method.name).map(|m| m.input())
    });
    let events = pool.all_messages().filter(|message| message.parent_file().name().ends_with("/events.proto"));
    let wanted: BTreeSet<String> = inputs.chain(events).map(|message: MessageDescriptor| message.full_name().to_owned()).collect();
    wanted.into_iter().filter(|name| !known.contains(name.as_str())).collect()
}
