//! Signing in, staying signed in, and leaving.

use mercato_chassis::ids;
use mercato_chassis::pg::Db;
use secrecy::SecretString;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::keys::Keys;
use super::passwords::Passwords;
use super::tokens::{self, Bearer, RefreshToken};
use crate::config::Settings;
use crate::domain::account::fold;
use crate::domain::session::{Verdict, judge};
use crate::domain::throttle::{ACCOUNT_LIMIT, ADDRESS_LIMIT};
use crate::error::Error;
use crate::metrics;
use crate::store::attempts::{self, CounterKey};
use crate::store::customers;
use crate::store::sessions::{self, EndReason, TokenHash};

/// What a client gets to hold a session by.
pub struct Tokens {
    /// Signed, short-lived.
    pub access: SecretString,
    /// Random, works once.
    pub refresh: SecretString,
}

/// Who wants to sign in.
pub struct Attempt {
    /// E-mail address or user name.
    pub name: String,
    /// Its password.
    pub password: SecretString,
    /// The client's address, when the edge told it.
    pub address: Option<String>,
    /// Until when the answer is wanted.
    pub deadline: Instant,
}

/// The session use cases.
#[derive(Clone)]
pub struct Sessions {
    db: Db,
    passwords: Passwords,
    keys: Keys,
    settings: Settings,
}

/// What became of a presented refresh token; committed either way.
enum Exchange {
    Done { customer_id: Uuid, session_id: Uuid, roles: Vec<String> },
    Reused(Uuid),
    Refused,
}

impl Sessions {
    /// Sessions kept in `db`, with tokens signed by `keys`.
    pub fn new(db: Db, passwords: Passwords, keys: Keys, settings: Settings) -> Sessions {
        Sessions { db, passwords, keys, settings }
    }

    /// Signs in. A failure is counted before the password is looked at, so that any number of guesses at once gets no further than one
    /// after the other; a success takes it back. An unknown name is treated like a wrong password, statement by statement.
    ///
    /// # Errors
    /// [`Error::LoginThrottled`], [`Error::CredentialsInvalid`], and faults.
    pub async fn login(&self, attempt: Attempt) -> Result<Tokens, Error> {
        let name = fold(&attempt.name);
        let account = CounterKey::account(&name);
        let address = attempt.address.as_deref().map(CounterKey::address);
        let turn = self.passwords.turn(attempt.deadline).await?;
        let admitted = self.admit(account.clone(), address.clone()).await;
        if let Err(Error::LoginThrottled { .. }) = admitted {
            metrics::LOGINS.one(["throttled"]);
        }
        admitted?;
        let known = customers::credential(self.db.read(), &name).await?;
        let (customer_id, hash) = known.unzip();
        let right = self.passwords.verify(turn, attempt.password, hash).await?;
        let Some(customer_id) = customer_id.filter(|_| right) else {
            metrics::LOGINS.one(["refused"]);
            self.count_failure(address).await?;
            return Err(Error::CredentialsInvalid);
        };
        let tokens = self.open(customer_id, account).await?;
        metrics::LOGINS.one(["ok"]);
        Ok(tokens)
    }

    /// Refuses who has to wait; else counts a failure of the account in advance.
    async fn admit(&self, account: CounterKey, address: Option<CounterKey>) -> Result<(), Error> {
        self.db
            .uow(move |tx| {
                let (account, address) = (account.clone(), address.clone());
                Box::pin(async move {
                    let mut wait = match &address {
                        Some(address) => attempts::blocked(tx, address).await?,
                        None => None,
                    };
                    if wait.is_none() {
                        wait = attempts::charge(tx, &account, ACCOUNT_LIMIT).await?;
                    }
                    wait.map_or(Ok(()), |retry_after| Err(Error::LoginThrottled { retry_after }))
                })
            })
            .await
    }

