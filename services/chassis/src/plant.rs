//! Mistakes on purpose and deaths at chosen places, so that tests can see that those are noticed which look for them.
//!
//! Only a build with the feature `plants` has any of it; in every other one nothing can be chosen, and what hangs on [`bug`] is dead code.
//! With the feature, `MERCATO_PLANT=bug-07` chooses one mistake and `MERCATO_CRASH=C-02:3` the third passing of one place; passings count
//! once the file named by `MERCATO_CRASH_ARMED` exists, or from the start when it names none. Which mistakes and places there are is told
//! in services/chaos/README.md.

#[cfg(feature = "plants")]
pub use planted::{bug, crash_point, skip_passed};

/// Whether this mistake is to be made: never, in this build.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub const fn bug(_id: &str) -> bool {
    false
}

/// A place where the process may be made to die: not in this build.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub const fn crash_point(_id: &str) {}

/// Drops what a reader with this mistake would not see: nothing, in this build.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub fn skip_passed<T>(_id: &str, _reader: &str, _rows: &mut Vec<T>, _number: impl Fn(&T) -> i64) {}

#[cfg(feature = "plants")]
mod planted {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex};

    use futures_util::future::BoxFuture;
    use sqlx::PgConnection;

    use crate::error::{Fault, ServiceError};
    use crate::pg::Db;

    static BUG: LazyLock<Option<String>> = LazyLock::new(|| variable("MERCATO_PLANT"));
    static CRASH: LazyLock<Option<Crash>> = LazyLock::new(|| {
        let chosen = variable("MERCATO_CRASH")?;
        let (place, passing) = chosen.split_once(':').unwrap_or((&chosen, "1"));
        let passing = passing.parse().expect("MERCATO_CRASH is a place and a passing, such as C-02:3");
        let armed = variable("MERCATO_CRASH_ARMED").map(PathBuf::from);
        Some(Crash { place: place.to_owned(), passing, armed, passed: AtomicU64::new(0) })
    });
    static CURSORS: LazyLock<Mutex<HashMap<String, i64>>> = LazyLock::new(Mutex::default);

    struct Crash {
        place: String,
        passing: u64,
        armed: Option<PathBuf>,
        passed: AtomicU64,
    }

    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    /// Whether this mistake is to be made.
    pub fn bug(id: &str) -> bool {
        BUG.as_deref() == Some(id)
    }

    /// Ends the process as a crash would, when this is the chosen place and passing; a line on standard error tells.
    pub fn crash_point(id: &str) {
        let Some(crash) = CRASH.as_ref().filter(|crash| crash.place == id) else { return };
        if crash.armed.as_ref().is_some_and(|file| !file.exists()) {
            return;
        }
        if crash.passed.fetch_add(1, Ordering::SeqCst) + 1 == crash.passing {
            eprintln!("crash point {id}: passed for the {}. time, the process dies", crash.passing);
            std::process::abort();
        }
    }

    /// The mistake of a reader that remembers the highest number it saw instead of what it has done: under `bug`, drops what is not beyond
    /// it.
    pub fn skip_passed<T>(id: &str, reader: &str, rows: &mut Vec<T>, number: impl Fn(&T) -> i64) {
        if !bug(id) {
            return;
        }
        let mut cursors = CURSORS.lock().expect("no holder of this lock panics");
        let last = cursors.entry(reader.to_owned()).or_insert(i64::MIN);
        rows.retain(|row| number(row) > *last);
        *last = rows.iter().map(number).fold(*last, i64::max);
    }

    impl Db {
        /// The mistake of a transaction that the caller's future owns: at a deadline it is dropped wherever it stands.
        pub(crate) async fn bare<T, E, F>(&self, f: F) -> Result<T, E>
        where
            E: ServiceError,
            F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
        {
            #[expect(clippy::disallowed_methods, reason = "the mistake that this is about")]
            let mut tx = self.read().begin().await.map_err(Fault::from)?;
            let done = f(&mut tx).await?;
            tx.commit().await.map_err(Fault::from)?;
            Ok(done)
        }
    }
}
