//! Good messages of a type, made from its descriptor: fields hold what their names promise, so that many keep every rule.

use super::mutate::Rng;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// Messages made for each type.
const EACH: u64 = 24;
const ID: &str = "01890000-0000-7000-8000-000000000000";

/// Some messages of a type, encoded; the first has every field set.
pub fn of(message: &MessageDescriptor) -> Vec<Vec<u8>> {
    use prost::Message as _;
    (0..EACH).map(|seed| made(&mut Rng::new(seed), message, seed == 0, 0).encode_to_vec()).collect()
}

fn made(rng: &mut Rng, message: &MessageDescriptor, full: bool, depth: usize) -> DynamicMessage {
    let mut made = DynamicMessage::new(message.clone());
    if depth > 5 {
        return made;
    }
    for field in message.fields() {
        if full || !rng.once_in(5) {
            let value = if field.is_list() {
                let many = if full { 2 } else { rng.below(3) };
                Value::List((0..many).map(|_| single(rng, &field, full, depth)).collect())
            } else if field.is_map() {
                continue;
            } else {
                single(rng, &field, full, depth)
            };
            made.set_field(&field, value);
        }
    }
    made
}

fn single(rng: &mut Rng, field: &FieldDescriptor, full: bool, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(message) => Value::Message(made(rng, &message, full, depth + 1)),
        Kind::String => Value::String(word(rng, field.name())),
        Kind::Bytes => Value::Bytes(rng.bytes(8).into()),
        Kind::Bool => Value::Bool(rng.once_in(2)),
        Kind::Double => Value::F64(29.99),
        Kind::Float => Value::F32(0.5),
        Kind::Enum(of) => {
            let values: Vec<i32> = of.values().map(|value| value.number()).collect();
            Value::EnumNumber(*rng.of(&values))
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(1 + i32::from(rng.next().to_le_bytes()[0] % 90)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(1 + i64::from(rng.next().to_le_bytes()[0])),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(1),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(1),
    }
}

/// A text that a field of this name may hold.
fn word(rng: &mut Rng, name: &str) -> String {
    let choices: &[&str] = match name {
        "customer_id" => &["me", ID],
        "id" | "product_ids" => &[ID],
        _ if name.ends_with("_id") && name != "warehouse_id" && name != "currency_id" => &[ID],
        "currency_code" => &["EUR", "JPY", "USD"],
        "country_code" => &["DE", ""],
        "amount" | "price_min" | "price_max" => &["29.99", "0", "1.5", "9999999999999", "12.3456"],
        "email" => &["a@example.com", "a.b+c@sub.example.com"],
        "zip_code" => &["50667"],
        "category" => &["tools", "home-textiles"],
        "roles" => &["staff", "support", "admin"],
        "paths" => &["name", "price", "sellable", "address", "phone"],
        "phone" => &["+49 221 123456", ""],
        "provider" => &["dev"],
        "payment_method" => &["credit_card", "paypal"],
        _ => &["plain", "word", "main", "a-b_c"],
    };
    (*rng.of(choices)).to_owned()
}
