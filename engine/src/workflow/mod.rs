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
pub use diff::{Changed, Difference, diff};
pub use graph::{
    Foreach, Graph, GraphData, ParamSpec, Retry, RewindEdge, Source, StageRef, StepIx, StepSpec, Timeouts,
    WaitSpec,
};

use crate::stage::StageRegistry;

/// Reads and checks the text of a workflow file. The graph is there unless a diagnostic is an error.
pub fn load(text: &str, registry: &StageRegistry) -> (Option<Graph>, Vec<Diagnostic>) {
    let (file, mut diagnostics) = file::parse(text);
    let graph = file.and_then(|file| resolve::resolve(&file, registry, &mut diagnostics));
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    let failed = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    (graph.filter(|_| !failed), diagnostics)
}
