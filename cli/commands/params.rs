//! `sealflow params`: Groth16 parameters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use sealflow_stages::params::{
    ParamSet, ParamsDir, Progress, SetState, Source, check, fetch, generate, list,
};
use serde_json::json;

use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// List, generate, fetch and check Groth16 parameters
///
/// Devnet sizes (2KiB, 8MiB) are generated on this machine; the sizes of public networks are fetched.
/// The two never mix: each has a folder of its own, which all data directories share.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which sets are there
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Generate sets for a devnet
    Generate {
        /// Sets, for example porep-2KiB
        #[arg(required = true)]
        sets: Vec<String>,
        /// Print JSON at the end
        #[arg(long)]
        json: bool,
    },
    /// Fetch published sets, going on where an earlier fetch stopped
    Fetch {
        /// Sets, for example porep-32GiB
        #[arg(required = true)]
        sets: Vec<String>,
        /// Where from: files are fetched from BASE/CID
        #[arg(long, value_name = "BASE")]
        from: Option<String>,
        /// Print JSON at the end
        #[arg(long)]
        json: bool,
    },
    /// Read every byte of the sets that are there and compare digests
    Check {
        /// Sets; all that are there if nothing is said
        sets: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn parse(sets: &[String]) -> anyhow::Result<Vec<ParamSet>> {
    let parse = |text: &String| {
        text.parse::<ParamSet>().map_err(|error| {
            let error = CliError::new(Kind::Usage, error.to_string());
            error.hint("`sealflow params list` shows all sets").into()
        })
    };
    sets.iter().map(parse).collect()
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let generated = ParamsDir::generated(&cx.params_base);
    let published = ParamsDir::published(&cx.params_base);
    match args.command {
        Command::List { json } => print_list(&generated, &published, json),
        Command::Generate { sets, json } => {
            let mut reports = Vec::new();
            for set in parse(&sets)? {
                let stop = Arc::new(AtomicBool::new(false));
                let ctrl_c = {
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        if tokio::signal::ctrl_c().await.is_ok() {
                            stop.store(true, Ordering::Relaxed);
                        }
                    })
                };
                let bar = bar(set);
                let dir = generated.clone();
                let shown = bar.clone();
                let report = tokio::task::spawn_blocking(move || {
                    generate(set, &dir, |progress| tell(&shown, progress), &stop)
                });
                let report = report.await?;
                ctrl_c.abort();
                bar.finish_and_clear();
                let report = report?;
                let how = if report.generated {
                    "generated"
                } else {
                    "was there already"
                };
                output::note(&format!("{set} {how} ({:.1} s)", report.elapsed.as_secs_f64()));
                reports.push(json!({
                    "set": set.to_string(), "generated": report.generated,
                    "seconds": report.elapsed.as_secs_f64(), "constraints": report.constraints,
                }));
            }
            if json { output::json(&reports) } else { Ok(()) }
        }
        Command::Fetch { sets, from, json } => {
            let mut reports = Vec::new();
            for set in parse(&sets)? {
                let source = match &from {
                    Some(base) => Source {
                        base_url: base.clone(),
                        ..Source::default()
                    },
                    None => Source::default(),
                };
                let bar = bar(set);
                let shown = bar.clone();
                let stop = AtomicBool::new(false);
                let report = fetch(
                    set,
                    &published,
                    &source,
                    move |progress| tell(&shown, progress),
                    &stop,
                )
                .await;
                bar.finish_and_clear();
                report?;
                output::note(&format!("{set} is in {}", published.path().display()));
                reports.push(json!({ "set": set.to_string(), "path": published.path() }));
            }
            if json { output::json(&reports) } else { Ok(()) }
        }
        Command::Check { sets, json } => {
            let sets = parse(&sets)?;
            check_sets(&[generated, published], sets, json).await
        }
    }
}

fn bar(set: ParamSet) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {msg} {wide_bar} {percent}% {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1).with_style(style).with_prefix(set.to_string())
}

fn tell(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total.unwrap_or(0));
    bar.set_position(progress.done);
    let left = progress.eta.filter(|eta| *eta > Duration::from_secs(1));
    let left = left
        .map(|eta| format!(", about {} s left", eta.as_secs()))
        .unwrap_or_default();
    bar.set_message(format!("{}{left}", progress.phase.name()));
}

fn state(state: SetState) -> &'static str {
    match state {
        SetState::Present => "present",
        SetState::Partial => "partial",
        SetState::Missing => "missing",
    }
}

fn print_list(generated: &ParamsDir, published: &ParamsDir, as_json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (origin, dir) in [("generated", generated), ("published", published)] {
        for found in list(dir)? {
            // Large sizes cannot be generated, small ones were never published.
            let can_be = match origin {
                "generated" => found.set.size <= sealflow_stages::params::SectorSize::MiB8,
                _ => found.set.published()?.is_some(),
            };
            if can_be || found.state != SetState::Missing {
                rows.push((origin, found));
            }
        }
    }
    if as_json {
        let rows = rows.iter().map(|(origin, found)| {
            json!({
                "set": found.set.to_string(), "origin": origin, "state": state(found.state), "bytes": found.bytes,
                "expected_bytes": found.expected_bytes, "path": found.path,
            })
        });
        return output::json(&rows.collect::<Vec<_>>());
    }
    let rows = rows.into_iter().map(|(origin, found)| {
        let size = if found.bytes == 0 {
            String::new()
        } else {
            bytesize::ByteSize(found.bytes).to_string()
        };
        vec![
            found.set.to_string(),
            origin.to_owned(),
            state(found.state).to_owned(),
            size,
        ]
    });
    output::table(&["set", "origin", "state", "size"], rows.collect());
    output::note(&format!(
        "\ngenerated: {}\npublished: {}",
        generated.path().display(),
        published.path().display()
    ));
    Ok(())
}

async fn check_sets(dirs: &[ParamsDir], sets: Vec<ParamSet>, as_json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut bad = 0;
    for dir in dirs {
        for found in list(dir)? {
            let asked = sets.contains(&found.set);
            if found.state == SetState::Missing || !(asked || sets.is_empty()) {
                continue;
            }
            let (dir, set) = (dir.clone(), found.set);
            let report = tokio::task::spawn_blocking(move || check(&dir, set)).await??;
            let good = report.is_good();
            bad += usize::from(!good);
            rows.push((set, report.to_string(), good));
        }
    }
    for set in &sets {
        if !rows.iter().any(|(checked, ..)| checked == set) {
            bad += 1;
            rows.push((*set, "missing".to_owned(), false));
        }
    }
    if as_json {
        let rows = rows
            .iter()
            .map(|(set, text, good)| json!({ "set": set.to_string(), "good": good, "report": text }));
        output::json(&rows.collect::<Vec<_>>())?;
    } else {
        let rows = rows.iter().map(|(set, text, good)| {
            vec![
                set.to_string(),
                if *good { "good" } else { "bad" }.to_owned(),
                text.clone(),
            ]
        });
        output::table(&["set", "", "report"], rows.collect());
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(CliError::new(Kind::CheckFailed, format!("{bad} sets are not good")).into())
    }
}
