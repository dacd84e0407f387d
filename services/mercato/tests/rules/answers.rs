//! Which field is told to whom. A field that is new in an answer is no answer's business until somebody has written down who may see it.

use mercato_contracts::methods::{Caller, METHODS};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use std::collections::BTreeSet;

/// Who reads the answers of a method.
fn reader(caller: Caller) -> Option<&'static str> {
    match caller {
        Caller::Public => Some("everybody"),
        Caller::User | Caller::OwnerField(_) => Some("owner"),
        Caller::Roles(_) => Some("staff"),
        Caller::Peer => None,
    }
}

/// Every field of every public answer, `<reader> <message>.<field>`.
pub fn told() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(mercato_contracts::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let mut told = BTreeSet::new();
    for method in METHODS {
        let Some(reader) = reader(method.caller) else { continue };
        let service = pool.get_service_by_name(method.service).expect("a service of ours");
        let output = service.methods().find(|m| m.name() == method.name).expect("a method of ours").output();
        fields(reader, &output, &mut told);
    }
    told
}

fn fields(reader: &str, message: &MessageDescriptor, told: &mut BTreeSet<String>) {
    for field in message.fields() {
        let new = told.insert(format!("{reader} {}", field.full_name()));
        if let Kind::Message(inner) = field.kind()
            && new
        {
            fields(reader, &inner, told);
        }
    }
}

/// What is told and not written down, and the other way round.
pub fn faults(told: &BTreeSet<String>, written: &str) -> Vec<String> {
    let written: BTreeSet<String> = written.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect();
    let new = told.difference(&written).map(|line| format!("may they see it? Then add to rules/answers.txt: {line}"));
    let gone = written.difference(told).map(|line| format!("no answer tells this any more, take it out of rules/answers.txt: {line}"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_field_is_found() {
        let mut told = told();
        assert!(told.contains("owner mercato.ordering.v1.Order.user_id"), "{told:?}");
        let written = told.iter().cloned().collect::<Vec<_>>().join("\n");
        told.insert("everybody mercato.customer.v1.Customer.password_hash".into());
        assert_eq!(faults(&told, &written).len(), 1);
        assert_eq!(faults(&BTreeSet::new(), "# a comment\n\nowner a.b").len(), 1);
    }
}
