//! Sessions that sit idle inside a transaction while faults run: looked for several times a second.

use crate::{facts::IdleSession, history::History, nemesis::Struck, world::World};
use sqlx::{Connection as _, FromRow, PgConnection};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(200);
/// A session may be idle in a transaction this long, because a busy machine may hold up its client for as long; measured late by as much as
/// this process itself was held up. What is forgotten there stays until the server ends it, or until somebody else uses the session.
pub const LIMIT: Duration = Duration::from_secs(4);
/// The same where sessions are left there on purpose: it is enough to see one.
pub const PLANTED: Duration = Duration::from_secs(1);
/// The server ends such a session after 5 s. That is what holds while its client is frozen or cannot be heard.
const CUT_OFF: Duration = Duration::from_secs(6);
/// What makes the client unable to end its transaction.
const EXCUSES: [&str; 5] = ["SIGSTOP", "links slow", "connections", "answers of postgres", "kill -9 postgres"];

/// While the server's clock is moved, only our own tells how long it was: from the first sight to the last.
const MOVED: &str = "clock of postgres";

const IDLE: &str = "select application_name, pid, extract(epoch from clock_timestamp() - state_change)::float8 as seconds,
        left(query, 120) as query, extract(epoch from state_change)::float8 as since
    from pg_stat_activity
    where state like 'idle in transaction%' and application_name like 'mercato%' and state_change < clock_timestamp() - interval '1 second'";

/// One sight of an idle session.
#[derive(Debug, Clone, FromRow)]
struct Row {
    application_name: String,
    pid: i32,
    seconds: f64,
    query: String,
    since: f64,
}

/// A session as it was seen last in one of its transactions.
#[derive(Debug, Clone)]
pub struct Sight {
    row: Row,
    /// Since the beginning of the run.
    at: Duration,
    /// How late this process itself came to look.
    late: Duration,
}

/// Looks until it is dropped, and notes what it sees.
pub async fn watch(world: &World, history: &History, seen: &Mutex<Vec<Sight>>) {
    loop {
        // While PostgreSQL is away there is nothing to see.
        if let Some(mut db) = connect(world).await {
            while look(&mut db, history, seen).await {}
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn connect(world: &World) -> Option<PgConnection> {
    let url = world.database_url("postgres").ok()?;
    tokio::time::timeout(Duration::from_secs(5), PgConnection::connect(&url)).await.ok()?.ok()
}

/// Looks once; false when the connection is gone.
async fn look(db: &mut PgConnection, history: &History, seen: &Mutex<Vec<Sight>>) -> bool {
    let planned = Instant::now() + TICK;
    tokio::time::sleep_until(planned.into()).await;
    let Ok(Ok(rows)) = tokio::time::timeout(Duration::from_secs(5), sqlx::query_as::<_, Row>(IDLE).fetch_all(db)).await else {
        return false;
    };
    let late = planned.elapsed();
    let at = history.now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.extend(rows.into_iter().map(|row| Sight { row, at, late }));
    true
}

/// What was seen, each transaction once, with the limit that held for it: `limit` unless a fault explains more.
pub fn judge(seen: Vec<Sight>, struck: &[Struck], limit: Duration) -> Vec<IdleSession> {
    let mut longest: HashMap<(i32, u64), (Duration, Sight)> = HashMap::new();
    for sight in seen {
        let key = (sight.row.pid, sight.row.since.to_bits());
        let first = longest.get(&key).map_or(sight.at, |(first, _)| *first);
        longest.insert(key, (first, sight));
    }
    let session = |(first, mut sight): (Duration, Sight)| {
        let moved = |fault: &Struck| fault.what.contains(MOVED) && fault.began <= sight.at && sight.at <= fault.ready + CUT_OFF;
        if struck.iter().any(moved) {
            sight.row.seconds = (sight.at - first).as_secs_f64();
        }
        let (from, to) = (sight.at.saturating_sub(Duration::from_secs_f64(sight.row.seconds.max(0.0))), sight.at);
        let overlaps = |fault: &&Struck| fault.began <= to && from <= fault.ready + CUT_OFF;
        let excused = struck.iter().filter(overlaps).any(|fault| EXCUSES.iter().any(|excuse| fault.what.contains(excuse)));
        IdleSession {
            session: sight.row.application_name,
            seconds: sight.row.seconds,
            limit: (if excused { CUT_OFF } else { limit } + sight.late).as_secs_f64(),
            query: sight.row.query,
            at: sight.at,
        }
    };
    longest.into_values().map(session).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(seen: Vec<Sight>, struck: &[Struck]) -> Vec<IdleSession> {
        super::judge(seen, struck, LIMIT)
    }

    fn sight(seconds: f64, at: u64) -> Sight {
        let row = Row { application_name: "mercato-ordering".into(), pid: 7, seconds, query: "select".into(), since: 1.0 };
        Sight { row, at: Duration::from_secs(at), late: Duration::from_millis(100) }
    }

    fn fault(what: &str, began: u64, ended: u64) -> Struck {
        let (began, ended) = (Duration::from_secs(began), Duration::from_secs(ended));
        Struck { what: what.into(), began, ended, ready: ended }
    }

    #[test]
    fn a_transaction_is_told_once_with_its_longest_time() {
        let told = judge(vec![sight(4.2, 20), sight(4.6, 21)], &[]);
        assert_eq!(told.iter().map(|idle| idle.seconds).collect::<Vec<_>>(), [4.6]);
        assert!(told[0].seconds > told[0].limit);
    }

    #[test]
    fn a_clock_that_was_moved_makes_no_session_old() {
        let moved = [fault("clock of postgres wrong by +30 s", 10, 20)];
        let told = judge(vec![sight(31.0, 15)], &moved);
        assert!(told[0].seconds < told[0].limit, "{told:?}");
        let told = judge(vec![sight(31.0, 15), sight(36.5, 20)], &moved);
        assert!(told[0].seconds > told[0].limit, "{told:?}");
        assert!(judge(vec![sight(31.0, 40)], &moved)[0].seconds > 30.0, "long after");
    }

    #[test]
    fn a_frozen_client_has_as_long_as_the_server_gives_it() {
        let frozen = [fault("SIGSTOP mercato", 10, 20)];
        assert!(judge(vec![sight(5.0, 15)], &frozen)[0].limit > 5.0);
        assert!(judge(vec![sight(8.0, 19)], &frozen)[0].limit < 8.0, "the server did not end it");
        assert!(judge(vec![sight(4.5, 40)], &frozen)[0].limit < 4.5, "long after");
        assert!(judge(vec![sight(4.5, 15)], &[fault("kill -9 redis", 10, 20)])[0].limit < 4.5, "another fault excuses nothing");
    }
}
