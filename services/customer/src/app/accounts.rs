//! Accounts: made, read, changed.

use std::time::Duration;

use mercato_chassis::call::Scope;
use mercato_chassis::error::{Fault, constraint};
use mercato_chassis::idempotency::{self, Answer, Key};
use mercato_chassis::pg::Db;
use mercato_chassis::{ids, outbox};
use mercato_contracts::mercato::customer::v1 as proto;
use secrecy::SecretString;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::passwords::Passwords;
use crate::domain::account::{Customer, NewCustomer, Patch, fold};
use crate::error::Error;
use crate::store::customers::{EMAIL_KEY, USERNAME_KEY};
use crate::store::{customers, sessions};
use crate::{convert, events};

/// The account use cases.
#[derive(Clone)]
pub struct Accounts {
    db: Db,
    passwords: Passwords,
}

impl Accounts {
    /// Accounts kept in `db`.
    pub fn new(db: Db, passwords: Passwords) -> Accounts {
        Accounts { db, passwords }
    }

    /// Makes an account. The password is hashed before the transaction, and not at all for a repetition.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::UsernameTaken`], and faults.
    pub async fn register(
        &self,
        key: &Key,
        new: NewCustomer,
        password: SecretString,
        deadline: Instant,
    ) -> Result<Answer<proto::Customer>, Error> {
        if let Some(known) = idempotency::find::<proto::Customer>(&self.db, key).await? {
            return known.map_err(|refusal| Fault::Replayed(Box::new(refusal)).into());
        }
        let hash = self.passwords.hash(self.passwords.turn(deadline).await?, password).await?;
        idempotency::once(&self.db, key, move |tx| {
            let (new, hash) = (new.clone(), hash.clone());
            Box::pin(async move { Ok(convert::customer(create(tx, &new, &hash).await?)) })
        })
        .await
    }

    /// A profile within the scope.
    ///
    /// # Errors
    /// [`Error::CustomerNotFound`], and faults.
    pub async fn get(&self, id: Uuid, scope: Scope) -> Result<Customer, Error> {
        customers::get(self.db.read(), id, scope).await?.ok_or_else(|| not_found(id))
    }

    /// Changes a profile.
    ///
    /// # Errors
    /// [`Error::CustomerNotFound`], [`Error::EtagMismatch`], [`Error::UsernameTaken`], and faults.
    pub async fn update(&self, key: &Key, id: Uuid, scope: Scope, patch: Patch) -> Result<Answer<proto::Customer>, Error> {
        idempotency::once(&self.db, key, move |tx| {
            let patch = patch.clone();
            Box::pin(async move { Ok(convert::customer(change(tx, id, scope, &patch).await?)) })
        })
        .await
    }

    /// Sets the roles of a customer and ends its sessions.
    ///
    /// # Errors
    /// [`Error::CustomerNotFound`], and faults.
    pub async fn set_roles(&self, key: &Key, id: Uuid, roles: Vec<String>) -> Result<Answer<proto::Customer>, Error> {
        idempotency::once(&self.db, key, move |tx| {
            let roles = roles.clone();
            Box::pin(async move {
                let mut customer = locked(tx, id, Scope::All).await?;
                customer.roles = roles;
                let customer = customers::update(tx, &customer).await?;
                sessions::end_all(tx, id, sessions::EndReason::RolesChanged).await?;
                outbox::append(tx, &[events::roles_changed(&customer)]).await?;
                Ok(convert::customer(customer))
            })
        })
        .await
    }
}

async fn create(tx: &mut PgConnection, new: &NewCustomer, hash: &str) -> Result<Customer, Error> {
    let customer = customers::insert(tx, new).await.map_err(taken)?;
    customers::set_password(tx, customer.id, hash).await?;
    outbox::append(tx, &[events::registered(&customer)]).await?;
    Ok(customer)
}

