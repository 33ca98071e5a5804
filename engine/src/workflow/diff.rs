//! What differs between two workflows, step by step, in words.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use sha2::Digest;

use super::graph::{GraphData, OnLost, Source, StepSpec};

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `workflow`, `param`, `step` or `rewind`.
    pub what: String,
    /// Which one.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// For what changed: each key with its value before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Changed>,
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The key, as the file writes it.
    pub key: String,
    /// Its value before; empty if it was not there.
    pub before: String,
    /// Its value after.
    pub after: String,
}

/// Values by key, as a file writes them.
type Keys = BTreeMap<String, String>;

/// What differs, the workflow's own keys first.
pub fn diff(old: &GraphData, new: &GraphData) -> Vec<Difference> {
    let mut all = compare("workflow", &head(old), &head(new));
    all.extend(compare("param", &params(old), &params(new)));
    all.extend(compare("step", &steps(old), &steps(new)));
    all.extend(compare("rewind", &rewinds(old), &rewinds(new)));
    all
}

fn compare(what: &str, old: &BTreeMap<String, Keys>, new: &BTreeMap<String, Keys>) -> Vec<Difference> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut all = Vec::new();
    for name in names {
        let (change, keys) = match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(before), Some(after)) => ("changed", changed(before, after)),
            (Some(_), None) => ("removed", Vec::new()),
            _ => ("added", Vec::new()),
        };
        all.push(Difference {
            what: what.to_owned(),
            name: name.clone(),
            change: change.to_owned(),
            keys,
        });
    }
    all
}

/// The keys of a step that differ between two workflows.
pub fn changed_keys(old: (&GraphData, &StepSpec), new: (&GraphData, &StepSpec)) -> Vec<Changed> {
    changed(&step_keys(old.0, old.1), &step_keys(new.0, new.1))
}

fn changed(before: &Keys, after: &Keys) -> Vec<Changed> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |keys: &Keys, key: &String| keys.get(key).cloned().unwrap_or_default();
    keys.into_iter()
        .map(|key| Changed {
            key: key.clone(),
            before: value(before, key),
            after: value(after, key),
        })
        .filter(|changed| changed.before != changed.after)
        .collect()
}

fn keys(pairs: impl IntoIterator<Item = (&'static str, String)>) -> Keys {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn head(graph: &GraphData) -> BTreeMap<String, Keys> {
    let own = keys([
        ("description", graph.description.clone()),
        ("priority", graph.priority.to_string()),
        ("subject", graph.subject.clone()),
    ]);
    BTreeMap::from([("workflow".to_owned(), own)])
}

fn params(graph: &GraphData) -> BTreeMap<String, Keys> {
    let one =
        |default: &Option<serde_json::Value>| default.as_ref().map(ToString::to_string).unwrap_or_default();
    let params = graph.params.iter();
    params
        .map(|param| {
            let own = [
                ("type", param.ty.clone()),
                ("default", one(&param.default)),
                ("doc", param.doc.clone()),
            ];
            (param.name.clone(), keys(own))
        })
        .collect()
}

fn steps(graph: &GraphData) -> BTreeMap<String, Keys> {
    let steps = graph.steps.iter();
    steps
        .map(|step| (step.name.to_string(), step_keys(graph, step)))
        .collect()
}

fn step_keys(graph: &GraphData, step: &StepSpec) -> Keys {
    let names = |steps: &[super::StepIx]| {
        let names = steps.iter().map(|step| graph.steps[step.get()].name.as_str());
        let names: BTreeSet<&str> = names.collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let on: Vec<&str> = step.retry.on.iter().map(|class| class.as_str()).collect();
    let limit = |ms: Option<u64>| ms.map(millis).unwrap_or_default();
    let mut own = keys([
        ("needs", names(&step.needs)),
        ("on_failure", names(&step.on_failure)),
        (
            "finally",
            if step.finally {
                "true".to_owned()
            } else {
                String::new()
            },
        ),
        ("retry.max_attempts", step.retry.max_attempts.to_string()),
        ("retry.backoff", millis(step.retry.backoff_ms)),
        ("retry.max_backoff", millis(step.retry.max_backoff_ms)),
        ("retry.on", on.join(", ")),
        ("timeout.run", limit(step.timeout.run_ms)),
        ("timeout.silence", limit(step.timeout.silence_ms)),
        ("timeout.lost", limit(step.timeout.lost_ms)),
        (
            "timeout.on_lost",
            step.timeout.on_lost.map_or("", OnLost::as_str).to_owned(),
        ),
        (
            "wait",
            step.wait
                .as_ref()
                .and_then(|wait| serde_json::to_string(wait).ok())
                .unwrap_or_default(),
        ),
        (
            "when",
            step.when.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
        (
            "valid_until",
            step.valid_until
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
    ]);
    if let Some(stage) = &step.stage {
        own.insert(
            "stage".to_owned(),
            format!("{} (version {})", stage.name, stage.version),
        );
    }
    if let Some(child) = step.workflow.and_then(|child| graph.children.get(child as usize)) {
        own.insert("workflow".to_owned(), child.name.to_string());
        // What is in it counts as much as its name.
        let text = serde_json::to_vec(child).unwrap_or_default();
        let digest = hex::encode(sha2::Sha256::digest(text));
        own.insert("workflow.content".to_owned(), digest[..16].to_owned());
    }
    if let Some(batch) = &step.batch {
        let text = serde_json::to_string(batch).unwrap_or_default();
        own.insert("batch".to_owned(), text);
    }
    if let Some(foreach) = &step.foreach {
        own.insert("foreach".to_owned(), foreach.list.to_string());
        own.insert("max_parallel".to_owned(), foreach.max_parallel.to_string());
    }
    for (name, source) in &step.inputs {
        own.insert(format!("with.{name}"), source_text(graph, source));
    }
    own
}

fn source_text(graph: &GraphData, source: &Source) -> String {
    match source {
        Source::Param(name) => format!("params.{name}"),
        Source::Output { step, field, .. } => format!("{}.{field}", graph.steps[step.get()].name),
        Source::Item { field: None } => "item".to_owned(),
        Source::Item { field: Some(field) } => format!("item.{field}"),
        Source::Literal(value) => value.to_string(),
        Source::Members => "the members of the batch".to_owned(),
        Source::Subject { kind, .. } => format!("what the subject owns as {kind}"),
    }
}

fn rewinds(graph: &GraphData) -> BTreeMap<String, Keys> {
    let name = |ix: super::StepIx| graph.steps[ix.get()].name.to_string();
    let edges = graph.rewinds.iter();
    edges
        .map(|edge| {
            let own = [("to", name(edge.to)), ("max", edge.max.to_string())];
            (format!("{} on {}", name(edge.from), edge.on), keys(own))
        })
        .collect()
}

fn millis(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}
