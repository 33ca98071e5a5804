//! The second simulator: a whole installation under one seed. Runs that do the work of other runs' steps,
//! batches, triggers, moves to another graph, machines that fall silent or die, a store whose commits are
//! visible before they are durable and whose answers get lost, and a daemon that is stopped anywhere. `flows`
//! has the workflows and what their work gives, `store` the model store, `machines` the places where work is
//! done, `world` lives, `book` reads everything that is durable and knows what must hold.

mod book;
mod flows;
mod machines;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;

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
#[derive(Debug, Clone, Default)]
struct Stats(BTreeMap<&'static str, u32>);

impl Stats {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}
