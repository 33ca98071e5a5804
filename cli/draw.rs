//! Pictures in text: diagnostics in their file, a workflow's graph, a run's steps.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use console::{Style, style};
use sealflow_engine::workflow::{Diagnostic, GraphData, Severity};

use crate::view::{EtaView, RunDetail, StepView};

/// Every complaint about a file, drawn at its place.
pub(crate) fn diagnostics(label: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    let renderer = if console::colors_enabled_stderr() {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut drawn = Vec::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(text)
            .path(label)
            .annotation(AnnotationKind::Primary.span(diagnostic.span.clone()));
        let title = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code);
        let mut report = vec![title.element(snippet)];
        if let Some(hint) = &diagnostic.hint {
            report.push(Group::with_title(Level::HELP.secondary_title(hint.as_str())));
        }
        drawn.push(renderer.render(&report));
    }
    drawn.join("\n\n")
}

/// A graph for Mermaid, which many documentation tools draw.
pub(crate) fn mermaid(graph: &GraphData) -> String {
    let mut text = String::from("graph TD\n");
    for step in &graph.steps {
        text.push_str(&format!(
            "  {}[\"{}\"]\n",
            step.name,
            label(graph, step.name.as_str())
        ));
    }
    for step in &graph.steps {
        for need in &step.needs {
            text.push_str(&format!("  {} --> {}\n", graph.steps[need.get()].name, step.name));
        }
    }
    for edge in &graph.rewinds {
        let (from, to) = (
            &graph.steps[edge.from.get()].name,
            &graph.steps[edge.to.get()].name,
        );
        text.push_str(&format!(
            "  {from} -. \"{} (at most {})\" .-> {to}\n",
            edge.on, edge.max
        ));
    }
    text
}

/// A graph for Graphviz.
pub(crate) fn dot(graph: &GraphData) -> String {
    let mut text = format!(
        "digraph \"{}\" {{\n  rankdir=TB;\n  node [shape=box];\n",
        graph.name
    );
    for step in &graph.steps {
        text.push_str(&format!(
            "  \"{}\" [label=\"{}\"];\n",
            step.name,
            label(graph, step.name.as_str())
        ));
        for need in &step.needs {
            text.push_str(&format!(
                "  \"{}\" -> \"{}\";\n",
                graph.steps[need.get()].name,
                step.name
            ));
        }
    }
    for edge in &graph.rewinds {
        let (from, to) = (
            &graph.steps[edge.from.get()].name,
            &graph.steps[edge.to.get()].name,
        );
        text.push_str(&format!(
            "  \"{from}\" -> \"{to}\" [style=dashed, label=\"{}\", constraint=false];\n",
            edge.on
        ));
    }
    text.push_str("}\n");
    text
}

fn label(graph: &GraphData, name: &str) -> String {
    let stage = graph
        .steps
        .iter()
        .find(|step| step.name.as_str() == name)
        .and_then(|step| step.stage.as_ref());
    match stage {
        Some(stage) if stage.name.as_str() != name => format!("{name} ({})", stage.name),
        Some(_) => name.to_owned(),
        None => format!("{name} (wait)"),
    }
}

/// A graph in the terminal.
pub(crate) fn ascii(graph: &GraphData) -> String {
    let labels: Vec<String> = graph
        .steps
        .iter()
        .map(|step| label(graph, step.name.as_str()))
        .collect();
    let nodes: Vec<(usize, &str)> = labels.iter().map(String::as_str).enumerate().collect();
    let edges: Vec<(usize, usize)> = reduced_edges(graph);
    let dag = ascii_dag::Graph::from_edges(&nodes, &edges);
    let mut text = dag.render().trim_end().to_owned();
    text.push('\n');
    for edge in &graph.rewinds {
        let (from, to) = (
            &graph.steps[edge.from.get()].name,
            &graph.steps[edge.to.get()].name,
        );
        text.push_str(&format!(
            "{from} goes back to {to} on {} (at most {} times)\n",
            edge.on, edge.max
        ));
    }
    text
}

/// The edges that other paths do not imply: what a picture needs.
fn reduced_edges(graph: &GraphData) -> Vec<(usize, usize)> {
    let mut above: Vec<std::collections::BTreeSet<usize>> = Vec::new();
    let mut edges = Vec::new();
    for (at, step) in graph.steps.iter().enumerate() {
        let needs: Vec<usize> = step.needs.iter().map(|need| need.get()).collect();
        for need in &needs {
            if !needs.iter().any(|other| above[*other].contains(need)) {
                edges.push((*need, at));
            }
        }
        let mut all: std::collections::BTreeSet<usize> = needs.iter().copied().collect();
        for need in &needs {
            all.extend(above[*need].iter().copied());
        }
        above.push(all);
    }
    edges
}

