//! The workflows that come with the binary, and those in the home, which go before them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use sealflow_engine::stage::StageRegistry;
use sealflow_engine::workflow::{Diagnostic, Graph, load_with};

use crate::exit::{CliError, Kind, not_found};

/// Name and text of each embedded workflow.
pub(crate) const BUILTIN: [(&str, &str); 6] = [
    ("seal", include_str!("../workflows/seal.toml")),
    ("seal_offline", include_str!("../workflows/seal_offline.toml")),
    (
        "snap_up_offline",
        include_str!("../workflows/snap_up_offline.toml"),
    ),
    (
        "window_post_offline",
        include_str!("../workflows/window_post_offline.toml"),
    ),
    (
        "winning_post_offline",
        include_str!("../workflows/winning_post_offline.toml"),
    ),
    ("unseal", include_str!("../workflows/unseal.toml")),
];

/// A workflow file that was found.
pub(crate) struct Found {
    /// What to call it in messages.
    pub(crate) label: String,
    /// Its path, unless it is embedded.
    pub(crate) path: Option<PathBuf>,
    /// Its text.
    pub(crate) text: String,
}

/// Finds a workflow: a path to a file, a name in the home, or an embedded name.
pub(crate) fn find(name: &str, home_workflows: &Path) -> anyhow::Result<Found> {
    let looks_like_path = name.contains('/') || name.ends_with(".toml");
    let candidate = if looks_like_path {
        PathBuf::from(name)
    } else {
        home_workflows.join(format!("{name}.toml"))
    };
    match std::fs::read_to_string(&candidate) {
        Ok(text) => {
            let label = candidate.display().to_string();
            return Ok(Found {
                label,
                path: Some(candidate),
                text,
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if looks_like_path {
                return Err(not_found(format!("there is no file {}", candidate.display())));
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", candidate.display())),
    }
    match BUILTIN.iter().find(|(known, _)| *known == name) {
        Some((name, text)) => Ok(Found {
            label: format!("{name} (built in)"),
            path: None,
            text: (*text).to_owned(),
        }),
        None => {
            let error = CliError::new(Kind::NotFound, format!("there is no workflow `{name}`"));
            Err(error
                .hint("`sealflow workflow list` shows all; a path to a file works too")
                .into())
        }
    }
}

/// The names of all workflows: those in the home and those embedded.
pub(crate) fn names(home_workflows: &Path) -> Vec<String> {
    let mut names: Vec<String> = BUILTIN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for entry in std::fs::read_dir(home_workflows).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Checks a text. Workflows that its steps name are found by name, never by a path.
pub(crate) fn check(
    text: &str,
    registry: &StageRegistry,
    home_workflows: &Path,
) -> (Option<Graph>, Vec<Diagnostic>) {
    let library = |name: &str| {
        let plain = !name.contains('/') && !name.ends_with(".toml");
        plain
            .then(|| find(name, home_workflows).ok())
            .flatten()
            .map(|found| found.text)
    };
    load_with(text, registry, &library)
}

/// Checks a text; what is wrong becomes one error with every complaint drawn.
pub(crate) fn graph(
    found: &Found,
    registry: &StageRegistry,
    home_workflows: &Path,
) -> anyhow::Result<(Arc<Graph>, Vec<Diagnostic>)> {
    let (graph, diagnostics) = check(&found.text, registry, home_workflows);
    match graph {
        Some(graph) => Ok((Arc::new(graph), diagnostics)),
        None => {
            let text = crate::draw::diagnostics(&found.label, &found.text, &diagnostics);
            Err(CliError::new(Kind::Config, format!("{} cannot run\n{text}", found.label)).into())
        }
    }
}
