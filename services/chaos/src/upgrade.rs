//! The schema of the next release is applied while this one serves; then every process is replaced. Those that come are still of this
//! release, as after a rollback: the old code must serve, migrate and start on the newer schema.

use crate::{
    acceptance::Findings,
    history::History,
    load,
    process::Env,
    rolling::{Late, Restart, replace_all, under_load},
    run::{Options, Outcome},
    world::{Form, Programs, World},
};
use anyhow::{Context, Result};
use mercato_chassis::pg;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Each role's busiest table.
const TABLES: [(&str, &str); 5] =
    [("catalog", "product"), ("inventory", "reservation"), ("ordering", "orders"), ("payment", "payment"), ("customer", "customer")];
/// The number of the next release's first migration.
const NEXT: i64 = 9_000_001;

/// Applies the next release's schema under load, by several processes at once and twice; then replaces every process.
///
/// # Errors
/// When the shop cannot be started, changed, ended or read.
pub async fn upgrade(options: &Options, late: Late) -> Result<Outcome> {
    let form = if options.form == Form::Together { Form::Twins } else { options.form };
    let mut world = World::start(Programs::from_env()?, &options.state, form, &Env::new()).await.context("the shop does not start")?;
    let shop = Arc::new(load::furnish(&world, load::CUSTOMERS, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let ((took, restarts), heard) = under_load(&world, &shop, &history, options, change(&world, &history)).await?;
    findings.say(format!("the next release's schema, applied by three at once and again: {took:.1?}"));
    findings.restarts(&restarts, &heard, &history, late);
    for (role, table) in TABLES {
        let wrong = applied_once(&world, role, table).await?;
        findings.demand(wrong.is_empty(), || format!("the schema of {role}: {wrong}"));
    }
    findings.judge(&world, &shop, &history).await?;
    Ok(findings.outcome(&mut world))
}

async fn change(world: &World, history: &History) -> Result<(Duration, Vec<Restart>)> {
    let began = Instant::now();
    for _ in 0..2 {
        tokio::try_join!(next_release(world), next_release(world), world.migrate())?;
    }
    let took = began.elapsed();
    let restarts = replace_all(world, history).await?;
    // what the hook of a rollback does
    world.migrate().await.context("this release's migrations on the newer schema")?;
    Ok((took, restarts))
}

/// What the migrate command of the next release does.
async fn next_release(world: &World) -> Result<()> {
    for (role, table) in TABLES {
        let settings = pg::PgSettings::new(role, world.database_url(&format!("mercato_{role}"))?);
        pg::migrate(&settings, Some(&migrations(table))).await.with_context(|| format!("the next schema of {role}"))?;
    }
    Ok(())
}

/// A column that may be empty, one that may not, and an index that is made while the table is in use.
fn migrations(table: &str) -> Migrator {
    let steps = [
        (format!("alter table {table} add column next_note text"), false),
        (format!("create index concurrently {table}_next_note on {table} (next_note)"), true),
        (format!("alter table {table} add column next_mark boolean not null default false"), false),
    ];
    let step = |(n, (sql, alone)): (i64, (String, bool))| {
        Migration::new(n, "next release".into(), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), alone)
    };
    Migrator::with_migrations((NEXT..).zip(steps).map(step).collect())
}

/// What is wrong with the changed schema of a role.
async fn applied_once(world: &World, role: &str, table: &str) -> Result<String> {
    let mut db = PgConnection::connect(&world.database_url(&format!("mercato_{role}"))?).await?;
    let valid: Option<bool> = sqlx::query_scalar("select indisvalid from pg_index where indexrelid = to_regclass($1)")
        .bind(format!("{table}_next_note"))
        .fetch_optional(&mut db)
        .await?;
    let applied: i64 =
        sqlx::query_scalar("select count(*) from _sqlx_migrations where success and version >= $1").bind(NEXT).fetch_one(&mut db).await?;
    db.close().await?;
    Ok(if valid == Some(true) && applied == 3 {
        String::new()
    } else {
        format!("index valid: {valid:?}, {applied} of 3 migrations applied")
    })
}
