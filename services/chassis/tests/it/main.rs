//! The chassis from outside: real servers and clients on real connections, with hand-written services behind them.

#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::time::Duration;

/// How long to wait for what must come: longer than it takes on any machine.
const LONG: Duration = Duration::from_secs(120);

mod boot;
mod doors;
mod peers;
mod policy;
mod server;
mod shutdown;
