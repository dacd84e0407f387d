//! What an account is, and how a profile may change.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// A postal address as it is stored (JSON object in column `customer.address`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Street and house number.
    pub street: String,
    /// City or town.
    pub city: String,
    /// State, province or region; empty where addresses have none.
    #[serde(default)]
    pub state: String,
    /// Postal code.
    pub zip_code: String,
    /// ISO 3166-1 alpha-2 code; empty means the shop's home country.
    #[serde(default)]
    pub country_code: String,
}

/// Which notices a customer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preferences {
    /// By e-mail.
    pub email: bool,
    /// By text message.
    pub sms: bool,
}

impl Default for Preferences {
    fn default() -> Self {
        Self { email: true, sms: false }
    }
}

/// An account without any secret. No `Debug`: it is personal data.
#[derive(Clone)]
pub struct Customer {
    /// UUIDv7; the subject of its tokens.
    pub id: Uuid,
    /// Name to sign in with; unique without regard to case.
    pub username: String,
    /// E-mail address, lower case.
    pub email: String,
    /// Postal address, if given.
    pub address: Option<Address>,
    /// Telephone number; may be empty.
    pub phone: String,
    /// Which notices to send.
    pub preferences: Preferences,
    /// What the account may do beside shopping.
    pub roles: Vec<String>,
    /// 1, 2, 3, ...; etag and event sequence.
    pub version: i64,
    /// When the account was made.
    pub created_at: OffsetDateTime,
    /// When it last changed.
    pub updated_at: OffsetDateTime,
}

impl Customer {
    /// The version as clients see it.
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// Whether a client that read `etag` still sees the present. An empty one means it does not care. Quotes around it are allowed, as
    /// HTTP writes etags.
    pub fn matches(&self, etag: &str) -> bool {
        etag.is_empty() || etag.trim_matches('"') == self.version.to_string()
    }
}

/// What a new account is made of. The roles are not here: nobody gives them to himself.
#[derive(Clone)]
pub struct NewCustomer {
    /// UUIDv7.
    pub id: Uuid,
    /// Name to sign in with.
    pub username: String,
    /// E-mail address, lower case.
    pub email: String,
    /// Postal address, if given.
    pub address: Option<Address>,
    /// Telephone number; may be empty.
    pub phone: String,
}

/// The form in which names and addresses are compared and looked up.
pub fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

/// A field of the profile that its owner may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Name to sign in with.
    Username,
    /// Postal address.
    Address,
    /// Telephone number.
    Phone,
    /// Notices by e-mail.
    NotifyEmail,
    /// Notices by text message.
    NotifySms,
}

impl Field {
    /// The fields behind one path of an update mask, in snake or camel case; `None` when the owner may not change it.
    pub fn of_path(path: &str) -> Option<&'static [Field]> {
        Some(match path {
            "username" => &[Field::Username],
            "address" => &[Field::Address],
            "phone" => &[Field::Phone],
            "notification_preferences" | "notificationPreferences" => &[Field::NotifyEmail, Field::NotifySms],
            "notification_preferences.email" | "notificationPreferences.email" => &[Field::NotifyEmail],
            "notification_preferences.sms" | "notificationPreferences.sms" => &[Field::NotifySms],
            "*" => &[Field::Username, Field::Address, Field::Phone, Field::NotifyEmail, Field::NotifySms],
            _ => return None,
        })
    }

    /// Its name in `CustomerUpdated.fields`.
    pub fn name(self) -> &'static str {
        match self {
            Field::Username => "username",
            Field::Address => "address",
            Field::Phone => "phone",
            Field::NotifyEmail => "notification_preferences.email",
            Field::NotifySms => "notification_preferences.sms",
        }
    }
}

/// A change to a profile: the new values, of which only the named fields count.
#[derive(Clone)]
pub struct Patch {
    /// The fields that change, sorted, without repetition.
    pub fields: Vec<Field>,
    /// New name.
    pub username: String,
    /// New address; `None` removes it.
    pub address: Option<Address>,
    /// New number; empty removes it.
    pub phone: String,
    /// New preferences.
    pub preferences: Preferences,
    /// The version the change was made on; empty: whatever is there.
    pub etag: String,
}

impl Patch {
    /// Writes the named fields into `customer` and nothing else.
    pub fn apply(&self, customer: &mut Customer) {
        for field in &self.fields {
            match field {
                Field::Username => customer.username.clone_from(&self.username),
                Field::Address => customer.address.clone_from(&self.address),
                Field::Phone => customer.phone.clone_from(&self.phone),
                Field::NotifyEmail => customer.preferences.email = self.preferences.email,
                Field::NotifySms => customer.preferences.sms = self.preferences.sms,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Customer {
        Customer {
            id: Uuid::nil(),
            username: "sample".into(),
            email: "sample@example.com".into(),
            address: None,
            phone: "1".into(),
            preferences: Preferences::default(),
            roles: vec!["admin".into()],
            version: 7,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_etag_matches_its_version_only() {
        let customer = sample();
        assert!(customer.matches("") && customer.matches("\"7\"") && customer.matches(&customer.etag()));
        assert!(!customer.matches("\"6\"") && !customer.matches("07"));
    }

    proptest! {
        #[test]
        fn a_patch_changes_the_named_fields_and_nothing_else(mask in proptest::collection::btree_set(0usize..5, 0..5), sms: bool, email: bool) {
            let all = Field::of_path("*").expect("known path");
            let fields: Vec<Field> = mask.iter().map(|at| all[*at]).collect();
            let patch = Patch {
                fields: fields.clone(), username: "other".into(), address: Some(Address::default()), phone: "2".into(),
                preferences: Preferences { email, sms }, etag: String::new(),
            };
            let (before, mut after) = (sample(), sample());
            patch.apply(&mut after);
            let has = |field| fields.contains(&field);
            prop_assert_eq!(after.username == "other", has(Field::Username));
            prop_assert_eq!(after.address.is_some(), has(Field::Address));
            prop_assert_eq!(after.phone == "2", has(Field::Phone));
            prop_assert_eq!(after.preferences.email, if has(Field::NotifyEmail) { email } else { before.preferences.email });
            prop_assert_eq!(after.preferences.sms, if has(Field::NotifySms) { sms } else { before.preferences.sms });
            prop_assert_eq!((after.roles, after.email, after.version), (before.roles, before.email, before.version));
        }

        #[test]
        fn no_other_path_is_writable(path in "[a-z_.]{1,24}") {
            let known = ["username", "address", "phone", "notification_preferences", "notification_preferences.email", "notification_preferences.sms"];
            prop_assert_eq!(Field::of_path(&path).is_some(), known.contains(&path.as_str()));
        }
    }

    #[test]
    fn secrets_and_roles_are_not_writable() {
        for path in ["roles", "email", "id", "password", "etag", "version", "created_at", "customer_id"] {
            assert!(Field::of_path(path).is_none(), "{path}");
        }
    }
}
