//! What survives: the journal on SurrealDB ([`journal`]), and stores of artifacts ([`store`]).

pub mod journal;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
