//! The development provider's JSON, and the judgement of its answers. Nothing it says is accepted unless it fits what was asked.

use super::{Ask, Entry};
use crate::domain::{Found, FoundState, Reply, Sight};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization<'a> {
    pub reference: &'a str,
    pub amount_minor: i64,
    pub currency: &'a str,
    pub method: &'a str,
    pub token: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_reference: Option<&'a str>,
    pub amount_minor: i64,
    pub currency: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    reference: String,
    state: String,
    amount_minor: i64,
    currency: String,
    #[serde(default)]
    refund_reference: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    reference: String,
    state: String,
    amount_minor: i64,
    currency: String,
    captured_minor: i64,
    refunds: Vec<Refund>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refund {
    refund_reference: String,
    amount_minor: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    sequence: u64,
    kind: String,
    key: String,
    amount_minor: i64,
    currency: String,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Line>,
}

/// A refusal's reason, cut to what may be stored.
fn reason(status: u16, body: &[u8]) -> String {
    let named = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error).unwrap_or_default();
    let named: String = named.chars().filter(|c| c.is_ascii_lowercase() || *c == '_').take(64).collect();
    format!("{status} {named}").trim_end().to_owned()
}

fn answer(status: u16, body: &[u8]) -> Result<Answer, Reply> {
    match status {
        200 => serde_json::from_slice(body).map_err(|_| Reply::Unknown("the answer cannot be read".to_owned())),
        429 | 503 => Err(Reply::Transient(reason(status, body))),
        400..=499 => Err(Reply::Refused(reason(status, body))),
        _ => Err(Reply::Unknown(reason(status, body))),
    }
}

/// Judges the answer to a call whose success is called `state`.
pub fn judge(ask: &Ask, state: &str, status: u16, body: &[u8]) -> Reply {
    let answer = match answer(status, body) {
        Ok(answer) => answer,
        Err(reply) => return reply,
    };
    if answer.reference != ask.reference {
        return Reply::Mismatch("another reference".to_owned());
    }
    match answer.state.as_str() {
        "declined" if state == "authorized" => return Reply::Declined,
        "soft_declined" if state == "authorized" => return Reply::SoftDeclined,
        told if told == state => {}
        _ => return Reply::Mismatch("another state".to_owned()),
    }
    if state == "refunded" && answer.refund_reference.as_deref() != Some(&ask.key) {
        return Reply::Mismatch("another refund".to_owned());
    }
    if answer.amount_minor != ask.amount || answer.currency != ask.currency {
        return Reply::Mismatch(format!("{} minor units instead of {}", answer.amount_minor, ask.amount));
    }
    Reply::Approved { amount: answer.amount_minor }
}

/// Judges the answer to a void. What it released must be what is known to be held; when nothing is known, the answer tells it.
pub fn judge_void(ask: &Ask, held: bool, status: u16, body: &[u8]) -> Reply {
    if held {
        return judge(ask, "voided", status, body);
    }
    match answer(status, body) {
        Err(reply) => reply,
        Ok(told) if told.reference != ask.reference || told.state != "voided" || told.amount_minor < 0 => {
            Reply::Mismatch("another reference or state".to_owned())
        }
        Ok(told) if told.amount_minor > 0 && told.currency != ask.currency => Reply::Mismatch("another currency".to_owned()),
        Ok(told) => Reply::Approved { amount: told.amount_minor },
    }
}

/// Judges a look-up. Only the provider's own words for "not found" are believed, not those of something between us.
pub fn judge_look_up(reference: &str, status: u16, body: &[u8]) -> Sight {
    if status == 404 && serde_json::from_slice::<Refusal>(body).is_ok_and(|refusal| refusal.error == "not_found") {
        return Sight::NotFound;
    }
    if status != 200 {
        return Sight::Failed(reason(status, body));
    }
    let Ok(view) = serde_json::from_slice::<View>(body) else { return Sight::Failed("the answer cannot be read".to_owned()) };
    let state = match view.state.as_str() {
        "authorized" => FoundState::Authorized,
        "declined" => FoundState::Declined,
        "soft_declined" => FoundState::SoftDeclined,
        "captured" => FoundState::Captured,
        "voided" => FoundState::Voided,
        _ => return Sight::Failed("the state is not known".to_owned()),
    };
    if view.reference != reference || view.amount_minor < 0 || view.captured_minor < 0 {
        return Sight::Failed("the answer does not fit the question".to_owned());
    }
    let refunds = view.refunds.into_iter().map(|refund| (refund.refund_reference, refund.amount_minor)).collect();
    Sight::Found(Found { state, currency: view.currency, authorized: view.amount_minor, captured: view.captured_minor, refunds })
}

/// Reads a page of the ledger; lines that moved nothing are left out.
pub fn entries(body: &[u8]) -> Option<(Vec<Entry>, Option<u64>)> {
    let page: Page = serde_json::from_slice(body).ok()?;
    let last = page.entries.last().map(|line| line.sequence);
    let entry = |line: Line| {
        let step = match line.kind.as_str() {
            "authorized" => "authorize",
            "captured" => "capture",
            "voided" => "void",
            "refunded" => "refund",
            _ => return None,
        };
        let entry = Entry { sequence: line.sequence, step, key: line.key, amount: line.amount_minor, currency: line.currency };
        (entry.amount != 0).then_some(entry)
    };
    Some((page.entries.into_iter().filter_map(entry).collect(), last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask() -> Ask {
        Ask { reference: "r".into(), key: "k".into(), amount: 100, currency: "EUR".into() }
    }

    #[test]
    fn only_an_answer_that_fits_is_an_approval() {
        let judge = |status, body: &str| judge(&ask(), "authorized", status, body.as_bytes());
        let good = r#"{"reference":"r","state":"authorized","amountMinor":100,"currency":"EUR"}"#;
        assert_eq!(judge(200, good), Reply::Approved { amount: 100 });
        for wrong in
            [good.replace("100", "101"), good.replace("EUR", "USD"), good.replace("\"r\"", "\"s\""), good.replace("authorized", "captured")]
        {
            assert!(matches!(judge(200, &wrong), Reply::Mismatch(_)), "{wrong}");
        }
        assert!(matches!(judge(200, "{\"reference\""), Reply::Unknown(_)));
        assert!(matches!(judge(500, ""), Reply::Unknown(_)));
        assert!(matches!(judge(504, good), Reply::Unknown(_)));
        assert!(matches!(judge(503, "<html>"), Reply::Transient(_)));
        assert!(matches!(judge(409, r#"{"error":"reference_closed"}"#), Reply::Refused(_)));
        assert_eq!(judge(200, &good.replace("authorized", "declined")), Reply::Declined);
    }

    #[test]
    fn not_found_is_believed_from_the_provider_only() {
        assert_eq!(judge_look_up("r", 404, br#"{"error":"not_found"}"#), Sight::NotFound);
        assert!(matches!(judge_look_up("r", 404, b"<html>404</html>"), Sight::Failed(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(status in 100_u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let approved = matches!(judge(&ask(), "captured", status, &body), Reply::Approved { .. });
            prop_assert!(!approved);
            let found = matches!(judge_look_up("r", status, &body), Sight::Found(_));
            prop_assert!(!found);
        }
    }
}
