//! Secrets: I-23.

use super::{Finder, Violation};
use crate::facts::Facts;

/// No secret and no card number is anywhere it must not be.
pub(super) fn nothing_leaks(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-23");
    for leak in &facts.leaks {
        found.check(false, None, || format!("{} is in {}, {} times", leak.what, leak.place, leak.times));
    }
    found.done()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{broken, sound};
    use crate::facts::Leak;

    #[test]
    fn a_leak_is_seen() {
        let leak = Leak { what: "a password".into(), place: "log mercato.log".into(), times: 1 };
        assert!(broken(&sound(), "I-23", |facts| facts.leaks.push(leak)));
    }
}
