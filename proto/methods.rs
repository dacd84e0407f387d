//! The method table: who may call a method, what repeating it does, how long it may take, and where REST finds it.

/// A method and the policy its contract states.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `/mercato.ordering.v1.OrderService/PlaceOrder`, as in the HTTP/2 `:path`.
    pub path: &'static str,
    /// Full name of the service, `mercato.ordering.v1.OrderService`.
    pub service: &'static str,
    /// Name of the method, `PlaceOrder`.
    pub name: &'static str,
    /// Who may call.
    pub caller: Caller,
    /// Roles that pass beside the owner, with [`Caller::User`] for every owner.
    pub or_roles: &'static [&'static str],
    /// What repeating the call does.
    pub idempotency: Idempotency,
    /// The longest a call may take, in milliseconds; for a server stream, the longest the stream may live.
    pub deadline_ms: u64,
    /// The REST routes; none for methods that only services call.
    pub http: &'static [HttpBinding],
    /// The HTTP status of a success over REST: 200, 201, 202 or 204.
    pub http_success: u16,
    /// Whose changes it is counted with at the edge.
    pub quota: Quota,
    /// Whether the answer is a stream.
    pub server_streaming: bool,
    /// Whether the request is a stream.
    pub client_streaming: bool,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Anyone, without a token; a token that is sent must still be valid.
    Public,
    /// Any signed-in subject.
    User,
    /// The subject named in this field of the request, read through [`Owner`]; the field holds a customer id or the word `me`.
    OwnerField(&'static str),
    /// A holder of at least one of these roles.
    Roles(&'static [&'static str]),
    /// Other services of ours.
    Peer,
}

/// What repeating a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: the method changes nothing.
    ReadOnly,
    /// The call carries the metadata `idempotency-key`; the same key and request answer with the same bytes.
    Key,
    /// Nothing more than the first call did, by the nature of the method.
    Natural,
}

/// Whose changes are counted together at the edge; reads are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Those of a subject.
    Subject,
    /// Those of an address, where there is no subject.
    Address,
    /// Those of an address, tightly: who guesses must be slow.
    SignIn,
    /// Nobody's: the sender proves itself by a signature before anything is stored.
    Signed,
}

/// A REST route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpBinding {
    /// `GET`, `PUT`, `POST`, `DELETE` or `PATCH`.
    pub verb: &'static str,
    /// The path, with request fields in braces: `/api/orders/{order_id}`.
    pub template: &'static str,
    /// The request field that is the body, `*` for all fields that the path does not bind, or nothing.
    pub body: &'static str,
}

/// Whom a request belongs to; implemented for every message of ours.
pub trait Owner {
    /// The owner field of a request whose method says [`Caller::OwnerField`], as sent and perhaps empty; otherwise nothing.
    fn owner(&self) -> Option<&str>;
}

/// The method called by this path, if it is in the contracts.
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.binary_search_by(|method| method.path.cmp(path)).ok().map(|place| &METHODS[place])
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));
