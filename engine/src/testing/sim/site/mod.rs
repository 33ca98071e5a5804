//! The second simulator: a whole installation under one seed. Runs that do the work of other runs' steps,
//! batches, triggers, moves to another graph, machines that fall silent or die, a store whose commits are
//! visible before they are durable and whose answers get lost, and a daemon that is stopped anywhere. `flows`
//! has the workflows and what their work gives, `store` the model store, `machines` the places where work is
//! done, `world` lives, `book` reads everything that is durable and knows what must hold.

#![expect(
    clippy::unwrap_used,
    reason = "test support: a broken expectation is a failed test"
)]

mod backend;
mod book;
mod flows;
mod machines;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;

use self::backend::OnJournal;
use self::world::World;
use crate::journal::Journal;

/// Lives an installation once on the model store and once on a journal, and compares: whatever the journal is asked for
/// at a restart is what the model has, both lives are the same, and what a daemon commits after another one took the
/// journal is refused. `next` is a daemon that follows one: at a restart, when the first is gone, or beside it.
///
/// # Errors
/// What went wrong, with the seed.
pub fn installation_suite<J: Journal>(
    seed: u64,
    runtime: &tokio::runtime::Handle,
    first: J,
    next: impl FnMut(J, Next) -> (J, Option<J>) + 'static,
) -> Result<(), String> {
    let model = World::live(seed, None)?;
    let journal = OnJournal::new(runtime.clone(), first, Box::new(next));
    let real = World::live(seed, Some(Box::new(journal)))?;
    if model == real {
        return Ok(());
    }
    Err(format!(
        "seed {seed} lives otherwise on the journal: {real:?} instead of {model:?}"
    ))
}

/// How a daemon follows another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The first one has ended.
    Restart,
    /// The first one goes on; it is given back.
    Beside,
}

/// Numbers that look random (SplitMix64): the same seed gives the same life.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Once in so many times.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or_default();
        all.get(at)
    }
}

/// How often things happened.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stats(BTreeMap<&'static str, u32>);

impl Stats {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}
