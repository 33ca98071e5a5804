//! `sealflow processor`: an ext-processor child. Any parent that speaks the protocol of `vc-processors` can drive
//! it: a daemon of ours, a Damocles worker, the Go ext-prover.

use std::io::{BufRead, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use sealflow_engine::wire::{DynWire, Reporter, Request, Response};
use sealflow_executors::processor::launch::{self, Plan};
use sealflow_executors::processor::request_id;

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

/// The most bytes of a request.
const LINE_LIMIT: u64 = 1 << 30;

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
    output::data(&format!("{stage} processor ready"));
    let runtime = tokio::runtime::Handle::current();
    // Its thread waits for lines; the process does not wait for it.
    let served = std::thread::spawn(move || serve(&wire, &runtime));
    tokio::task::spawn_blocking(|| served.join().map_err(|_| anyhow::anyhow!("the reader panicked")))
        .await??
}

/// Answers requests until there are no more. Each has a thread of its own, so that none waits for another.
fn serve(wire: &Arc<dyn DynWire>, runtime: &tokio::runtime::Handle) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line);
        let read = read.context("cannot read requests")?;
        if read == 0 {
            anyhow::bail!("standard input has ended: the parent is gone");
        }
        let wire = wire.clone();
        drop(runtime.spawn_blocking(move || answer(&*wire, &line)));
    }
}

fn answer(wire: &dyn DynWire, line: &[u8]) {
    let (id, result) = match serde_json::from_slice::<Request<'_>>(line) {
        Ok(request) => (request.id, compute(wire, request.task.get())),
        Err(error) => {
            tracing::error!(%error, "a line that is no request");
            let Some(id) = request_id(line) else { return };
            (id, Err(format!("the request cannot be read: {error}")))
        }
    };
    let text = match &result {
        Ok(output) => serde_json::value::RawValue::from_string(output.clone())
            .and_then(|output| response(id, None, Some(&output))),
        Err(why) => response(id, Some(why), None),
    };
    match text {
        // One at a time, whole, and at once.
        Ok(text) => output::data(&text),
        Err(error) => tracing::error!(%error, id, "a response cannot be written"),
    }
}

fn response(
    id: u64,
    err_msg: Option<&String>,
    output: Option<&serde_json::value::RawValue>,
) -> serde_json::Result<String> {
    serde_json::to_string(&Response {
        id,
        err_msg: err_msg.map(|text| text.as_str().into()),
        output,
    })
}

/// The output, or why there is none. A panic is an answer too: nobody waits for ever.
fn compute(wire: &dyn DynWire, task: &str) -> Result<String, String> {
    let work = || wire.compute(task, &Reporter::silent());
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|failure| failure.to_string()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("Panic: {}", text.unwrap_or_default()))
        }
    }
}
