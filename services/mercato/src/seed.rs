//! `mercato seed`: a shop to try things with. The same products on every machine; running it again changes nothing.

use anyhow::Context;
use mercato_chassis::boot;
use mercato_chassis::config::{Source, process_env};
use mercato_chassis::pg::Db;
use mercato_chassis::role::Platform;
use mercato_chassis::tasks::Tasks;
use secrecy::ExposeSecret as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The one warehouse of the seed.
const WAREHOUSE: &str = "main";

/// Writes products, their stock, and the two development logins.
pub async fn run(platform: &Platform, products: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let tasks = Tasks::new();
    let open = |role: &'static str| {
        let tasks = tasks.clone();
        async move { boot::open(platform, role, process_env(), &tasks).await.with_context(|| format!("the database of {role}")) }
    };
    logins(&open("customer").await?).await?;
    let catalog = open("catalog").await?;
    let ids = mercato_catalog::seed::seed(&catalog, products, |done| progress("products", done, products)).await.context("products")?;
    let inventory = open("inventory").await?;
    for (index, chunk) in ids.chunks(1000).enumerate() {
        let first = index * 1000;
        mercato_inventory::seed(&inventory, chunk, |i| level(first + i), WAREHOUSE).await.context("stock")?;
        progress("stock", first + chunk.len(), products);
    }
    eprintln!("seeded {products} products with stock in {:.1} s", began.elapsed().as_secs_f64());
    tasks.stop();
    tasks.drain(Duration::from_secs(5)).await;
    Ok(())
}

/// Between 50 and 1,049 units, the same for a product on every machine.
fn level(n: usize) -> i64 {
    50 + i64::try_from((n * 7919) % 1000).unwrap_or(0)
}

async fn logins(customer: &Db) -> anyhow::Result<()> {
    for (email, password, roles) in
        [("STAFF_EMAIL", "STAFF_PASSWORD", &["staff", "support", "admin"][..]), ("CUSTOMER_EMAIL", "CUSTOMER_PASSWORD", &[][..])]
    {
        let mut source = Source::new(process_env());
        let read = (source.optional(email, "its address"), source.optional_secret(password, "its password"));
        if !source.errors().is_empty() {
            anyhow::bail!("{}", source.errors().join("\n"));
        }
        let (Some(email), Some(password)) = read else {
            eprintln!("{email} and {password} are not set: that login is not made");
            continue;
        };
        mercato_customer::seed(customer, &email, password.expose_secret(), roles).await.context("a development login")?;
    }
    Ok(())
}

fn progress(what: &str, done: usize, of: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what}: {done} of {of}  {}", if done == of { "\n" } else { "" });
        // a progress line that cannot be shown is no reason to stop
        let _ = std::io::stderr().flush();
    } else if done == of {
        eprintln!("{what}: {done}");
    }
}
