//! What operators ask of runs. Each goes into the journal with who asked and why; with `--dry-run` the
//! answer says what would happen, and nothing does.

use std::collections::BTreeSet;

use clap::Subcommand;
use sealflow_engine::id::RunId;
use serde::Serialize;
use serde_json::Value;

use super::{Reason, by, filter, find};
use crate::api::{Client, Source, VerbRequest};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;
use crate::view::RunDetail;

/// The runs that something is asked of
#[derive(Debug, clap::Args)]
pub(super) struct Select {
    /// Runs: their names, the ends of their names, or `latest`
    #[arg(value_name = "RUN", required_unless_present = "all", conflicts_with = "all")]
    runs: Vec<String>,
    /// Every open run that the filters below accept
    #[arg(long)]
    all: bool,
    /// With --all: only runs of this workflow
    #[arg(long, requires = "all")]
    workflow: Option<String>,
    /// With --all: only runs that stand so: running, paused, cancelling
    #[arg(long, requires = "all")]
    status: Option<String>,
    /// With --all: only runs about this, for example f01000/7
    #[arg(long, requires = "all")]
    subject: Option<String>,
    #[command(flatten)]
    how: How,
}

/// How something is asked
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reason: Reason,
}

/// A step of a run
#[derive(Debug, clap::Args)]
pub(super) struct Step {
    /// The run, or the end of its name, or `latest`
    run: String,
    /// The step, or an item of it as in `window_post[3]`
    step: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start nothing more of a run; what runs now ends
    Pause {
        #[command(flatten)]
        select: Select,
    },
    /// Let a paused run go on; failed steps are tried again
    Resume {
        #[command(flatten)]
        select: Select,
    },
    /// End a run; what is finished stays
    Cancel {
        #[command(flatten)]
        select: Select,
    },
    /// Try failed or backing-off steps again, now, with a fresh retry budget
    ///
    /// With --step a step that has succeeded is done again too, and all that need it. The name of a step
    /// with items stands for its failed items; the others are left alone.
    Retry {
        #[command(flatten)]
        select: Select,
        /// Only this step, or this item of it as in `window_post[3]`
        #[arg(long)]
        step: Option<String>,
    },
    /// Let the steps of a run start before those of others, or after them
    Prioritize {
        /// Higher goes first; runs have 0 unless their workflow says otherwise
        #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
        to: i32,
        #[command(flatten)]
        select: Select,
    },
    /// Go back to a step: it and all that need it are done again; what runs of them is stopped
    Rewind {
        #[command(flatten)]
        step: Step,
    },
    /// Leave a step out; steps that cannot do without its output are left out too
    Skip {
        #[command(flatten)]
        step: Step,
    },
    /// Give a step its output by hand; all that need it are done again
    ///
    /// Example: sealflow run override latest ticket --output '{"ticket": "…", "ticket_source": "by hand"}'
    Override {
        #[command(flatten)]
        step: Step,
        /// The output as JSON, or @FILE
        #[arg(long)]
        output: String,
    },
    /// Approve what a step waits for
    Approve {
        #[command(flatten)]
        step: Step,
    },
    /// Start a new run that takes over what another one did, but for a step and all that need it
    ///
    /// The subject must be free: a run that writes to it must have ended.
    Fork {
        #[command(flatten)]
        step: Step,
        /// A name of your own: forking again under the same key gives the same run
        #[arg(long)]
        key: Option<String>,
    },
    /// Send a run a signal that one of its steps waits for
    Signal {
        /// The run, or the end of its name, or `latest`
        run: String,
        /// The signal's name
        name: String,
        /// What comes with it, as JSON
        #[arg(long, default_value = "null")]
        data: String,
        #[command(flatten)]
        how: How,
    },
}

/// What came of it, for one run.
#[derive(Debug, Serialize)]
struct Answer {
    run: String,
    verb: &'static str,
    /// Whether it was done; with `--dry-run` nothing is.
    done: bool,
    /// The new run of a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    forked: Option<String>,
    /// Steps that are done again, or would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    again: Vec<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn run(cx: &Context, verb: Verb) -> anyhow::Result<()> {
    let request = VerbRequest::default;
    let (name, select, request) = match verb {
        Verb::Pause { select } => ("pause", select, request()),
        Verb::Resume { select } => ("resume", select, request()),
        Verb::Cancel { select } => ("cancel", select, request()),
        Verb::Retry { select, step } => ("retry", select, VerbRequest { step, ..request() }),
        Verb::Prioritize { to, select } => {
            let priority = Some(to);
            (
                "prioritize",
                select,
                VerbRequest {
                    priority,
                    ..request()
                },
            )
        }
        Verb::Rewind { step } => one("rewind", step, request()),
        Verb::Skip { step } => one("skip", step, request()),
        Verb::Approve { step } => one("approve", step, request()),
        Verb::Override { step, output } => {
            let data = json("--output", &output)?;
            one("override", step, VerbRequest { data, ..request() })
        }
        Verb::Fork { step, key } => one("fork", step, VerbRequest { key, ..request() }),
        Verb::Signal { run, name, data, how } => {
            let (signal, data) = (Some(name), json("--data", &data)?);
            (
                "signal",
                only(run, how),
                VerbRequest {
                    signal,
                    data,
                    ..request()
                },
            )
        }
    };
    ask(cx, name, select, request).await
}

fn only(run: String, how: How) -> Select {
    Select {
        runs: vec![run],
        all: false,
        workflow: None,
        status: None,
        subject: None,
        how,
    }
}

