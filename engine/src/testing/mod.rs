//! For tests: an in-memory journal, a simulated clock, pretend stages, and the suites that every
//! implementation of the engine's traits passes.

mod clock;
mod journal_suite;
mod memory;

pub use clock::SimClock;
pub use journal_suite::journal_suite;
pub use memory::MemoryJournal;
