//! What the core asks for: appends to the journal, and what to do once they are durable.

use super::*;

/// What to do once the append that it came with is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Have this executor run an attempt.
    Dispatch(Box<Dispatch>),
    /// Have this executor stop an attempt.
    Stop {
        /// The executor.
        executor: String,
        /// The attempt.
        key: AttemptKey,
    },
    /// Start the run that does a step's work, once its parameters and what its subject owns are read.
    Launch(Box<Launch>),
    /// Start a run because its time has come, once what its subject owns is read.
    Fire(Box<Fire>),
    /// Report what a run that has ended gives to the attempts whose work it did.
    Deliver(Box<Delivery>),
    /// Read a run that rests, and take it up.
    Recall(RunId),
    /// Ask this executor whether it still has an attempt from before a restart.
    Attach {
        /// The executor.
        executor: String,
        /// The attempt.
        key: AttemptKey,
        /// Its fence.
        token: Token,
    },
}

/// An attempt to hand to an executor; values that are not at hand are still to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The executor.
    pub executor: String,
    /// Which attempt.
    pub key: AttemptKey,
    /// Its fence.
    pub token: Token,
    /// What the run is about.
    pub subject: Subject,
    /// The stage.
    pub stage: StageName,
    /// Whether the input is that of many members of a batch.
    pub many: bool,
    /// Its input.
    pub input: BTreeMap<String, InputValue>,
    /// What it may hold.
    pub held: Resources,
}

/// An append, and what to do once it is durable.
#[derive(Debug)]
pub struct Transition {
    /// What to commit; nothing when there is no change to remember.
    pub append: Option<Append>,
    /// What to do then.
    pub effects: Vec<Effect>,
}
