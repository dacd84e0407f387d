//! What the generated checks stand on.

use std::fmt::{self, Display};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// `ErrorInfo.reason` of a request that breaks a rule of its contract.
pub const REASON: &str = "REQUEST_INVALID";

/// `ErrorInfo.domain` of errors that belong to no single service.
pub const DOMAIN: &str = "mercato";

/// Generated for every message of the contracts; a request type without it does not compile into a server.
pub trait Validate {
    /// Adds every rule that this message, found at `at`, breaks.
    fn validate(&self, at: &Path<'_>, out: &mut Violations);
}

/// Checks a whole message. Servers need not call this, their codec does; consumers of events and files do.
///
/// # Errors
/// The rules that are broken.
pub fn check<M: Validate>(message: &M) -> Result<(), Violations> {
    let mut violations = Violations::default();
    message.validate(&Path::ROOT, &mut violations);
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// Compiles every pattern of the contracts, some milliseconds of work that the first requests would pay otherwise; call it at start.
pub fn warm() {
    crate::rules::warm();
}

/// The answer to bytes that are no message.
#[cold]
pub(crate) fn malformed(error: &prost::DecodeError) -> Status {
    let details = ErrorDetails::with_error_info(REASON, DOMAIN, []);
    Status::with_error_details(Code::InvalidArgument, format!("the request is not a valid message: {error}"), details)
}

/// Where a value is, as a list on the stack: nothing is written down until a rule is broken.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    up: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'static str),
    Index(usize),
    Key(&'a dyn fmt::Debug),
}

impl<'a> Path<'a> {
    /// The message itself.
    pub const ROOT: Path<'static> = Path { up: None, step: Step::Root };

    /// A field, by its JSON name.
    pub fn field(&'a self, name: &'static str) -> Path<'a> {
        Path { up: Some(self), step: Step::Field(name) }
    }

    /// An item of a list.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { up: Some(self), step: Step::Index(index) }
    }

    /// An entry of a map.
    pub fn key(&'a self, key: &'a dyn fmt::Debug) -> Path<'a> {
        Path { up: Some(self), step: Step::Key(key) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
            if matches!(self.step, Step::Field(_)) && !matches!(up.step, Step::Root) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in JSON names, `items[0].quantity`; empty for a rule of the whole message.
    pub field: String,
    /// The rule's id, `string.min_len`.
    pub rule: &'static str,
    /// What is wrong, in English. Never holds the value.
    pub text: &'static str,
}

/// The broken rules of one message. Only the first [`Violations::KEPT`] are told: details travel in a header, and clients accept 8 KiB
/// of headers; with more, some close the whole connection. Map keys are the caller's text, so a path is cut, too.
#[derive(Debug, Default)]
pub struct Violations {
    /// The broken rules that are told.
    pub list: Vec<Violation>,
    /// How many more there are.
    pub more: usize,
}

impl Violations {
    /// How many violations are told.
    pub const KEPT: usize = 20;
    /// Bytes of a field path that are told.
    pub const FIELD: usize = 100;

    /// Adds a broken rule.
    #[cold]
    #[inline(never)]
    pub fn add(&mut self, at: &Path<'_>, rule: &'static str, text: &'static str) {
        if self.list.len() == Self::KEPT {
            self.more += 1;
            return;
        }
        let mut field = at.to_string();
        if field.len() > Self::FIELD {
            field.truncate(field.floor_char_boundary(Self::FIELD));
        }
        self.list.push(Violation { field, rule, text });
    }

    /// Whether every rule is kept.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// INVALID_ARGUMENT with one BadRequest violation a broken rule; the violation's `reason` is the stable rule id.
    #[cold]
    pub fn into_status(self) -> Status {
        let total = self.list.len() + self.more;
        let message = match self.list.first() {
            Some(v) if total == 1 => v.to_string(),
            Some(v) => format!("{v} (and {} more)", total - 1),
            None => String::new(),
        };
        let violations = self.list.into_iter().map(|v| FieldViolation { reason: reason(v.rule), ..FieldViolation::new(v.field, v.text) });
        let mut details = ErrorDetails::with_bad_request(violations.collect::<Vec<_>>());
        details.set_error_info(REASON, DOMAIN, [("violations".to_string(), total.to_string())]);
        Status::with_error_details(Code::InvalidArgument, message, details)
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(self.text) } else { write!(f, "{}: {}", self.field, self.text) }
    }
}

impl Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, violation) in self.list.iter().enumerate() {
            write!(f, "{}{violation}", if i == 0 { "" } else { "; " })?;
        }
        if self.more > 0 { write!(f, " (and {} more)", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for Violations {}

/// `string.min_len` is STRING_MIN_LEN: google.rpc wants reasons in this form.
fn reason(rule: &str) -> String {
    rule.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Whether `s` has fewer than `n` characters. Bytes decide most cases; only near the limit characters are counted.
pub fn shorter(s: &str, n: usize) -> bool {
    s.len() < n || (s.len() < n * 4 && s.chars().count() < n)
}

/// Whether `s` has more than `n` characters.
pub fn longer(s: &str, n: usize) -> bool {
    s.len() > n && (s.len() > n * 4 || s.chars().count() > n)
}

/// Whether `s` is a UUID in its usual form, 8-4-4-4-12 hexadecimal digits.
pub fn uuid(s: &str) -> bool {
    let s = s.as_bytes();
    s.len() == 36 && s.iter().enumerate().all(|(i, c)| if matches!(i, 8 | 13 | 18 | 23) { *c == b'-' } else { c.is_ascii_hexdigit() })
}

/// Whether `s` is an e-mail address as the HTML standard defines it.
pub fn email(s: &str) -> bool {
    let Some((local, domain)) = s.split_once('@') else { return false };
    let label = |l: &str| {
        let b = l.as_bytes();
        (1..=63).contains(&b.len()) && !l.starts_with('-') && !l.ends_with('-') && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    !local.is_empty()
        && local.bytes().all(|c| c.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&c))
        && domain.split('.').all(label)
}

/// Whether no item appears twice. Quadratic up to 16 items, then by hashing.
pub fn unique<T: Eq + std::hash::Hash>(items: &[T]) -> bool {
    if items.len() <= 16 {
        return (1..items.len()).all(|i| !items[..i].contains(&items[i]));
    }
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    items.iter().all(|i| seen.insert(i))
}
