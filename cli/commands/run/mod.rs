//! `sealflow run`: start runs, look at them, and tell them what to do.

mod archive;
mod events;
mod migrate;
mod verbs;

use std::time::Duration;

use clap::Subcommand;
use sealflow_engine::id::{RunId, Subject, WorkflowName};
use sealflow_engine::journal::RunFilter;
use sealflow_engine::run::RunStatus;
use serde_json::{Map, Value};

use crate::api::{ByRequest, Client, Said, Source, StartRequest, StreamedEntry};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::view::{self, EntryView, ExplainView, RunDetail, RunSummary};
use crate::{builtin, draw, gantt, output, wire};

/// Start runs, look at them, and tell them what to do
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Reason {
    /// Why, for the journal
    #[arg(long, default_value = "")]
    why: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a run of a workflow
    ///
    /// Example: sealflow run start seal_offline -p miner=f01000 -p sector=7
    /// -p proof_type=StackedDrg2KiBV1_1 -p 'pieces=["/data/piece.car"]'
    Start {
        /// A file, or the name of a workflow
        workflow: String,
        /// A parameter; the value is JSON, or a plain text
        #[arg(short, long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
        /// A name of your own: starting again under the same key gives the same run
        #[arg(long)]
        key: Option<String>,
        /// Steps of runs of higher priority start first; the workflow's own if nothing is said
        #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
        priority: Option<i32>,
        /// Stay and watch it to its end
        #[arg(long)]
        watch: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reason: Reason,
    },
    /// List runs, the newest first
    List {
        /// Only runs of this workflow
        #[arg(long)]
        workflow: Option<String>,
        /// Only runs that stand so: running, paused, cancelling, succeeded, cancelled
        #[arg(long)]
        status: Option<String>,
        /// Only runs about this, for example f01000/7
        #[arg(long)]
        subject: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Those that were archived, instead of those in the journal
        #[arg(long)]
        archived: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a run with its steps
    Show {
        /// The run, or the end of its name, or `latest`
        run: String,
        /// Draw when each step was queued, ran and waited
        #[arg(long)]
        timeline: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why a run does not move: every condition that is not met, with numbers and since when
    Explain {
        /// The run, or the end of its name, or `latest`
        run: String,
        /// Also steps that only wait for others
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch a run until it ends or pauses
    Watch {
        /// The run, or the end of its name, or `latest`
        run: String,
        /// Print a line of JSON for every change
        #[arg(long)]
        json: bool,
    },
    /// Print the journal of a run: everything that happened to it; or what programs said about one step
    Logs {
        /// The run, or the end of its name, or `latest`
        run: String,
        /// What the programs said that ran this step, instead of the journal
        step: Option<String>,
        /// Only of this attempt
        #[arg(long, requires = "step")]
        attempt: Option<u32>,
        /// Print a line of JSON for every entry
        #[arg(long)]
        json: bool,
        /// Go on until the run ends, or with a step until you stop it
        #[arg(long, short)]
        follow: bool,
    },
    /// Print what happens to a run, or to all of them, as it happens
    ///
    /// Example: sealflow run events --follow --json
    Events(events::Args),
    /// Move ended runs out of the journal, each into a file of its own
    ///
    /// `run show`, `run logs` and `run list --archived` read it there. The run's key and the artifacts that it
    /// made are not forgotten.
    Archive(archive::Args),
    /// Let an open run go on with an edited workflow, and say what becomes of each step
    ///
    /// What is done stays, unless the new workflow would do it otherwise: then --redo is needed, and it is done
    /// again with all that need it. Steps that run must stay as they are. If anything stands in the way, the
    /// run stays as it is. Exit code 1 says so.
    ///
    /// Example: sealflow run migrate latest ./seal_offline.toml --dry-run
    Migrate(migrate::Args),
    #[command(flatten)]
    Verb(verbs::Verb),
}

/// Who works at this terminal.
pub(crate) fn who() -> String {
    std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned())
}

pub(super) fn by(reason: Reason) -> ByRequest {
    ByRequest {
        who: who(),
        why: reason.why,
    }
}

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Start {
            workflow,
            params,
            key,
            priority,
            watch,
            json,
            reason,
        } => {
            let found = builtin::find(&workflow, &cx.home.workflows())?;
            // Checked here first, so that complaints show the user's own file.
            builtin::graph(&found, &wire::registry(&cx), &cx.home.workflows())?;
            let params = parse_params(&params)?;
            let client = Client::need(&cx).await?;
            let request = StartRequest {
                workflow: None,
                source: Some(found.text),
                params,
                key,
                priority,
                by: by(reason),
            };
            let started = client.start(&request).await?;
            if watch {
                let source = Source::Daemon(client);
                return watch_run(&source, &started.run.parse()?, json).await;
            }
            if json {
                return output::json(&started);
            }
            output::data(&started.run);
            output::note(&format!("watch it: sealflow run watch {}", started.run));
            Ok(())
        }
        Command::List {
            workflow,
            status,
            subject,
            limit,
            archived,
            json,
        } => {
            let filter = filter(workflow, status, subject, limit)?;
            let source = Source::open(&cx).await?;
            let runs = source.runs(&filter, archived).await;
            source.close().await?;
            list(&runs?, json)
        }
        Command::Show {
            run,
            timeline: true,
            json,
        } => {
            let source = Source::open(&cx).await?;
            let timeline = async { source.timeline(&find(&source, &run).await?).await }.await;
            source.close().await?;
            let timeline = timeline?;
            if json {
                return output::json(&timeline);
            }
            output::data(&gantt::draw(&timeline, output::width()));
            Ok(())
        }
        Command::Show { run, json, .. } => {
            let source = Source::open(&cx).await?;
            let detail = async { source.run(&find(&source, &run).await?).await }.await;
            source.close().await?;
            show(&detail?, json)
        }
        Command::Explain { run, all, json } => {
            let client = Client::need(&cx).await?;
            let source = Source::Daemon(client);
            let run = find(&source, &run).await?;
            let Source::Daemon(client) = &source else {
                return Ok(());
            };
            explain(&client.explain(&run).await?, all, json)
        }
        Command::Watch { run, json } => {
            let source = Source::open(&cx).await?;
            let watched = async { watch_run(&source, &find(&source, &run).await?, json).await }.await;
            source.close().await?;
            watched
        }
        Command::Logs {
            run,
            step: Some(step),
            attempt,
            follow,
            ..
        } => {
            let source = Source::open(&cx).await?;
            let run = find(&source, &run).await;
            source.close().await?;
            super::logs::of_step(&cx, &run?, &step, attempt, follow).await
        }
        Command::Logs {
            run, json, follow, ..
        } => {
            let source = Source::open(&cx).await?;
            let logged = async { logs(&source, &find(&source, &run).await?, json, follow).await }.await;
            source.close().await?;
            logged
        }
        Command::Events(args) => events::run(&cx, args).await,
        Command::Archive(args) => archive::run(&cx, args).await,
        Command::Migrate(args) => migrate::run(&cx, args).await,
        Command::Verb(verb) => verbs::run(&cx, verb).await,
    }
}

