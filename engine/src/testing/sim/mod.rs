//! The simulator: random workflows with random outcomes, driven through `Core` with a model executor, a
//! clock that is told what time it is, an operator who interferes, and a log that can be cut anywhere.
//! `plan` says what happens, `graph` and `stages` make a workflow of it, `world` lives it. `ledger` is a
//! second, independent reading of the log that knows the invariants and nothing of `RunState`.

#[cfg(test)]
mod graph;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod plan;
pub(super) mod site;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
