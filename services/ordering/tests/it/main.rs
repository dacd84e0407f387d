//! Ordering's own tests: the rules by property. What needs stores is tried with the whole shop, in `services/mercato`.

mod domain;