/// A sign and a color for a status.
fn mark(status: &str) -> (&'static str, Style) {
    match status {
        "succeeded" => ("✓", Style::new().green()),
        "running" => ("▶", Style::new().cyan().bold()),
        "waiting" => ("⏲", Style::new().yellow()),
        "ready" => ("○", Style::new().cyan()),
        "failed" => ("✗", Style::new().red().bold()),
        "cancelled" | "skipped" => ("–", Style::new().dim()),
        _ => ("·", Style::new().dim()),
    }
}

/// Seconds for people.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and far below 2^64"
    )]
    let whole = std::time::Duration::from_secs(seconds.round() as u64);
    humantime::format_duration(whole).to_string()
}

/// A run's steps as a tree: each step hangs below the last of those that it needs, items below their step.
pub(crate) fn run(run: &RunDetail) -> String {
    let mut tree = Vec::new();
    let parents = parents(&run.steps);
    let roots: Vec<usize> = (0..parents.len()).filter(|at| parents[*at].is_none()).collect();
    for at in roots {
        branch(&run.steps, &parents, at, "", "", &mut tree);
    }
    let width = tree
        .iter()
        .map(|(name, _)| console::measure_text_width(name))
        .max();
    let width = width.unwrap_or_default();
    let lines = tree.iter().map(|(name, line)| match line {
        Line::Step(step) => step_line(
            step,
            &console::pad_str(name, width, console::Alignment::Left, None),
        ),
        Line::More(more) => format!("    {name}… {more} more; `run show --json` has all"),
    });
    let mut all = vec![head(run)];
    all.extend(lines);
    all.join("\n")
}

/// A line of the tree.
enum Line<'a> {
    Step(&'a StepView),
    /// Items that are not shown.
    More(usize),
}

/// A step, its items, and what hangs below it: their names behind the branches that lead to them.
fn branch<'a>(
    steps: &'a [StepView],
    parents: &[Option<usize>],
    at: usize,
    begin: &str,
    below: &str,
    tree: &mut Vec<(String, Line<'a>)>,
) {
    let step = &steps[at];
    tree.push((format!("{begin}{}", step.step), Line::Step(step)));
    let (items, more) = shown_items(step);
    let children: Vec<usize> = (at + 1..steps.len())
        .filter(|child| parents[*child] == Some(at))
        .collect();
    let mut left = items.len() + usize::from(more > 0) + children.len();
    let mut fork = || {
        left -= 1;
        if left == 0 {
            ("└ ", "  ")
        } else {
            ("├ ", "│ ")
        }
    };
    for item in items {
        tree.push((format!("{below}{}{}", fork().0, item.step), Line::Step(item)));
    }
    if more > 0 {
        tree.push((format!("{below}{}", fork().0), Line::More(more)));
    }
    for child in children {
        let (to, beside) = fork();
        branch(
            steps,
            parents,
            child,
            &format!("{below}{to}"),
            &format!("{below}{beside}"),
            tree,
        );
    }
}

/// How long a run will still take, in words.
pub(crate) fn eta(eta: &EtaView) -> String {
    match (eta.p50_seconds, eta.p90_seconds) {
        (Some(p50), Some(p90)) => {
            let (p50, p90) = (seconds(p50), seconds(p90));
            format!("about {p50} left, {p90} with nine chances in ten (estimate from earlier runs)")
        }
        _ => {
            let mut why = eta.unknown.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
            if eta.unknown.len() > 3 {
                why.push_str(&format!("; and {} more", eta.unknown.len() - 3));
            }
            format!("time left: not known ({why})")
        }
    }
}

fn head(run: &RunDetail) -> String {
    let summary = &run.summary;
    let status = match summary.status.as_str() {
        "succeeded" => style(&summary.status).green(),
        "paused" | "cancelled" | "cancelling" => style(&summary.status).yellow(),
        _ => style(&summary.status).cyan(),
    };
    let mut text = format!(
        "{}  {}  {}  {status}",
        summary.run, summary.workflow, summary.subject
    );
    if summary.archived {
        text.push_str("  (archived)");
    }
    if let Some(expected) = &run.eta {
        text.push_str(&format!("\n  {}", style(eta(expected)).dim()));
    }
    if let Some(reason) = &summary.reason {
        text.push_str(&format!(
            "\n  {reason}\n  go on with: sealflow run resume {}",
            summary.run
        ));
    }
    text
}

