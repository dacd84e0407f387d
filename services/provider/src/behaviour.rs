//! How the provider behaves: by the token of an authorisation, or by a default that can be switched.

use serde::{Deserialize, Serialize};

/// One way to behave. A payment keeps the mode it was authorised with for all its later steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Approves.
    #[default]
    Approve,
    /// Declines for good.
    Decline,
    /// Soft-declines the first attempt of a reference (`times`: how many, default 1), approves the next.
    SoftDecline,
    /// Approves after three seconds.
    Slow,
    /// Records the authorisation, then does not answer for 31 seconds.
    TimeoutAfterCharge,
    /// Records the authorisation, then answers 200 with broken JSON.
    Garbage,
    /// Approves and sends every webhook twice.
    DuplicateWebhook,
    /// Approves; voids fail with 503 (`times`, default 3).
    VoidFails,
    /// Approves; captures fail with 503 (`times`, default 3).
    CaptureFails,
    /// Approves; refunds fail with 503 (`times`, default 3).
    RefundFails,
    /// Holds one minor unit more than asked, and says so.
    WrongAmount,
    /// Answers 500 and records nothing (`times`, default always).
    #[serde(rename = "error_500")]
    Error500,
    /// Answers 503 and records nothing (`times`, default always).
    Unavailable,
}

/// A mode and how often it strikes before the provider behaves well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// The mode.
    pub mode: Mode,
    /// How often; `None` takes the mode's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl Behaviour {
    /// The behaviour a token asks for: `tok_<mode>` or `tok_<mode>-<times>`. Any other token, and none, means the default.
    pub fn of_token(token: &str) -> Option<Self> {
        let name = token.strip_prefix("tok_")?;
        let (name, times) = match name.split_once('-') {
            Some((name, times)) => (name, Some(times.parse().ok()?)),
            None => (name, None),
        };
        let mode = serde_json::from_value(serde_json::Value::from(name)).ok()?;
        Some(Self { mode, times })
    }

    /// How often it strikes.
    pub fn strikes(self) -> u32 {
        self.times.unwrap_or(match self.mode {
            Mode::SoftDecline => 1,
            Mode::VoidFails | Mode::CaptureFails | Mode::RefundFails => 3,
            _ => u32::MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Behaviour, Mode};

    #[test]
    fn tokens() {
        let parse = Behaviour::of_token;
        assert_eq!(parse("tok_approve"), Some(Behaviour { mode: Mode::Approve, times: None }));
        assert_eq!(parse("tok_void_fails-7"), Some(Behaviour { mode: Mode::VoidFails, times: Some(7) }));
        assert_eq!(parse("tok_error_500").map(|b| b.mode), Some(Mode::Error500));
        for other in ["", "tok_visa", "tok_", "visa", "tok_void_fails-x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
