//! The durable DAG engine. It knows runs, steps, time and resources; nothing of Filecoin, SQL,
//! processes or sockets, for which it owns the traits that the floors above implement.
//!
//! Reading order: [`workflow`] (what a file says), [`event`] (what happened), [`run`] (the state that
//! follows), [`decide`] (what is to be done), [`core`] (all runs together, without input or output),
//! [`dispatcher`] (the one task that does it).

pub mod artifact;
pub mod clock;
pub mod core;
pub mod crash;
pub mod decide;
pub mod dispatcher;
pub mod durable;
pub mod durations;
pub mod event;
pub mod executor;
pub mod expression;
pub mod failure;
pub mod id;
pub mod journal;
pub mod migrate;
pub mod rehearse;
pub mod resource;
pub mod rows;
pub mod run;
pub mod schema;
pub mod site;
pub mod stage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod timeline;
pub mod trigger;
pub mod wire;
pub mod workflow;