fn filter(
    workflow: Option<String>,
    status: Option<String>,
    subject: Option<String>,
    limit: u32,
) -> anyhow::Result<RunFilter> {
    let usage = |error: String| CliError::new(Kind::Usage, error);
    let status = match status {
        None => None,
        Some(text) => Some(
            serde_json::from_value::<RunStatus>(Value::String(text.clone())).map_err(|_| {
                usage(format!(
                    "`{text}` is not a status; there are running, paused, cancelling, succeeded, cancelled"
                ))
            })?,
        ),
    };
    Ok(RunFilter {
        workflow: workflow
            .map(|text| WorkflowName::new(&text))
            .transpose()
            .map_err(|error| usage(error.to_string()))?,
        status,
        subject: subject
            .map(|text| Subject::new(&text))
            .transpose()
            .map_err(|error| usage(error.to_string()))?,
        limit: Some(limit),
    })
}

/// A run by its name, by the end of its name, or the latest one.
async fn find(source: &Source, text: &str) -> anyhow::Result<RunId> {
    if let Ok(run) = text.parse() {
        return Ok(run);
    }
    let filter = RunFilter {
        limit: Some(10_000),
        ..RunFilter::default()
    };
    let mut fits = fitting(source.runs(&filter, false).await?, text);
    if fits.is_empty() && text != "latest" {
        fits = fitting(source.runs(&filter, true).await?, text);
    }
    match fits.as_slice() {
        [run] => Ok(run.run.parse()?),
        [] => Err(crate::exit::not_found(format!(
            "there is no run `{text}`; `sealflow run list` shows all"
        ))),
        several => {
            let text = format!("`{text}` fits {} runs; give more of the name", several.len());
            Err(CliError::new(Kind::Usage, text).into())
        }
    }
}

/// The runs that a name that a person gave may mean.
fn fitting(mut runs: Vec<RunSummary>, text: &str) -> Vec<RunSummary> {
    match text {
        "latest" => runs.truncate(1),
        end => runs.retain(|run| end.len() >= 4 && run.run.ends_with(end)),
    }
    runs
}