/// The step that each step hangs below: of those that it needs the one that is farthest from the first steps.
fn parents(steps: &[StepView]) -> Vec<Option<usize>> {
    let mut parents: Vec<Option<usize>> = Vec::new();
    let mut depths: Vec<usize> = Vec::new();
    for step in steps {
        let needs = step.needs.iter();
        let places = needs.filter_map(|need| {
            steps
                .iter()
                .take(parents.len())
                .position(|other| other.step == *need)
        });
        let parent = places.max_by_key(|at| (depths[*at], *at));
        depths.push(parent.map_or(0, |at| depths[at] + 1));
        parents.push(parent);
    }
    parents
}

/// The most items of a step that a picture shows one by one.
const ITEMS: usize = 12;

/// The items of a step that are shown: all if they are few, else those that somebody may have to look at;
/// and how many more of these there are.
fn shown_items(step: &StepView) -> (Vec<&StepView>, usize) {
    let dull = |item: &&StepView| matches!(item.status.as_str(), "succeeded" | "pending" | "ready");
    let mut shown: Vec<&StepView> = step.items.iter().collect();
    if shown.len() > ITEMS {
        shown.retain(|item| !dull(item));
    }
    let more = shown.len().saturating_sub(ITEMS);
    shown.truncate(ITEMS);
    (shown, more)
}

/// How many of a step's items stand how.
fn item_counts(step: &StepView) -> Option<String> {
    let count = step.item_count?;
    let of = |status: &str| step.items.iter().filter(|item| item.status == status).count();
    let mut text = format!("{} of {count} items", of("succeeded") + of("skipped"));
    for status in ["running", "failed", "waiting", "skipped"] {
        match of(status) {
            0 => {}
            some => text.push_str(&format!(", {some} {status}")),
        }
    }
    Some(text)
}

/// A time that is worth telling.
fn told(what: &str, time: f64) -> Option<String> {
    (time >= 0.05).then(|| format!("  {what} {}", seconds(time)))
}

fn step_line(step: &StepView, name: &str) -> String {
    let (sign, color) = mark(&step.status);
    let mut text = format!(
        "  {} {name}  {}",
        color.apply_to(sign),
        color.apply_to(format!("{:9}", step.status))
    );
    if step.status == "running" {
        text.push_str(&format!("  {}", running(step)));
    } else if step.run_seconds > 0.0 || step.seconds > 0.0 {
        text.push_str(&format!("  {}", seconds(step.run_seconds.max(step.seconds))));
    }
    text.extend(told("queued", step.queue_seconds));
    text.extend(told("waited", step.wait_seconds));
    if let Some(executor) = &step.executor {
        text.push_str(&format!("  on {executor}"));
    }
    if let Some(counts) = item_counts(step) {
        text.push_str(&format!("  {counts}"));
    }
    if let Some(why) = &step.skipped {
        text.push_str(&format!("  {}", style(why).dim()));
    }
    if let Some(until) = step
        .valid_until
        .as_ref()
        .filter(|_| !matches!(step.status.as_str(), "succeeded" | "skipped"))
    {
        text.push_str(&format!("  until {until}"));
    }
    if step.attempts > 1 {
        text.push_str(&format!("  attempt {}", step.attempts));
    }
    if step.visit > 1 {
        text.push_str(&format!("  visit {}", step.visit));
    }
    if let Some(what) = &step.waiting_for {
        text.push_str(&format!("  for {what}"));
    }
    if let Some(blocked) = &step.blocked {
        text.push_str(&format!("  {}", style(blocked).dim()));
    }
    if let Some(failure) = &step.failure {
        text.push_str(&format!(
            "\n      {} {}",
            style(&failure.code).red(),
            failure.message
        ));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What a running step says: phase, counts, time so far, and an estimate that is marked as one.
fn running(step: &StepView) -> String {
    let mut parts = Vec::new();
    let progress = step.progress.clone().unwrap_or_default();
    if let Some(phase) = progress["phase"].as_str().filter(|phase| !phase.is_empty()) {
        parts.push(phase.to_owned());
    }
    if let (Some(done), Some(total)) = (progress["done"].as_u64(), progress["total"].as_u64())
        && total > 0
    {
        parts.push(match progress["unit"].as_str() {
            Some("bytes") => format!("{} of {}", bytesize::ByteSize(done), bytesize::ByteSize(total)),
            _ => format!("{}%", done * 100 / total),
        });
    }
    let started = humantime::parse_rfc3339_weak(&step.since).ok();
    if let Some(elapsed) = started.and_then(|started| started.elapsed().ok()) {
        parts.push(seconds(elapsed.as_secs_f64()));
        if let Some(left) = progress["estimate_seconds"].as_u64() {
            parts.push(format!("about {left}s left (estimate)"));
        } else if let Some(expected) = step.estimate_seconds {
            parts.push(format!("of about {} (estimate)", seconds(expected)));
        }
    }
    parts.join(", ")
}
