//! Workflow files: read with positions (`file`), checked against the stages and resolved into a graph
//! (`resolve`), kept by runs as [`Graph`] (`graph`), and complained about (`diagnostic`).

mod diagnostic;
mod diff;
mod file;
mod graph;
mod reader;
mod resolve;
#[cfg(test)]
mod tests;

pub(crate) use diagnostic::did_you_mean;
pub use diagnostic::{Diagnostic, Severity};
pub use diff::{Changed, Difference, changed_keys, diff};
pub use graph::{
    BatchSpec, Foreach, Graph, GraphData, OnLost, ParamSpec, Retry, RewindEdge, Source, StageRef, StepIx,
    StepSpec, Timeouts, WaitSpec,
};

pub use resolve::MAX_STEPS;

use crate::stage::StageRegistry;

/// Gives the text of the workflow file of a name.
pub type Library<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads and checks the text of a workflow file that names no other. The graph is there unless a
/// diagnostic is an error.
pub fn load(text: &str, registry: &StageRegistry) -> (Option<Graph>, Vec<Diagnostic>) {
    load_with(text, registry, &|_| None)
}

/// Reads and checks the text of a workflow file, with the workflows of `library` that its steps name.
pub fn load_with(
    text: &str,
    registry: &StageRegistry,
    library: &Library<'_>,
) -> (Option<Graph>, Vec<Diagnostic>) {
    load_within(text, registry, library, &[])
}

/// `within` are the names of the workflows that this one is a part of.
fn load_within(
    text: &str,
    registry: &StageRegistry,
    library: &Library<'_>,
    within: &[&str],
) -> (Option<Graph>, Vec<Diagnostic>) {
    let (file, mut diagnostics) = file::parse(text);
    let children = resolve::Children::new(registry, library, within);
    let graph = file.and_then(|file| resolve::resolve(&file, registry, &children, &mut diagnostics));
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    let failed = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    (graph.filter(|_| !failed), diagnostics)
}