/// Parameters from `name=value`: JSON where the value is JSON, else a text.
pub(crate) fn parse_params(given: &[String]) -> anyhow::Result<Value> {
    let mut params = Map::new();
    for text in given {
        let Some((name, value)) = text.split_once('=') else {
            return Err(CliError::new(Kind::Usage, format!("`{text}` is not NAME=VALUE")).into());
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        if params.insert(name.to_owned(), value).is_some() {
            return Err(CliError::new(Kind::Usage, format!("parameter `{name}` is given twice")).into());
        }
    }
    Ok(Value::Object(params))
}

fn list(runs: &[RunSummary], json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(runs);
    }
    if runs.is_empty() {
        output::note("no runs; start one with `sealflow run start` or `sealflow demo`");
        return Ok(());
    }
    let row = |run: &RunSummary| {
        vec![
            run.run.clone(),
            run.workflow.clone(),
            run.subject.clone(),
            run.status.clone(),
            run.created_at.clone(),
            console::truncate_str(run.reason.as_deref().unwrap_or_default(), 60, "…").into_owned(),
        ]
    };
    output::table(
        &["run", "workflow", "subject", "status", "started", "reason"],
        runs.iter().map(row).collect(),
    );
    Ok(())
}

fn explain(why: &ExplainView, all: bool, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(why);
    }
    if let Some(eta) = &why.eta {
        output::data(&draw::eta(eta));
    }
    if why.steps.is_empty() {
        output::note(&format!("{} is {}: nothing is left to do", why.run, why.status));
        return Ok(());
    }
    let (mut hidden, mut running) = (0, Vec::new());
    for step in &why.steps {
        if step.conditions.is_empty() {
            running.push(step.step.as_str());
        } else if !all && step.conditions.iter().all(|one| one.kind == "upstream") {
            hidden += 1;
        } else {
            output::data(&format!("{} ({})", step.step, step.status));
            for one in &step.conditions {
                output::data(&format!("  {:18} {}  since {}", one.kind, one.text, one.since));
            }
        }
    }
    if !running.is_empty() {
        output::data(&format!("running: {}", running.join(", ")));
    }
    if hidden > 0 {
        let steps = if hidden == 1 { "step waits" } else { "steps wait" };
        output::note(&format!("{hidden} {steps} only for others; --all shows them"));
    }
    Ok(())
}

fn show(run: &RunDetail, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(run);
    }
    output::data(&draw::run(run));
    Ok(())
}

/// How often a watched run is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Whether nothing more happens to a run by itself.
fn rests(run: &RunDetail) -> bool {
    let status = run.summary.status.as_str();
    let ends = matches!(status, "succeeded" | "cancelled");
    ends || (status == "paused" && run.steps.iter().all(|step| step.status != "running"))
}

/// Watches until the run ends or rests; a run that did not succeed is exit code 6.
async fn watch_run(source: &Source, run: &RunId, json: bool) -> anyhow::Result<()> {
    let mut screen = Screen::default();
    let mut last = None;
    let detail = loop {
        let detail = source.run(run).await?;
        if json {
            if last.as_ref() != Some(&detail) {
                output::json_line(&detail)?;
            }
        } else {
            screen.show(&detail);
        }
        if rests(&detail) || matches!(source, Source::Store(_)) {
            break detail;
        }
        last = Some(detail);
        tokio::time::sleep(LOOK).await;
    };
    if !json {
        screen.end();
        output::data(&draw::run(&detail));
    }
    verdict(&detail)
}

/// Success, or exit code 6 and why.
pub(crate) fn verdict(run: &RunDetail) -> anyhow::Result<()> {
    if run.summary.status == "succeeded" {
        return Ok(());
    }
    let reason = run.summary.reason.clone().unwrap_or_default();
    let text = format!(
        "{} is {}{}{reason}",
        run.summary.run,
        run.summary.status,
        if reason.is_empty() { "" } else { ": " }
    );
    Err(CliError::new(Kind::RunFailed, text).into())
}

/// A picture on standard error that is drawn over again; where nobody looks, a line for each change.
#[derive(Default)]
pub(crate) struct Screen {
    lines: usize,
    told: Vec<(String, String, u32)>,
}

