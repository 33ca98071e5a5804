//! `sealflow workflow rehearse`: what a workflow would do, without doing it.

use std::time::Duration;

use sealflow_engine::executor::{ExecutorSpec, Machine};
use sealflow_engine::failure::FailureClass;
use sealflow_engine::rehearse::{Rehearsal, Rehearsed, Script, rehearse};
use sealflow_engine::resource::{Gpus, Resources};
use sealflow_engine::run::RunStatus;

use crate::commands::run::parse_params;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::{builtin, output, wire};

/// Run a workflow in a moment: the real engine, pretended work, a simulated clock
///
/// Example: sealflow workflow rehearse seal_offline -p miner=f01000 -p sector=7
/// --takes pc1=3h --takes c2=40min --fails verify_seal=rewind:proof_invalid
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, or the name of a workflow
    workflow: String,
    /// A parameter; the value is JSON, or a plain text
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// How long an attempt of a step takes, instead of a minute
    #[arg(long, value_name = "STEP=DURATION")]
    takes: Vec<String>,
    /// How a step's next attempt fails; said twice, its first two attempts fail
    #[arg(long, value_name = "STEP=CLASS:CODE")]
    fails: Vec<String>,
    /// What a step gives, as JSON; fields that are not said are pretended
    #[arg(long, value_name = "STEP=JSON")]
    gives: Vec<String>,
    /// How many items pretended lists have
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    items: u32,
    /// Cores of the pretended machine
    #[arg(long, default_value_t = 64)]
    cpu: u32,
    /// Memory of the pretended machine
    #[arg(long, default_value = "512GiB")]
    memory: bytesize::ByteSize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn pair<'a>(what: &str, text: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
    let pair = text.split_once('=');
    Ok(pair.ok_or_else(|| CliError::new(Kind::Usage, format!("{what}: `{text}` is not STEP=…")))?)
}

fn script(args: &Args) -> anyhow::Result<Script> {
    let usage = |what: String| CliError::new(Kind::Usage, what);
    let mut script = Script {
        items: Some(args.items as usize),
        ..Script::default()
    };
    for text in &args.takes {
        let (step, duration) = pair("--takes", text)?;
        let duration: Duration = humantime::parse_duration(duration)
            .map_err(|error| usage(format!("--takes {text}: {error}; for example pc1=3h")))?;
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        script.takes.insert(step.to_owned(), ms);
    }
    for text in &args.fails {
        let (step, failure) = pair("--fails", text)?;
        let (class, code) = failure.split_once(':').unwrap_or((failure, "pretended"));
        let class: FailureClass = serde_json::from_value(class.into()).map_err(|_| {
            usage(format!(
                "--fails {text}: classes are transient, permanent, rewind, critical"
            ))
        })?;
        script
            .fails
            .entry(step.to_owned())
            .or_default()
            .push((class, code.to_owned()));
    }
    for text in &args.gives {
        let (step, value) = pair("--gives", text)?;
        let value = serde_json::from_str(value).map_err(|error| usage(format!("--gives {text}: {error}")))?;
        script.gives.insert(step.to_owned(), value);
    }
    Ok(script)
}

pub(super) fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let registry = wire::registry(cx);
    let found = builtin::find(&args.workflow, &cx.home.workflows())?;
    let (graph, _) = builtin::graph(&found, &registry, &cx.home.workflows())?;
    let script = script(&args)?;
    let said = script
        .takes
        .keys()
        .chain(script.fails.keys())
        .chain(script.gives.keys());
    for step in said {
        let base = step.split('[').next().unwrap_or(step);
        if graph.steps().all(|(_, spec)| spec.name.as_str() != base) {
            return Err(CliError::new(Kind::Usage, format!("the workflow has no step `{step}`")).into());
        }
    }
    let machine = Machine {
        name: "pretended".to_owned(),
        capacity: Resources {
            cpu: args.cpu,
            memory: args.memory.as_u64(),
            disk: u64::MAX,
            gpus: (0..Gpus::MAX).collect(),
        },
    };
    let machine = ExecutorSpec::new("pretended", machine, 10_000);
    let params = parse_params(&args.params)?;
    let rehearsal = rehearse(&registry, &graph, vec![machine], params, script)
        .map_err(|error| CliError::new(Kind::Usage, error.to_string()))?;
    if args.json {
        output::json(&rehearsal)?;
    } else {
        show(&rehearsal);
    }
    if rehearsal.status == RunStatus::Succeeded {
        return Ok(());
    }
    let reason = rehearsal.reason.unwrap_or_default();
    let text = format!("the rehearsal ends {}: {reason}", rehearsal.status.as_str());
    Err(CliError::new(Kind::RunFailed, text).into())
}

fn show(rehearsal: &Rehearsal) {
    let time = |ms: Option<u64>| ms.map(duration).unwrap_or_default();
    let row = |step: &Rehearsed| {
        vec![
            step.step.to_string(),
            step.status.as_str().to_owned(),
            time(step.began_ms),
            time(step.ended_ms),
            step.attempts.to_string(),
            step.notes.join("; "),
        ]
    };
    output::table(
        &["step", "ends", "from", "to", "attempts", "notes"],
        rehearsal.steps.iter().map(row).collect(),
    );
    output::note(&format!(
        "{} after {} of simulated time; nothing was done",
        rehearsal.status.as_str(),
        duration(rehearsal.took_ms)
    ));
}

/// To the second: nobody plans in milliseconds.
fn duration(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms.div_ceil(1000))).to_string()
}
