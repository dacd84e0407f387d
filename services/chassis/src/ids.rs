//! Identifiers.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// A new id. Ids grow with time, so that index pages fill in order.
pub fn new() -> Uuid {
    Uuid::now_v7()
}

/// The id (UUIDv8) that always follows from these parts; for things that must come into being once however often they are asked for.
pub fn derived(label: &str, parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in std::iter::once(&label).chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    #[test]
    fn derived_ids_depend_on_every_part_and_its_borders() {
        let id = super::derived("x", &["ab", "c"]);
        assert_eq!(id, super::derived("x", &["ab", "c"]));
        assert_ne!(id, super::derived("x", &["a", "bc"]));
        assert_eq!(id.get_version_num(), 8);
    }
}
