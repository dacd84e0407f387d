//! The chassis from outside: real servers and clients on real connections, with hand-written services behind them.

mod boot;
mod doors;
mod peers;
mod policy;
mod server;
mod shutdown;
