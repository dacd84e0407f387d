//! The scenarios of those who mean harm, and what of the suite they need.

use std::sync::{Mutex, PoisonError};

/// Makes a test of each scenario; one at a time has the shop.
macro_rules! one_at_a_time {
    ($($scenario:ident),* $(,)?) => {
        mod one_at_a_time {
            $(#[test]
            fn $scenario() {
                crate::suite::exclusively(|| crate::suite::play::run_within(crate::suite::LONG, async {
                    crate::suite::state::forget_failed_logins().await;
                    super::$scenario().await;
                }));
            })*
        }
    };
}

mod children;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod door;
mod floods;
mod garbage;
mod garbage_json;
mod grpc;
mod inputs;
mod maps;
mod matrix;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod play;
mod rest;
mod rotation;
mod schema;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod shop;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod shopper;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod signer;
mod state;
mod sweep;
mod tampering;

use play::{PAUSE, fresh, settled, settled_but, until};
use std::time::Duration;

/// How long such a scenario may take, on a machine of any speed.
const LONG: Duration = Duration::from_secs(3600);

/// Starts what every scenario needs.
fn start() {
    shop::shop();
}

/// Plays a scenario while no other plays, and looks afterwards whether everything still stands.
fn exclusively(scenario: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    scenario();
    state::everything_stands();
}
