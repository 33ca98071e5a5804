//! `sealflow run archive`: moves ended runs out of the journal, each into a file of its own.

use std::sync::Arc;

use anyhow::Context as _;
use sealflow_engine::id::RunId;
use sealflow_engine::run::RunStatus;
use sealflow_storage::journal::SurrealJournal;
use serde::Serialize;

use super::{Reason, by, filter, find};
use crate::api::{Client, Source, VerbRequest};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::span::{Span, now_ms};
use crate::{output, wire};

/// Which ended runs are archived
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Runs: their names, the ends of their names, or `latest`
    #[arg(value_name = "RUN", required_unless_present = "all", conflicts_with = "all")]
    runs: Vec<String>,
    /// Every ended run that the filters below accept
    #[arg(long)]
    all: bool,
    /// With --all: only runs of this workflow
    #[arg(long, requires = "all")]
    workflow: Option<String>,
    /// With --all: only runs that ended so: succeeded, cancelled
    #[arg(long, requires = "all")]
    status: Option<String>,
    /// With --all: only runs about this, for example f01000/7
    #[arg(long, requires = "all")]
    subject: Option<String>,
    /// With --all: only runs that ended this long ago, for example 30days
    #[arg(long, requires = "all", value_name = "SPAN")]
    older_than: Option<Span>,
    /// Say which runs would be archived, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reason: Reason,
}

/// What became of one run.
#[derive(Debug, Serialize)]
struct Answer {
    run: String,
    archived: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Who archives.
enum Archivist {
    Daemon(Client),
    Store(Arc<SurrealJournal>),
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let archivist = match Client::find(cx).await? {
        Some(client) => Archivist::Daemon(client),
        None => Archivist::Store(wire::journal(cx, true).await?),
    };
    let source = match &archivist {
        Archivist::Daemon(client) => Source::Daemon(client.clone()),
        Archivist::Store(journal) => Source::Store(journal.clone()),
    };
    let answers = answers(&archivist, &source, &args).await;
    if let Archivist::Store(journal) = archivist {
        let swept = match &answers {
            Ok(_) if !args.dry_run => journal.sweep_payloads().await.map(drop),
            _ => Ok(()),
        };
        journal.close().await?;
        swept?;
    }
    tell(&answers?, args.dry_run, args.json)
}

async fn answers(archivist: &Archivist, source: &Source, args: &Args) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for run in chosen(source, args).await? {
        let done = match archivist {
            _ if args.dry_run => Ok(()),
            Archivist::Daemon(client) => {
                let request = VerbRequest {
                    by: by(args.reason.clone()),
                    ..VerbRequest::default()
                };
                client.verb(&run, "archive", &request).await.map(drop)
            }
            Archivist::Store(journal) => {
                let archived = journal.archive_run(&run, now_ms()).await;
                archived.map(drop).map_err(anyhow::Error::new)
            }
        };
        answers.push(Answer {
            run: run.to_string(),
            archived: done.is_ok() && !args.dry_run,
            error: done.err().map(|error| format!("{error:#}")),
        });
    }
    Ok(answers)
}

async fn chosen(source: &Source, args: &Args) -> anyhow::Result<Vec<RunId>> {
    let mut runs = Vec::new();
    for text in &args.runs {
        runs.push(find(source, text).await?);
    }
    if !args.all {
        return Ok(runs);
    }
    let statuses = match &args.status {
        Some(status) => vec![status.clone()],
        None => [RunStatus::Succeeded, RunStatus::Cancelled]
            .map(|status| status.as_str().to_owned())
            .to_vec(),
    };
    let age = args
        .older_than
        .map_or(0, |span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
    let before = now_ms().saturating_sub(age);
    for status in statuses {
        let filter = filter(
            args.workflow.clone(),
            Some(status),
            args.subject.clone(),
            1_000_000,
        )?;
        if !filter.status.is_some_and(RunStatus::is_final) {
            let text = "only ended runs are archived: --status is succeeded or cancelled";
            return Err(CliError::new(Kind::Usage, text).into());
        }
        for found in source.runs(&filter, false).await? {
            let ended =
                humantime::parse_rfc3339_weak(&found.updated_at).context("the time of a run's end")?;
            let ended = ended.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            if ended.as_millis() <= u128::from(before) {
                runs.push(found.run.parse()?);
            }
        }
    }
    Ok(runs)
}

fn tell(answers: &[Answer], dry_run: bool, json: bool) -> anyhow::Result<()> {
    if json {
        output::json(answers)?;
    } else {
        for answer in answers {
            match &answer.error {
                // A single refusal is the command's own error.
                Some(_) if answers.len() == 1 => {}
                Some(error) => output::note(&format!("{}: {error}", answer.run)),
                None if dry_run => output::data(&format!("would archive {}", answer.run)),
                None => output::note(&format!("archived {}", answer.run)),
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
            let text = format!("{some} of {} runs were not archived", all.len());
            Err(CliError::new(Kind::Failed, text).into())
        }
    }
}