fn one(verb: &'static str, step: Step, request: VerbRequest) -> (&'static str, Select, VerbRequest) {
    let Step { run, step, how } = step;
    let step = Some(step);
    (verb, only(run, how), VerbRequest { step, ..request })
}

/// JSON from the command line, or from a file after `@`.
fn json(what: &str, text: &str) -> anyhow::Result<Value> {
    let wrong = |error: String| CliError::new(Kind::Usage, format!("{what}: {error}"));
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| wrong(format!("{path}: {error}")))?,
        None => text.to_owned(),
    };
    Ok(serde_json::from_str(&text).map_err(|error| wrong(format!("this is not JSON: {error}")))?)
}

async fn ask(cx: &Context, verb: &'static str, select: Select, request: VerbRequest) -> anyhow::Result<()> {
    let source = Source::Daemon(Client::need(cx).await?);
    let Source::Daemon(client) = &source else {
        return Ok(());
    };
    let runs = chosen(&source, &select).await?;
    let How {
        dry_run,
        json,
        reason,
    } = select.how;
    let request = VerbRequest {
        by: by(reason),
        ..request
    };
    let mut answers = Vec::new();
    for run in runs {
        let again = match verb {
            "retry" | "rewind" | "override" | "fork" | "skip" => {
                again(&source.run(&run).await?, verb, request.step.as_deref())?
            }
            _ => Vec::new(),
        };
        let answered = if dry_run {
            None
        } else {
            Some(client.verb(&run, verb, &request).await)
        };
        let (done, forked, error) = match answered {
            None => (false, None, None),
            Some(Ok(started)) => (true, (verb == "fork").then_some(started.run), None),
            Some(Err(error)) => (false, None, Some(format!("{error:#}"))),
        };
        answers.push(Answer {
            run: run.to_string(),
            verb,
            done,
            forked,
            again,
            error,
        });
    }
    tell(&answers, dry_run, json)
}

async fn chosen(source: &Source, select: &Select) -> anyhow::Result<Vec<RunId>> {
    if !select.all {
        let mut runs = Vec::new();
        for text in &select.runs {
            runs.push(find(source, text).await?);
        }
        return Ok(runs);
    }
    let (workflow, status) = (select.workflow.clone(), select.status.clone());
    let filter = filter(workflow, status, select.subject.clone(), 100_000)?;
    let runs = source.runs(&filter, false).await?;
    let open = runs
        .iter()
        .filter(|run| !matches!(run.status.as_str(), "succeeded" | "cancelled"));
    open.map(|run| Ok(run.run.parse()?)).collect()
}

/// The steps that are done again.
fn again(run: &RunDetail, verb: &str, step: Option<&str>) -> anyhow::Result<Vec<String>> {
    let failed = || {
        let items = run
            .steps
            .iter()
            .flat_map(|step| std::iter::once(step).chain(&step.items));
        let failed = items.filter(|step| step.status == "failed");
        failed.map(|step| step.step.clone()).collect()
    };
    let Some(name) = step else { return Ok(failed()) };
    let base = name.split('[').next().unwrap_or(name);
    let Some(at) = run.steps.iter().position(|step| step.step == base) else {
        let known: Vec<&str> = run.steps.iter().map(|step| step.step.as_str()).collect();
        let text = format!(
            "{} has no step `{name}`; its steps: {}",
            run.summary.run,
            known.join(", ")
        );
        return Err(CliError::new(Kind::Usage, text).into());
    };
    if verb == "skip" {
        return Ok(Vec::new());
    }
    if verb == "retry" && run.steps[at].status != "succeeded" && run.steps[at].status != "skipped" {
        let inside = failed()
            .into_iter()
            .filter(|failed: &String| failed == name || failed.split('[').next() == Some(base));
        return Ok(inside.collect());
    }
    let mut reached: BTreeSet<&str> = BTreeSet::from([base]);
    let mut again = Vec::new();
    for step in &run.steps[at..] {
        if step.step == base || step.needs.iter().any(|need| reached.contains(need.as_str())) {
            reached.insert(&step.step);
            if step.step == base && verb == "override" {
                continue;
            }
            if step.status != "pending" || verb == "fork" {
                again.push(if step.step == base {
                    name.to_owned()
                } else {
                    step.step.clone()
                });
            }
        }
    }
    Ok(again)
}

fn tell(answers: &[Answer], dry_run: bool, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(answers)?;
    } else {
        for answer in answers {
            let again = match (answer.again.is_empty(), dry_run) {
                (true, _) => String::new(),
                (false, true) => format!("; would be done again: {}", answer.again.join(", ")),
                (false, false) => format!("; done again: {}", answer.again.join(", ")),
            };
            match (&answer.error, &answer.forked) {
                // A single refusal is the command's own error.
                (Some(_), _) if answers.len() == 1 => {}
                (Some(error), _) => output::note(&format!("{}: {error}", answer.run)),
                (None, Some(forked)) => output::data(forked),
                (None, None) if dry_run => output::data(&format!("{} {}{again}", answer.verb, answer.run)),
                (None, None) => output::note(&format!("{}: {}{again}", answer.verb, answer.run)),
            }
        }
        if answers.is_empty() {
            output::note("no run fits");
        }
    }
    let refused = answers.iter().filter(|answer| answer.error.is_some()).count();
    match (refused, answers) {
        (0, _) => Ok(()),
        (_, [only]) => {
            let error = only.error.clone().unwrap_or_default();
            Err(CliError::new(Kind::Failed, error).into())
        }
        (some, all) => {
            let text = format!("{} of {} runs refused", some, all.len());
            Err(CliError::new(Kind::Failed, text).into())
        }
    }
}
