//! What docs/operations.md promises to whoever runs a shop: copies of the event log, what is done after a loss, and secrets that change
//! while the shop is open. Each test has databases, topics and processes of its own.

#[path = "suite/children.rs"]
#[expect(dead_code, reason = "these tests keep their processes in hand")]
mod children;
#[path = "operations/copies.rs"]
mod copies;
#[path = "operations/desk.rs"]
mod desk;
#[path = "operations/house.rs"]
mod house;
#[path = "operations/loss.rs"]
mod loss;
#[path = "operations/moment.rs"]
mod moment;
#[path = "operations/secrets.rs"]
mod secrets;
#[path = "suite/sweep.rs"]
mod sweep;

/// A database on the server of `DATABASE_URL`, with another's name.
fn on_server(url: &str, database: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    let (server, _) = base.rsplit_once('/').expect("DATABASE_URL names a database");
    format!("{server}/{database}{query}")
}
