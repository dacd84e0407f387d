//! Between the contract's messages and the domain. What a message cannot say (roles, id, version) cannot get in here.

use mercato_contracts::mercato::customer::v1 as proto;
use mercato_contracts::mercato::r#type::v1 as types;
use prost_types::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::sessions::Tokens;
use crate::domain::account::{Address, Customer, Field, NewCustomer, Patch, Preferences, fold};
use crate::error::Error;

/// An account as its owner and staff see it.
pub fn customer(customer: Customer) -> proto::Customer {
    let etag = customer.etag();
    proto::Customer {
        id: customer.id.to_string(),
        username: customer.username,
        email: customer.email,
        address: customer.address.map(address_out),
        phone: customer.phone,
        notification_preferences: Some(proto::NotificationPreferences { email: customer.preferences.email, sms: customer.preferences.sms }),
        roles: customer.roles,
        created_at: Some(timestamp(customer.created_at)),
        updated_at: Some(timestamp(customer.updated_at)),
        etag,
    }
}

/// A new account, and its password apart from it.
pub fn registration(request: proto::RegisterCustomerRequest, id: Uuid) -> (NewCustomer, SecretString) {
    let new = NewCustomer {
        id,
        username: request.username,
        email: fold(&request.email),
        address: request.address.map(address_in),
        phone: request.phone,
    };
    (new, request.password.into())
}

/// A change to a profile.
///
/// # Errors
/// [`Error::UpdateMaskInvalid`] for a path that its owner may not change, [`Error::RequestInvalid`] when the name would be removed.
pub fn patch(request: proto::UpdateCustomerRequest) -> Result<Patch, Error> {
    let new = request.customer.unwrap_or_default();
    let mut fields = match request.update_mask {
        Some(mask) if !mask.paths.is_empty() => masked(mask.paths)?,
        _ => present(&new),
    };
    fields.sort_unstable();
    fields.dedup();
    if new.username.is_empty() && fields.contains(&Field::Username) {
        return Err(Error::RequestInvalid { field: "customer.username", text: "must not be empty" });
    }
    let preferences = new.notification_preferences.unwrap_or_default();
    Ok(Patch {
        fields,
        username: new.username,
        address: new.address.map(address_in),
        phone: new.phone,
        preferences: Preferences { email: preferences.email, sms: preferences.sms },
        etag: new.etag,
    })
}

fn masked(paths: Vec<String>) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    for path in paths {
        match Field::of_path(&path) {
            Some(found) => fields.extend_from_slice(found),
            None => return Err(Error::UpdateMaskInvalid { field: path }),
        }
    }
    Ok(fields)
}

/// Without a mask the fields that are set are meant.
fn present(new: &proto::CustomerPatch) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut add = |is_set: bool, field: &[Field]| fields.extend_from_slice(if is_set { field } else { &[] });
    add(!new.username.is_empty(), &[Field::Username]);
    add(new.address.is_some(), &[Field::Address]);
    add(!new.phone.is_empty(), &[Field::Phone]);
    add(new.notification_preferences.is_some(), &[Field::NotifyEmail, Field::NotifySms]);
    fields
}

/// Tokens as OAuth 2.0 names them. `life` in seconds.
pub fn tokens(tokens: &Tokens, life: i32) -> proto::TokenResponse {
    proto::TokenResponse {
        access_token: tokens.access.expose_secret().to_owned(),
        token_type: "Bearer".to_owned(),
        expires_in: life,
        refresh_token: tokens.refresh.expose_secret().to_owned(),
    }
}

fn address_in(address: types::Address) -> Address {
    Address {
        street: address.street,
        city: address.city,
        state: address.state,
        zip_code: address.zip_code,
        country_code: address.country_code,
    }
}

fn address_out(address: Address) -> types::Address {
    types::Address {
        street: address.street,
        city: address.city,
        state: address.state,
        zip_code: address.zip_code,
        country_code: address.country_code,
    }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use prost_types::FieldMask;

    use super::*;

    fn request(paths: &[&str], customer: proto::CustomerPatch) -> proto::UpdateCustomerRequest {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
        proto::UpdateCustomerRequest { customer_id: "me".into(), customer: Some(customer), update_mask }
    }

    #[test]
    fn without_a_mask_the_fields_that_are_set_change() {
        let new = proto::CustomerPatch { phone: "1".into(), etag: "3".into(), ..Default::default() };
        let patch = patch(request(&[], new)).unwrap();
        assert_eq!((patch.fields, patch.etag.as_str()), (vec![Field::Phone], "3"));
    }

    #[test]
    fn a_mask_may_clear_but_not_the_name() {
        let clear = patch(request(&["phone", "address", "phone"], Default::default())).unwrap();
        assert_eq!(clear.fields, vec![Field::Address, Field::Phone]);
        assert!(matches!(patch(request(&["username"], Default::default())), Err(Error::RequestInvalid { .. })));
        assert!(
            matches!(patch(request(&["phone", "roles"], Default::default())), Err(Error::UpdateMaskInvalid { field }) if field == "roles")
        );
    }
}
