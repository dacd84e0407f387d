//! Our ledger against the provider's, row for row.

use crate::{
    provider::{Entry, Provider},
    store::{self, LedgerRow},
};
use mercato_chassis::{Fault, pg::Db};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Who has a row that the other lacks, or has otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Only we have it.
    Ours,
    /// Only the provider has it.
    Theirs,
    /// Both have it, with different amounts.
    Both,
}

/// One difference between the ledgers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The provider's idempotency key.
    pub key: String,
    /// What was done.
    pub step: String,
    /// Who has it.
    pub side: Side,
    /// Our amount in minor units; 0 when we have none.
    pub ours: i64,
    /// The provider's.
    pub theirs: i64,
}

const PAGE: i64 = 1000;

type Known = HashMap<(String, String), (i64, String)>;

/// Compares the whole ledgers. What is still open is no difference: it is being found out. Nor is what a person has settled.
///
/// The provider is read first, so all it had is either in our ledger by then or open; then ours, and the provider's rest, so all we
/// had is there.
///
/// # Errors
/// When either ledger cannot be read to its end.
pub async fn reconcile(db: &Db, provider: &dyn Provider) -> Result<Vec<Difference>, Fault> {
    let mut theirs = Known::new();
    let mut differences = Vec::new();
    let mut after = 0;
    loop {
        let (entries, last) = provider.entries(after).await?;
        let Some(last) = last else { break };
        after = last;
        compare(db, &entries, &mut differences).await?;
        theirs.extend(entries.into_iter().map(|e| ((e.key, e.step.to_owned()), (e.amount, e.currency))));
    }
    let mut missing = ours_without_theirs(db, &theirs).await?;
    while let (entries, Some(last)) = provider.entries(after).await? {
        after = last;
        let late: HashSet<_> = entries.into_iter().map(|e| e.key).collect();
        missing.retain(|row| !late.contains(&row.key));
    }
    differences.extend(missing.into_iter().map(|row| Difference {
        key: row.key,
        step: row.step,
        side: Side::Ours,
        ours: row.amount,
        theirs: 0,
    }));
    unsettled(db, differences).await
}

/// Those that no person has looked into, with the same amounts.
async fn unsettled(db: &Db, mut differences: Vec<Difference>) -> Result<Vec<Difference>, Fault> {
    let keys: Vec<String> = differences.iter().map(|difference| difference.key.clone()).collect();
    let settled: HashSet<_> = store::settled_differences(db.read(), &keys)
        .await?
        .into_iter()
        .map(|settled| (settled.key, settled.step, settled.ours, settled.theirs))
        .collect();
    differences.retain(|d| !settled.contains(&(d.key.clone(), d.step.clone(), d.ours, d.theirs)));
    Ok(differences)
}

async fn compare(db: &Db, entries: &[Entry], differences: &mut Vec<Difference>) -> Result<(), Fault> {
    let keys: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    let (rows, open) = store::ledger_of_keys(db.read(), &keys).await?;
    let ours: Known = rows.into_iter().map(|row| ((row.key, row.step), (row.amount, row.currency))).collect();
    let open: HashSet<String> = open.into_iter().collect();
    for entry in entries {
        let difference = |side, ours| Difference { key: entry.key.clone(), step: entry.step.to_owned(), side, ours, theirs: entry.amount };
        match ours.get(&(entry.key.clone(), entry.step.to_owned())) {
            Some((amount, currency)) if (*amount, currency) == (entry.amount, &entry.currency) => {}
            Some((amount, _)) => differences.push(difference(Side::Both, *amount)),
            None if open.contains(&entry.key) => {}
            None => differences.push(difference(Side::Theirs, 0)),
        }
    }
    Ok(())
}

async fn ours_without_theirs(db: &Db, theirs: &Known) -> Result<Vec<LedgerRow>, Fault> {
    let mut missing = Vec::new();
    let mut after = Uuid::nil();
    loop {
        let rows = store::ledger_page(db.read(), after, PAGE).await?;
        let Some(last) = rows.last() else { return Ok(missing) };
        after = last.tx_id;
        missing.extend(rows.into_iter().filter(|row| !theirs.contains_key(&(row.key.clone(), row.step.clone()))));
    }
}
