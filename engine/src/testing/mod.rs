//! For tests: an in-memory journal, a simulated clock, pretend stages, and the suites that every
//! implementation of the engine's traits passes.
#![expect(
    clippy::expect_used,
    reason = "test support: a broken expectation is a failed test"
)]

mod clock;
#[cfg(test)]
mod formats;
mod journal_suite;
mod memory;
mod memory_store;
mod sample;
mod sim;
mod store_suite;

pub use clock::SimClock;
pub use journal_suite::{commit, journal_suite};
pub use memory::MemoryJournal;
pub use memory_store::MemoryStore;
pub use sample::SampleRun;
pub use sim::site::{Next, installation_suite};
pub use store_suite::artifact_store_suite;
