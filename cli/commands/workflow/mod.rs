//! `sealflow workflow`: workflow files.

mod rehearse;
mod schema;

use clap::{Subcommand, ValueEnum};
use sealflow_engine::id::RunId;
use sealflow_engine::workflow::{GraphData, Severity};
use serde_json::json;

use super::hold::Hold;
use crate::api::{Client, Source};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::{builtin, draw, output, wire};

/// Check, draw and list workflow files
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List workflows: those in the data directory and those that come with sealflow
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say everything that is wrong with a workflow, at its line
    Check {
        /// Files, or names of workflows; all of them if nothing is said
        workflows: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a workflow's file
    Show {
        /// A file, or the name of a workflow
        workflow: String,
        /// Print the resolved graph as JSON instead
        #[arg(long)]
        json: bool,
    },
    /// Show step by step what an edited workflow does differently
    ///
    /// Example: sealflow workflow diff seal_offline ./seal_offline.toml
    Diff {
        /// A file, the name of a workflow, or a run, which keeps the one it started with
        old: String,
        /// The same
        new: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start no step of a workflow's runs any more; attempts that run go on
    Pause(Hold),
    /// Let steps of a workflow's runs start again
    Resume(Hold),
    /// Run a workflow in a moment: the real engine, pretended work, a simulated clock
    Rehearse(rehearse::Args),
    /// Print a JSON Schema of workflow files, for editors
    ///
    /// Editors that know TOML take it: with taplo, `#:schema ./workflow.schema.json` in the first line.
    Schema,
    /// Draw a workflow
    Graph {
        /// A file, or the name of a workflow
        workflow: String,
        /// How
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For the terminal
    Text,
    /// For Mermaid, which many documentation tools draw
    Mermaid,
    /// For Graphviz
    Dot,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let registry = wire::registry(cx);
    let home = cx.home.workflows();
    match args.command {
        Command::Pause(what) => what.set(cx, "workflow", true).await,
        Command::Resume(what) => what.set(cx, "workflow", false).await,
        Command::Schema => output::json(&schema::schema(&registry)),
        Command::List { json } => {
            let holds = match Client::find(cx).await? {
                Some(client) => client.holds().await?,
                None => Vec::new(),
            };
            let mut list = Vec::new();
            for name in builtin::names(&home) {
                let found = builtin::find(&name, &home)?;
                let (graph, _) = builtin::check(&found.text, &registry, &home);
                let origin = found
                    .path
                    .as_ref()
                    .map_or("built in".to_owned(), |path| path.display().to_string());
                let (description, steps, status) = match &graph {
                    Some(graph) => (graph.data().description.clone(), graph.data().steps.len(), "ok"),
                    None => (String::new(), 0, "wrong"),
                };
                let paused = holds
                    .iter()
                    .any(|hold| hold.kind == "workflow" && hold.name == name);
                let status = if paused { "paused" } else { status };
                list.push(json!({
                    "workflow": name, "origin": origin, "status": status, "steps": steps, "description": description,
                }));
            }
            if json {
                return output::json(&list);
            }
            let text = |value: &serde_json::Value, key: &str| match &value[key] {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let keys = ["workflow", "status", "steps", "origin", "description"];
            output::table(
                &keys,
                list.iter()
                    .map(|row| keys.iter().map(|key| text(row, key)).collect())
                    .collect(),
            );
            Ok(())
        }
        Command::Check { workflows, json } => check(cx, &workflows, json),
        Command::Show { workflow, json } => {
            let found = builtin::find(&workflow, &home)?;
            if json {
                let (graph, _) = builtin::graph(&found, &registry, &cx.home.workflows())?;
                return output::json(graph.data());
            }
            output::data(&found.text);
            Ok(())
        }
        Command::Graph { workflow, format } => {
            let found = builtin::find(&workflow, &home)?;
            let (graph, _) = builtin::graph(&found, &registry, &cx.home.workflows())?;
            output::data(&match format {
                Format::Text => draw::ascii(graph.data()),
                Format::Mermaid => draw::mermaid(graph.data()),
                Format::Dot => draw::dot(graph.data()),
            });
            Ok(())
        }
        Command::Diff { old, new, json } => Box::pin(diff(cx, &old, &new, json)).await,
        Command::Rehearse(args) => rehearse::run(cx, args),
    }
}

/// The graph of a file, a name, or of a run, which keeps the one it started with.
async fn graph_of(cx: &Context, what: &str) -> anyhow::Result<GraphData> {
    if let Ok(run) = what.parse::<RunId>() {
        let source = Source::open(cx).await?;
        let graph = source.graph(&run).await;
        source.close().await?;
        return graph;
    }
    let found = builtin::find(what, &cx.home.workflows())?;
    let (graph, _) = builtin::graph(&found, &wire::registry(cx), &cx.home.workflows())?;
    Ok(graph.data().clone())
}

async fn diff(cx: &Context, old: &str, new: &str, json: bool) -> anyhow::Result<()> {
    let (old, new) = (graph_of(cx, old).await?, graph_of(cx, new).await?);
    let differences = sealflow_engine::workflow::diff(&old, &new);
    if json {
        return output::json(&differences);
    }
    if differences.is_empty() {
        output::note("they do the same");
    }
    for one in &differences {
        let sign = match one.change.as_str() {
            "added" => "+",
            "removed" => "-",
            _ => "~",
        };
        output::data(&format!("{sign} {} {}", one.what, one.name));
        for key in &one.keys {
            let shown = |text: &str| {
                if text.is_empty() {
                    "nothing".to_owned()
                } else {
                    text.to_owned()
                }
            };
            output::data(&format!(
                "    {}: {} → {}",
                key.key,
                shown(&key.before),
                shown(&key.after)
            ));
        }
    }
    Ok(())
}

fn check(cx: &Context, workflows: &[String], json: bool) -> anyhow::Result<()> {
    let registry = wire::registry(cx);
    let home = cx.home.workflows();
    let names = if workflows.is_empty() {
        builtin::names(&home)
    } else {
        workflows.to_vec()
    };
    let mut problems = Vec::new();
    let mut errors = 0;
    for name in &names {
        let found = builtin::find(name, &home)?;
        let (graph, diagnostics) = builtin::check(&found.text, &registry, &home);
        errors += diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .count();
        if json {
            problems.extend(diagnostics.iter().map(|diagnostic| {
                let (line, column) = diagnostic.position(&found.text);
                json!({
                    "file": found.label, "line": line, "column": column, "severity": diagnostic.severity,
                    "code": diagnostic.code, "message": diagnostic.message, "hint": diagnostic.hint,
                })
            }));
        } else if !diagnostics.is_empty() {
            output::note(&draw::diagnostics(&found.label, &found.text, &diagnostics));
            output::note("");
        }
        if let (Some(graph), false) = (graph, json) {
            let data = graph.data();
            output::note(&format!(
                "{} is right: workflow `{}`, {}",
                found.label,
                data.name,
                output::count(data.steps.len(), "step")
            ));
        }
    }
    if json {
        output::json(&problems)?;
    }
    if errors == 0 {
        return Ok(());
    }
    Err(CliError::new(Kind::Config, output::count(errors, "error")).into())
}
