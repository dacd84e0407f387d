//! The Rust twins of the CEL rules in the contracts, one function a rule id with dots as underscores; true means that the rule is kept.
//! The expression in the contract is for readers and for clients in other languages. A rule without a function does not compile.