async fn change(tx: &mut PgConnection, id: Uuid, scope: Scope, patch: &Patch) -> Result<Customer, Error> {
    let mut customer = locked(tx, id, scope).await?;
    if !customer.matches(&patch.etag) {
        return Err(Error::EtagMismatch { current: customer.etag() });
    }
    if patch.fields.is_empty() {
        return Ok(customer);
    }
    patch.apply(&mut customer);
    let customer = customers::update(tx, &customer).await.map_err(taken)?;
    outbox::append(tx, &[events::updated(&customer, &patch.fields)]).await?;
    Ok(customer)
}

/// Locks an account, then reads what the previous holder of the lock left.
async fn locked(tx: &mut PgConnection, id: Uuid, scope: Scope) -> Result<Customer, Error> {
    if !customers::lock(tx, id, scope).await? {
        return Err(not_found(id));
    }
    customers::get(tx, id, scope).await?.ok_or_else(|| not_found(id))
}

fn not_found(id: Uuid) -> Error {
    Error::CustomerNotFound { customer_id: id.to_string() }
}

fn taken(error: sqlx::Error) -> Error {
    match constraint(&error) {
        Some(EMAIL_KEY) => Error::EmailTaken,
        Some(USERNAME_KEY) => Error::UsernameTaken,
        _ => error.into(),
    }
}

/// Makes sure an account with this address, password and roles exists, for a first start and for tests. An account that exists keeps
/// its name, profile and roles; its password is set when this one does not open it.
///
/// # Errors
/// Those of the database and of the hasher.
pub async fn seed(db: &Db, email: &str, password: &str, roles: &[&str]) -> Result<Uuid, Fault> {
    let email = fold(email);
    let passwords = Passwords::new()?;
    let known = customers::credential(db.read(), &email).await?;
    if let Some((id, hash)) = &known
        && passwords.verify(passwords.turn(soon()).await?, password.into(), Some(hash.clone())).await?
    {
        return Ok(*id);
    }
    let hash = passwords.hash(passwords.turn(soon()).await?, password.into()).await?;
    if let Some((id, _)) = known {
        db.uow(move |tx| {
            let hash = hash.clone();
            Box::pin(async move { Ok::<_, Fault>(customers::set_password(tx, id, &hash).await?) })
        })
        .await?;
        return Ok(id);
    }
    let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    let id = ids::new();
    let plain = username_of(&email);
    let suffixed = format!("{plain}-{}", &id.simple().to_string()[20..]);
    let account = |username| NewCustomer { id, username, email: email.clone(), address: None, phone: String::new() };
    let made = match create_with_roles(db, account(plain), &hash, &roles).await {
        Err(Error::UsernameTaken) => create_with_roles(db, account(suffixed), &hash, &roles).await,
        made => made,
    };
    match made {
        Ok(()) => Ok(id),
        Err(Error::Fault(fault)) => Err(fault),
        Err(other) => Err(Fault::Internal(format!("the account could not be seeded: {other}"))),
    }
}

async fn create_with_roles(db: &Db, new: NewCustomer, hash: &str, roles: &[String]) -> Result<(), Error> {
    let (hash, roles) = (hash.to_owned(), roles.to_vec());
    db.uow(move |tx| {
        let (new, hash, roles) = (new.clone(), hash.clone(), roles.clone());
        Box::pin(async move {
            let mut customer = create(tx, &new, &hash).await?;
            if !roles.is_empty() {
                customer.roles = roles;
                let customer = customers::update(tx, &customer).await?;
                outbox::append(tx, &[events::roles_changed(&customer)]).await?;
            }
            Ok(())
        })
    })
    .await
}

/// No caller waits for a seeded account, but nothing may wait for ever.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A user name made from an address: its part before the `@`, without what names may not hold.
fn username_of(email: &str) -> String {
    let local = email.split('@').next().unwrap_or_default();
    let name: String = local.chars().filter(|c| c.is_ascii_alphanumeric() || "_.-".contains(*c)).take(48).collect();
    let name = name.trim_start_matches(['_', '.', '-']);
    if name.len() < 2 { format!("user-{name}") } else { name.to_owned() }
}
