//! What survives: the journal on SurrealDB ([`journal`]).

pub mod journal;
