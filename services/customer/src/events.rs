//! Events of topic `customers`. They name ids, fields and roles, never a value of the profile.

use mercato_chassis::outbox::Event;
use mercato_contracts::mercato::customer::v1 as proto;

use crate::domain::account::{Customer, Field};

/// Topic of all events of this service.
pub const TOPIC: &str = "customers";

/// The account exists.
pub fn registered(customer: &Customer) -> Event {
    event(customer, "customer.registered", &proto::CustomerRegistered { customer_id: customer.id.to_string() })
}

/// The profile changed.
pub fn updated(customer: &Customer, fields: &[Field]) -> Event {
    let fields = fields.iter().map(|field| field.name().to_owned()).collect();
    event(customer, "customer.updated", &proto::CustomerUpdated { customer_id: customer.id.to_string(), fields })
}

/// The roles were set.
pub fn roles_changed(customer: &Customer) -> Event {
    let payload = proto::CustomerRolesChanged { customer_id: customer.id.to_string(), roles: customer.roles.clone() };
    event(customer, "customer.roles_changed", &payload)
}

/// Every version of an account has exactly one event, so the version is its sequence.
fn event(customer: &Customer, kind: &'static str, payload: &impl prost::Message) -> Event {
    Event::new(TOPIC, kind, customer.id, customer.version, payload)
}
