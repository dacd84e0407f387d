//! The chassis from outside: real servers and clients on real connections, with hand-written services behind them.

#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use mercato_testkit::LONG;

mod boot;
mod doors;
mod peers;
mod policy;
mod server;
mod shutdown;
