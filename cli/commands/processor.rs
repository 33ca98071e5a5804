//! `sealflow processor`: an ext-processor child. Any parent that speaks the protocol of `vc-processors` can drive
//! it: a daemon of ours, a Damocles worker, the Go ext-prover.

use std::process::ExitCode;
use std::sync::Arc;

use sealflow_engine::failure::Failure;
use sealflow_engine::wire::{DynWire, Reporter};
use sealflow_executor::{End, Handler, Job, run_child};
use sealflow_executors::processor::launch::{self, Plan};

use crate::environment::{self, Context};
use crate::exit::not_found;
use crate::{output, wire};

/// Compute one stage for a parent process: an ext-processor child
///
/// Says `STAGE processor ready`, takes one request a line on standard input and gives one response a line on
/// standard output. Logs go to standard error. It ends with exit status 1 when standard input does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The stage
    #[arg(required_unless_present = "launch")]
    stage: Option<String>,
    /// How our own children are started: a guard or an entry, with this plan
    #[arg(long, hide = true, value_name = "PLAN", conflicts_with = "stage")]
    launch: Option<String>,
    /// What is launched
    #[arg(last = true, hide = true)]
    command: Vec<String>,
}

/// Plays the part of a guard or an entry, if that is what it was started for. Nothing else of this program runs.
pub(crate) fn launched(args: &Args) -> Option<ExitCode> {
    let text = args.launch.as_ref()?;
    let launched = serde_json::from_str::<Plan>(text)
        .map_err(std::io::Error::from)
        .and_then(|plan| launch::launch(&plan, &args.command, environment::HOOKS));
    Some(match launched {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            output::problem(&error.to_string());
            ExitCode::from(launch::NOT_STARTED)
        }
    })
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let registry = wire::registry(cx);
    let stage = args.stage.unwrap_or_default();
    let wire = registry.wire(&stage).cloned().ok_or_else(|| {
        let known: Vec<&str> = registry.wired().map(|name| name.as_str()).collect();
        not_found(format!(
            "a child cannot compute `{stage}`; it can {}",
            known.join(", ")
        ))
    })?;
    Ok(run_child(&stage, Arc::new(Compute(wire))).await?)
}

/// A stage's computation.
struct Compute(Arc<dyn DynWire>);

impl Handler for Compute {
    async fn run(&self, job: Job, _cx: sealflow_executor::Context) -> End {
        let wire = self.0.clone();
        let compute = move || {
            let task = std::str::from_utf8(&job.input)
                .map_err(|error| Failure::permanent("bad_request", error.to_string()))?;
            wire.compute(task, &Reporter::silent())
        };
        match tokio::task::spawn_blocking(compute).await {
            Ok(Ok(output)) => End::Done(output.into_bytes()),
            Ok(Err(failure)) => End::Failed(sealflow_executor::Failure {
                class: failure.class.as_str(),
                code: failure.code.into_owned(),
                message: failure.message,
            }),
            Err(panic) => match panic.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => End::Lost(error.to_string()),
            },
        }
    }
}