    async fn count_failure(&self, address: Option<CounterKey>) -> Result<(), Error> {
        let Some(address) = address else { return Ok(()) };
        self.db
            .uow(move |tx| {
                let address = address.clone();
                Box::pin(async move {
                    attempts::charge(tx, &address, ADDRESS_LIMIT).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn open(&self, customer_id: Uuid, account: CounterKey) -> Result<Tokens, Error> {
        let signer = self.keys.signer().await?;
        let (session_id, refresh, life) = (ids::new(), RefreshToken::new(), self.settings.refresh_life);
        let hash = refresh.hash;
        let roles = self
            .db
            .uow(move |tx| {
                let account = account.clone();
                Box::pin(async move {
                    // Held until the commit: whoever sets the roles meanwhile finds this session and ends it.
                    let roles = customers::roles_for_share(tx, customer_id).await?.ok_or(Error::CredentialsInvalid)?;
                    sessions::insert(tx, session_id, customer_id).await?;
                    sessions::insert_token(tx, &hash, session_id, life).await?;
                    attempts::clear(tx, &account).await?;
                    Ok::<_, Error>(roles)
                })
            })
            .await?;
        let access = tokens::sign(&signer, &self.settings, &Bearer { customer_id, session_id, roles: &roles })?;
        Ok(Tokens { access, refresh: refresh.text })
    }

    /// Exchanges a refresh token. The roles of the new access token are those of this moment.
    ///
    /// # Errors
    /// [`Error::RefreshTokenInvalid`], and faults.
    pub async fn refresh(&self, token: SecretString) -> Result<Tokens, Error> {
        let signer = self.keys.signer().await?;
        let (presented, next, life) = (tokens::hash(&token), RefreshToken::new(), self.settings.refresh_life);
        let next_hash = next.hash;
        let exchanged = self
            .db
            .uow(move |tx| {
                Box::pin(async move {
                    let Some(known) = sessions::lock(tx, &presented).await? else { return Ok(Exchange::Refused) };
                    match judge(known.presented) {
                        Verdict::Refuse => return Ok(Exchange::Refused),
                        Verdict::Reuse => {
                            sessions::end(tx, known.session_id, EndReason::Reuse).await?;
                            return Ok(Exchange::Reused(known.session_id));
                        }
                        Verdict::Exchange => exchange(tx, &presented, &next_hash, &known, false).await?,
                        Verdict::Repeat => exchange(tx, &presented, &next_hash, &known, true).await?,
                    }
                    sessions::insert_token(tx, &next_hash, known.session_id, life).await?;
                    let roles = customers::roles(tx, known.customer_id).await?.ok_or(Error::RefreshTokenInvalid)?;
                    Ok::<_, Error>(Exchange::Done { customer_id: known.customer_id, session_id: known.session_id, roles })
                })
            })
            .await?;
        match exchanged {
            Exchange::Done { customer_id, session_id, roles } => {
                metrics::REFRESHES.one(["ok"]);
                let access = tokens::sign(&signer, &self.settings, &Bearer { customer_id, session_id, roles: &roles })?;
                Ok(Tokens { access, refresh: next.text })
            }
            Exchange::Reused(session_id) => {
                metrics::REFRESHES.one(["reused"]);
                tracing::warn!(%session_id, "a refresh token was used twice, its session was ended");
                Err(Error::RefreshTokenInvalid)
            }
            Exchange::Refused => {
                metrics::REFRESHES.one(["refused"]);
                Err(Error::RefreshTokenInvalid)
            }
        }
    }

    /// Ends the session of a refresh token. A token nobody knows has no session, which is what its holder wanted.
    ///
    /// # Errors
    /// Faults only.
    pub async fn logout(&self, token: SecretString) -> Result<(), Error> {
        let hash = tokens::hash(&token);
        self.db.uow(move |tx| Box::pin(async move { Ok(sessions::end_by_token(tx, &hash, EndReason::Logout).await?) })).await
    }
}

async fn exchange(
    tx: &mut PgConnection,
    presented: &TokenHash,
    next: &TokenHash,
    known: &sessions::Known,
    repeated: bool,
) -> Result<(), sqlx::Error> {
    if let Some(lost) = known.successor.as_deref().filter(|_| repeated) {
        sessions::poison(tx, lost).await?;
    }
    sessions::exchange(tx, presented, next, repeated).await
}
