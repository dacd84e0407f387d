//! Every change to a hold goes through one batcher: one transaction, one flush to disk for all that wait.

use crate::{
    domain::{Book, Command, Refusal, Reservation},
    error::Error,
    metrics,
    store::{batch, holds},
};
use chassis::{batch::Batcher, error::Fault, pg::Db, tasks::Tasks};
use futures_util::future::BoxFuture;
use mercato_chassis as chassis;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use uuid::Uuid;

/// How many commands may wait; more are turned away at once.
const CAPACITY: usize = 1024;

/// How many commands go into one transaction.
const MOST: usize = 256;

type Answer = Result<Reservation, Error>;
type Decisions = Vec<Result<Reservation, Refusal>>;

/// Told the products whose stock a committed batch changed.
pub type OnChange = Arc<dyn Fn(&[Uuid]) + Send + Sync>;

/// Takes, commits, releases and expires holds. Clones share the batcher.
#[derive(Clone)]
pub struct Reservations {
    db: Db,
    batcher: Batcher<Command, Answer>,
}

impl Reservations {
    /// Starts the batcher. A hold lives for `ttl` unless it is committed; `changed` is called after each commit.
    pub fn new(db: Db, tasks: &Tasks, ttl: Duration, changed: OnChange) -> Self {
        let runner = Arc::new(Runner { db: db.clone(), ttl: ttl.try_into().unwrap_or(time::Duration::MAX), changed });
        let run = move |commands| -> BoxFuture<'static, Vec<Answer>> {
            let runner = Arc::clone(&runner);
            Box::pin(async move { runner.run(commands).await })
        };
        Self { db, batcher: Batcher::spawn(tasks, "reservations", CAPACITY, MOST, run) }
    }

    /// Runs a command in the next batch and answers after the commit. The answer to a command that was already carried out is the hold as
    /// it is.
    pub async fn submit(&self, command: Command) -> Answer {
        self.batcher.submit(command).await.map_err(Error::Fault)?
    }

    /// The hold of an order.
    pub async fn get(&self, order: Uuid) -> Answer {
        holds::get(self.db.read(), order).await?.ok_or(Error::ReservationNotFound(order))
    }

    /// Orders whose hold is overdue, the oldest first, at most `limit`.
    pub async fn overdue(&self, limit: i64) -> Result<Vec<Uuid>, Fault> {
        holds::overdue(self.db.read(), limit).await
    }
}

struct Runner {
    db: Db,
    ttl: time::Duration,
    changed: OnChange,
}

impl Runner {
    /// One answer for each command, in order.
    async fn run(&self, commands: Vec<Command>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(commands.len());
        // Parts still to do, the next one last.
        let mut parts = vec![commands];
        while let Some(mut part) = parts.pop() {
            let all: Arc<[Command]> = part.as_slice().into();
            match self.transact(all).await {
                Ok(decisions) => answers.extend(decisions.into_iter().map(|decision| decision.map_err(Error::from))),
                Err(fault) if part.len() > 1 && of_data(&fault) => {
                    tracing::warn!(commands = part.len(), error = ?fault, "a batch of reservations fails on its data, halving it");
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
                Err(fault) => answers.extend(part.iter().map(|_| Err(Error::Fault(fault.again())))),
            }
        }
        answers
    }

    async fn transact(&self, commands: Arc<[Command]>) -> Result<Decisions, Fault> {
        let (ttl, wanted) = (self.ttl, Arc::clone(&commands));
        let (decisions, products) = self
            .db
            .uow::<_, Fault, _>(move |tx| {
                let commands = Arc::clone(&wanted);
                Box::pin(async move {
                    let mut book = batch::load(tx, &commands, ttl).await?;
                    let decisions: Decisions = commands.iter().map(|command| book.apply(command)).collect();
                    batch::save(tx, &book).await?;
                    Ok((decisions, products(&book)))
                })
            })
            .await?;
        for (command, decision) in commands.iter().zip(&decisions) {
            metrics::COMMANDS.one([command.name(), decision.as_ref().map_or_else(Refusal::name, |_| "done")]);
        }
        (self.changed)(&products);
        Ok(decisions)
    }
}

fn products(book: &Book) -> Vec<Uuid> {
    let products: BTreeSet<Uuid> = book.entries().iter().map(|entry| entry.product).collect();
    products.into_iter().collect()
}

/// Whether smaller batches may succeed where this one failed.
fn of_data(fault: &Fault) -> bool {
    matches!(fault, Fault::Db(_) | Fault::Internal(_))
}
