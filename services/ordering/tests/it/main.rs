//! Ordering's own tests: the rules by property, and the store against a real PostgreSQL.

mod domain;
