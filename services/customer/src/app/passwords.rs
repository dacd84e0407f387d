//! Hashing and checking passwords without letting them take over the machine: a few at a time, on threads of their own.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use mercato_chassis::error::Fault;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Memory of one hash in KiB (OWASP's first choice for Argon2id, with [`PASSES`] and [`LANES`]).
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over the memory.
const PASSES: u32 = 2;
/// Lanes.
const LANES: u32 = 1;
/// Hashes at a time: more would take the processor from everybody else.
const PARALLEL: usize = 2;
/// Callers that may wait for a turn; the next one is told to come back later.
const QUEUE: usize = 64;
/// Kept back from a caller's deadline for the hash itself and the answer.
const RESERVE: Duration = Duration::from_millis(200);

/// A turn at the hasher.
pub struct Turn {
    _queue: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

/// The hasher of this process.
#[derive(Clone)]
pub struct Passwords {
    queue: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// Hash of a password nobody knows, for names nobody has.
    decoy: Arc<str>,
}

impl Passwords {
    /// Makes the hasher, and with it the decoy. That is drawn, not computed: a process that never hashes does not need a hash's memory.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the decoy cannot be written down.
    pub fn new() -> Result<Passwords, Fault> {
        let decoy = decoy().map_err(|error| failed(&error))?;
        Ok(Passwords { queue: Arc::new(Semaphore::new(QUEUE + PARALLEL)), turns: Arc::new(Semaphore::new(PARALLEL)), decoy: decoy.into() })
    }

    /// Waits for a turn, no longer than the caller has time.
    ///
    /// # Errors
    /// [`Fault::Overloaded`] when the queue is full or the time runs out.
    pub async fn turn(&self, deadline: Instant) -> Result<Turn, Fault> {
        let queue = self.queue.clone().try_acquire_owned().map_err(|_| Fault::Overloaded)?;
        let latest = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        match tokio::time::timeout_at(latest, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn { _queue: queue, _turn: turn }),
            Ok(Err(_)) | Err(_) => Err(Fault::Overloaded),
        }
    }

    /// Hashes a new password to a PHC string.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the hasher fails.
    pub async fn hash(&self, turn: Turn, password: SecretString) -> Result<String, Fault> {
        off_thread(move || {
            let hashed = hash(password.expose_secret().as_bytes());
            drop(turn);
            hashed
        })
        .await
    }

    /// Whether the password is the one behind `known`. Without a hash it takes the same time and says no.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the stored hash is damaged.
    pub async fn verify(&self, turn: Turn, password: SecretString, known: Option<String>) -> Result<bool, Fault> {
        let exists = known.is_some();
        let phc = known.unwrap_or_else(|| self.decoy.to_string());
        let matches = off_thread(move || {
            let parsed = PasswordHash::new(&phc).map_err(|error| Fault::Internal(format!("a stored password hash is damaged: {error}")))?;
            let verified = Argon2::default().verify_password(password.expose_secret().as_bytes(), &parsed).is_ok();
            drop(turn);
            Ok(verified)
        })
        .await?;
        Ok(exists && matches)
    }
}

/// Runs on a thread that may block; the work goes on when the caller leaves, and keeps its turn until it ends.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::Internal(format!("hashing a password stopped: {error}")))?
}

fn failed(error: &dyn std::fmt::Display) -> Fault {
    Fault::Internal(format!("hashing a password failed: {error}"))
}

/// What a hash looks like, of no password.
fn decoy() -> Result<String, argon2::password_hash::Error> {
    let (mut salt, mut output) = ([0u8; 16], [0u8; 32]);
    rand::fill(&mut salt);
    rand::fill(&mut output);
    let decoy = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: Params::new(MEMORY_KIB, PASSES, LANES, None)?.try_into()?,
        salt: Some(Salt::new(&salt)?),
        hash: Some(Output::new(&output)?),
    };
    Ok(decoy.to_string())
}

fn hash(password: &[u8]) -> Result<String, Fault> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| failed(&error))?;
    let mut salt = [0u8; 16];
    rand::fill(&mut salt);
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Ok(hasher.hash_password_with_salt(password, &salt).map_err(|error| failed(&error))?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn a_hash_names_its_algorithm_and_parameters_and_opens_to_one_password() {
        let passwords = Passwords::new().unwrap();
        let phc = passwords.hash(passwords.turn(soon()).await.unwrap(), "correct horse".into()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        let verify = async |password: &str, phc: Option<String>| {
            passwords.verify(passwords.turn(soon()).await.unwrap(), password.into(), phc).await.unwrap()
        };
        assert!(verify("correct horse", Some(phc.clone())).await);
        assert!(!verify("correct horsf", Some(phc)).await);
        assert!(!verify("correct horse", None).await);
        let shape = |phc: &str| phc.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(shape(&passwords.decoy), shape(&passwords.hash(passwords.turn(soon()).await.unwrap(), "any".into()).await.unwrap()));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_short_deadline_in_time() {
        let passwords = Passwords::new().unwrap();
        let _first = passwords.turn(soon()).await.unwrap();
        let _second = passwords.turn(soon()).await.unwrap();
        let late = passwords.turn(Instant::now() + Duration::from_millis(210)).await;
        assert!(matches!(late, Err(Fault::Overloaded)));
        let _waiting = passwords.queue.clone().try_acquire_many_owned(u32::try_from(QUEUE).unwrap()).unwrap();
        let refused = futures_util::poll!(Box::pin(passwords.turn(soon())));
        assert!(matches!(refused, std::task::Poll::Ready(Err(Fault::Overloaded))));
    }
}
