//! `sealflow run events`: what happens to a run, or to all of them, line by line.

use serde::Serialize;

use super::{find, log_line};
use crate::api::{Client, Said, Source, StreamedEntry};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// What is followed
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run, or the end of its name, or `latest`; all runs if none is named
    run: Option<String>,
    /// Go on as events come, until the run ends
    #[arg(long, short)]
    follow: bool,
    /// Only what comes after this: the number of an entry (`seq`), or for all runs an `id`
    #[arg(long, value_name = "N")]
    since: Option<String>,
    /// Print a line of JSON for every entry
    #[arg(long)]
    json: bool,
}

/// An entry on a line of its own.
#[derive(Serialize)]
struct Line<'a> {
    /// What `--since` goes on behind.
    id: &'a str,
    #[serde(flatten)]
    entry: &'a StreamedEntry,
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let Some(name) = &args.run else {
        if !args.follow {
            let text = "name a run, or follow all of them with --follow";
            return Err(CliError::new(Kind::Usage, text).into());
        }
        let client = Client::need(cx).await?;
        return follow(&client, "/api/v1/events", args.since, args.json, true).await;
    };
    let source = Source::open(cx).await?;
    let done = of_run(&source, name, &args).await;
    source.close().await?;
    done
}

async fn of_run(source: &Source, name: &str, args: &Args) -> anyhow::Result<()> {
    let run = find(source, name).await?;
    if args.follow
        && let Source::Daemon(client) = source
    {
        let path = format!("/api/v1/runs/{run}/events");
        return follow(client, &path, args.since.clone(), args.json, false).await;
    }
    let since = args.since.as_deref().unwrap_or("0");
    let wrong = || {
        CliError::new(
            Kind::Usage,
            format!("--since: `{since}` is not the number of an entry"),
        )
    };
    let mut next = since.parse::<u64>().map_err(|_| wrong())?.saturating_add(1);
    loop {
        let entries = source.entries(&run, next).await?;
        for entry in &entries {
            let line = StreamedEntry {
                run: run.to_string(),
                seq: entry.seq,
                at: entry.at.clone(),
                events: entry.events.clone(),
            };
            print(&entry.seq.to_string(), &line, args.json, false)?;
            next = entry.seq + 1;
        }
        if entries.is_empty() {
            return Ok(());
        }
    }
}

/// Prints a stream until it ends.
pub(super) async fn follow(
    client: &Client,
    path: &str,
    mut since: Option<String>,
    json: bool,
    all: bool,
) -> anyhow::Result<()> {
    loop {
        let mut events = client.events(path, since.as_deref()).await?;
        let why = loop {
            match events.next().await? {
                Some(Said::Entry(id, entry)) => {
                    print(&id, &entry, json, all)?;
                    since = Some(id);
                }
                Some(Said::Gap(id)) => {
                    output::note("some events are missing here; `sealflow run events RUN` has all of a run");
                    since = Some(id);
                }
                Some(Said::End(why)) => break why,
                None => break "the connection was closed".to_owned(),
            }
        };
        match why.as_str() {
            "run_ended" => return Ok(()),
            // Whoever reads what is printed here was slow for a while; nothing of it is lost.
            "too_slow" => {}
            _ => {
                let text = format!("no more events come: {why}");
                let hint = match since {
                    Some(since) => format!("go on later with --since {since}"),
                    None => "try again later".to_owned(),
                };
                return Err(CliError::new(Kind::Failed, text).hint(hint).into());
            }
        }
    }
}

fn print(id: &str, entry: &StreamedEntry, json: bool, all: bool) -> anyhow::Result<()> {
    if json {
        return output::json_line(&Line { id, entry });
    }
    for event in &entry.events {
        let line = log_line(&entry.at, event);
        output::data(&if all {
            format!("{}  {line}", entry.run)
        } else {
            line
        });
    }
    Ok(())
}
