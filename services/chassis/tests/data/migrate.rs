//! Migrations beside each other, beside what runs, and after a release that was rolled back.

use crate::support::world;
use mercato_chassis::pg;
use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

fn step(version: i64, sql: &'static str, alone: bool) -> Migration {
    Migration::new(version, format!("step {version}").into(), MigrationType::Simple, sql.into_sql_str(), alone)
}

/// A role's migrations up to this one.
fn release(versions: usize) -> Migrator {
    let all = [
        step(1, "create table shelf (id bigint primary key, note text)", false),
        // one statement without a transaction, as an index on a table in use must be made
        step(2, "create index concurrently shelf_note on shelf (note)", true),
        step(3, "alter table shelf add column label text", false),
    ];
    Migrator::with_migrations(all.into_iter().take(versions).collect())
}

#[tokio::test]
async fn many_at_once_make_the_same_schema_once_and_an_index_that_is_valid() {
    world(async |world| {
        let newer = release(3);
        let all = (0..6).map(|_| pg::migrate(&world.settings, Some(&newer)));
        for done in futures_util::future::join_all(all).await {
            done.unwrap();
        }
        assert_eq!(world.count("select count(*) from pg_index where indexrelid = 'shelf_note'::regclass and indisvalid").await, 1);
        assert_eq!(world.count("select count(*) from _sqlx_migrations where success").await, 3);
    })
    .await;
}

#[tokio::test]
async fn an_older_release_migrates_and_starts_where_a_newer_one_has_been() {
    world(async |world| {
        let older = release(1);
        pg::migrate(&world.settings, Some(&release(3))).await.unwrap();
        pg::migrate(&world.settings, Some(&older)).await.unwrap();
        assert!(!pg::pending(world.db.read(), Some(&older)).await.unwrap());
        let changed = Migrator::with_migrations(vec![step(1, "select 1", false)]);
        let refused = pg::migrate(&world.settings, Some(&changed)).await.unwrap_err();
        assert!(refused.to_string().contains("modified"), "{refused}");
    })
    .await;
}
