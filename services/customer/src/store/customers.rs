//! Accounts and credentials. Reading or changing an account takes the scope of the caller.

use mercato_chassis::call::Scope;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::account::{Address, Customer, NewCustomer, Preferences};

/// Name of the index that keeps names unique.
pub const USERNAME_KEY: &str = "customer_username_key";
/// Name of the index that keeps e-mail addresses unique.
pub const EMAIL_KEY: &str = "customer_email_key";

struct Row {
    id: Uuid,
    username: String,
    email: String,
    address: Option<Json<Address>>,
    phone: String,
    notify_email: bool,
    notify_sms: bool,
    roles: Vec<String>,
    version: i64,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl From<Row> for Customer {
    fn from(row: Row) -> Self {
        Customer {
            id: row.id,
            username: row.username,
            email: row.email,
            address: row.address.map(|address| address.0),
            phone: row.phone,
            preferences: Preferences { email: row.notify_email, sms: row.notify_sms },
            roles: row.roles,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Writes a new account with default preferences and without roles.
pub async fn insert(tx: &mut PgConnection, new: &NewCustomer) -> Result<Customer, sqlx::Error> {
    let preferences = Preferences::default();
    let row = sqlx::query_as!(
        Row,
        r#"insert into customer (id, username, email, address, phone, notify_email, notify_sms) values ($1, $2, $3, $4, $5, $6, $7)
           returning id, username, email, address as "address: Json<Address>", phone, notify_email, notify_sms, roles, version,
                     created_at, updated_at"#,
        new.id,
        new.username,
        new.email,
        new.address.clone().map(Json) as Option<Json<Address>>,
        new.phone,
        preferences.email,
        preferences.sms
    )
    .fetch_one(tx)
    .await?;
    Ok(row.into())
}

/// Sets the password hash of an account.
pub async fn set_password(tx: &mut PgConnection, customer_id: Uuid, password_hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into credential (customer_id, password_hash) values ($1, $2)
         on conflict (customer_id) do update set password_hash = excluded.password_hash, updated_at = now()",
        customer_id,
        password_hash
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// An account within the scope.
pub async fn get(executor: impl PgExecutor<'_>, id: Uuid, scope: Scope) -> Result<Option<Customer>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, username, email, address as "address: Json<Address>", phone, notify_email, notify_sms, roles, version,
                  created_at, updated_at
           from customer where id = $1 and ($2::uuid is null or id = $2)"#,
        id,
        scope.owner()
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Customer::from))
}

/// Makes everybody else who wants to change the account wait for this transaction. Answers whether it exists within the scope.
pub async fn lock(tx: &mut PgConnection, id: Uuid, scope: Scope) -> Result<bool, sqlx::Error> {
    let row = sqlx::query_scalar!("select id from customer where id = $1 and ($2::uuid is null or id = $2) for update", id, scope.owner())
        .fetch_optional(tx)
        .await?;
    Ok(row.is_some())
}

/// The roles of an account, held as they are until this transaction ends.
pub async fn roles_for_share(tx: &mut PgConnection, id: Uuid) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar!("select roles from customer where id = $1 for share", id).fetch_optional(tx).await
}

/// The roles of an account.
pub async fn roles(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar!("select roles from customer where id = $1", id).fetch_optional(executor).await
}

/// Writes the profile and the roles of a locked account as its next version.
pub async fn update(tx: &mut PgConnection, customer: &Customer) -> Result<Customer, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"update customer set username = $2, address = $3, phone = $4, notify_email = $5, notify_sms = $6, roles = $7,
                  version = version + 1, updated_at = now()
           where id = $1
           returning id, username, email, address as "address: Json<Address>", phone, notify_email, notify_sms, roles, version,
                     created_at, updated_at"#,
        customer.id,
        customer.username,
        customer.address.clone().map(Json) as Option<Json<Address>>,
        customer.phone,
        customer.preferences.email,
        customer.preferences.sms,
        &customer.roles
    )
    .fetch_one(tx)
    .await?;
    Ok(row.into())
}

/// Id and password hash behind a name to sign in with. No user name holds an `@` and every e-mail address does, so at most one matches.
pub async fn credential(pool: &PgPool, name: &str) -> Result<Option<(Uuid, String)>, sqlx::Error> {
    let row = sqlx::query!(
        "select c.id, p.password_hash from customer c join credential p on p.customer_id = c.id
         where lower(c.email) = lower($1) or lower(c.username) = lower($1)",
        name
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (row.id, row.password_hash)))
}