impl Screen {
    pub(crate) fn show(&mut self, run: &RunDetail) {
        if output::is_interactive() {
            let term = console::Term::stderr();
            let width = usize::from(term.size().1);
            let text = draw::run(run);
            let lines: Vec<String> = text
                .lines()
                .map(|line| console::truncate_str(line, width.saturating_sub(1), "…").into_owned())
                .collect();
            let drawn = term
                .clear_last_lines(self.lines)
                .and_then(|()| term.write_line(&lines.join("\n")));
            self.lines = if drawn.is_ok() { lines.len() } else { 0 };
            return;
        }
        for step in &run.steps {
            let now = (step.step.clone(), step.status.clone(), step.attempts);
            let before = self.told.iter().position(|told| told.0 == step.step);
            if before.is_some_and(|at| self.told[at] == now) {
                continue;
            }
            if !matches!(step.status.as_str(), "pending" | "ready") {
                let seconds = if step.status == "succeeded" {
                    draw::seconds(step.seconds)
                } else {
                    String::new()
                };
                output::note(format!("{:18} {:10} {seconds}", step.step, step.status).trim_end());
            }
            match before {
                Some(at) => self.told[at] = now,
                None => self.told.push(now),
            }
        }
    }

    /// Clears the picture, before the last one is printed as data.
    pub(crate) fn end(&mut self) {
        if self.lines > 0 && console::Term::stderr().clear_last_lines(self.lines).is_ok() {
            self.lines = 0;
        }
    }
}

async fn logs(source: &Source, run: &RunId, json: bool, follow: bool) -> anyhow::Result<()> {
    if follow && let Source::Daemon(client) = source {
        return follow_logs(client, run, json).await;
    }
    let mut next = 1;
    loop {
        let entries = source.entries(run, next).await?;
        for entry in &entries {
            log(entry, json)?;
            next = entry.seq + 1;
        }
        if entries.is_empty() {
            return Ok(());
        }
    }
}

/// Prints entries as they come, until the run ends or rests.
async fn follow_logs(client: &Client, run: &RunId, json: bool) -> anyhow::Result<()> {
    let path = format!("/api/v1/runs/{run}/events");
    let mut events = client.events(&path, None).await?;
    let source = Source::Daemon(client.clone());
    let mut seen = 0;
    loop {
        let said = match tokio::time::timeout(LOOK, events.next()).await {
            Ok(said) => said?,
            Err(_) => {
                let detail = source.run(run).await?;
                if rests(&detail) && detail.entries <= seen {
                    return Ok(());
                }
                continue;
            }
        };
        match said {
            Some(Said::Entry(_, StreamedEntry { seq, at, events, .. })) => {
                log(&EntryView { seq, at, events }, json)?;
                seen = seq;
            }
            Some(Said::Gap(_)) => {}
            Some(Said::End(why)) if why == "run_ended" => return Ok(()),
            Some(Said::End(why)) => anyhow::bail!("no more of the log comes: {why}"),
            None => anyhow::bail!("no more of the log comes: the connection was closed"),
        }
    }
}

fn log(entry: &EntryView, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json_line(entry);
    }
    for event in &entry.events {
        output::data(&log_line(&entry.at, event));
    }
    Ok(())
}

/// An event on one line: when, what, and its fields.
fn log_line(at: &str, event: &Value) -> String {
    let mut parts = vec![at.to_owned(), event["event"].as_str().unwrap_or("?").to_owned()];
    for (name, value) in event.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "event" | "token" | "graph") {
            continue;
        }
        let text = match (value, &value["at"]) {
            (Value::String(text), _) => text.clone(),
            // What a step waits for is a time.
            (_, Value::Number(at)) if name == "wake" => view::time(at.as_u64().unwrap_or_default()),
            (other, _) => other.to_string(),
        };
        let short: String = text.chars().take(200).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        parts.push(format!("{name}={short}{dots}"));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_in_logs_are_for_people() {
        let event = json!({"event": "step_waiting", "step": "pc1", "wake": {"at": 1_790_000_000_000_u64}});
        let line = log_line("now", &event);
        assert!(line.ends_with("wake=2026-09-21T14:13:20.000Z"), "{line}");
        let event = json!({"event": "step_waiting", "step": "pc1", "wake": {"signal": "go"}});
        assert!(log_line("now", &event).ends_with(r#"wake={"signal":"go"}"#));
    }

    #[test]
    fn params_are_json_or_text() {
        let given = ["a=1", "b=text", "c=[\"x\"]", "d=\"1\"", "e="].map(str::to_owned);
        assert_eq!(
            parse_params(&given).unwrap(),
            json!({"a": 1, "b": "text", "c": ["x"], "d": "1", "e": ""})
        );
        assert!(parse_params(&["a".to_owned()]).is_err());
        assert!(parse_params(&["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }
}
