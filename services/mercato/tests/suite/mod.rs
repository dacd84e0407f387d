//! One real shop a test binary, and what clients may expect of it. Every scenario that a client can play is played at both doors: REST, and
//! gRPC with the generated clients, both through Envoy.

/// Makes two tests of each scenario: one at each door.
macro_rules! at_both_doors {
    ($($scenario:ident),* $(,)?) => {
        mod rest {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario(crate::suite::door::rest()).await });
            })*
        }
        mod grpc {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario(crate::suite::door::grpc()).await });
            })*
        }
    };
}

/// Makes a test of each scenario that brings its own way in.
macro_rules! alone {
    ($($scenario:ident),* $(,)?) => {
        mod alone {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario().await });
            })*
        }
    };
}

mod cancels;
mod catalog;
mod children;
mod customers;
mod door;
mod edges;
mod grpc;
mod measures;
mod openmetrics;
mod orders;
mod owners;
mod pages;
mod peers;
mod play;
mod raw;
mod refusals;
mod repeats;
mod rest;
mod shop;
mod shopper;
mod signer;
mod sweep;
mod tokens;
mod web;

use play::{PAUSE, fresh, run, settled, settled_but, until};

/// Starts what every scenario needs.
fn start() {
    shop::shop();
}
