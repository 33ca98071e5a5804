//! The simulator: random workflows with random outcomes, driven through `Core` with a model executor, a
//! clock that is told what time it is, and a log that can be cut anywhere. `ledger` is a second,
//! independent reading of the log that knows the invariants and nothing of `RunState`.

mod ledger;
mod plan;
#[cfg(test)]
mod tests;
mod world;
