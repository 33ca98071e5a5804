//! One real sector through the engine, and the same by bare calls of the proofs library, in turns in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sealflow_engine::dispatcher::NewRun;
use sealflow_engine::event::By;
use sealflow_engine::journal::Journal;
use sealflow_stages::library::{self, Calls};
use sealflow_stages::types::{ActorId, SealProof, SectorNumber};
use serde::Serialize;
use serde_json::json;

use super::memory;
use crate::builtin::{self, Found};
use crate::config::Config;
use crate::environment::Context;
use crate::home::Home;
use crate::output;
use crate::view::{self, RunDetail};
use crate::wire::Engine;

/// What the library does, as steps; and what they need besides.
const WORKFLOW: &str = r#"
[workflow]
name    = "bench_seal"
subject = "sector"

[params]
miner      = "actor_id"
sector     = "sector_number"
proof_type = "registered_seal_proof"
pieces     = "pieces"

[defaults]
retry = { max_attempts = 1 }

[steps.proof_parameters]
[steps.ticket]
needs = ["proof_parameters"]
[steps.add_pieces]
needs = ["ticket"]
[steps.tree_d]
needs = ["add_pieces"]
[steps.pc1]
needs = ["tree_d", "ticket"]
[steps.pc2]
needs = ["pc1"]
[steps.synth_proof]
needs = ["pc2"]
[steps.seed]
needs = ["synth_proof"]
[steps.c1]
needs = ["seed", "synth_proof"]
[steps.c2]
needs = ["c1"]
[steps.verify_seal]
needs = ["c2"]
"#;

/// The miner of the sectors.
const MINER: u64 = 1000;

/// What was measured. Seconds are medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) proof_type: String,
    pub(crate) rounds: usize,
    /// The library's calls together.
    pub(crate) library_seconds: f64,
    /// The run, from its start being durable to its end being durable.
    pub(crate) engine_seconds: f64,
    /// The second as a multiple of the first: both proofs are as noisy as the machine is.
    pub(crate) ratio: f64,
    /// What the run takes longer, C2 left out on both sides: a proof differs by more from one to the next.
    pub(crate) overhead_seconds: f64,
    /// That as a share of all calls of the library.
    pub(crate) overhead_share: f64,
    /// Step by step.
    pub(crate) steps: Vec<Step>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) version: &'static str,
}

/// A step, and the library's call of the same name if there is one.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) engine_seconds: f64,
    pub(crate) library_seconds: Option<f64>,
}

/// A run, taken apart: seconds in all, and of each step.
struct Round {
    whole: f64,
    steps: Vec<(String, f64)>,
}

/// The proof, which takes longer than all the rest of a small sector.
const NOISY: &str = "c2";

/// How often the run is looked at; times are those of the journal.
const LOOK: Duration = Duration::from_millis(100);

/// Seals once to warm up, and then so often in turns.
pub(crate) async fn measure(
    cx: &Context,
    folder: &Path,
    proof: SealProof,
    rounds: usize,
) -> anyhow::Result<Figures> {
    let data = folder.join("data.bin");
    let bytes = usize::try_from(proof.data_bytes())?;
    let pattern = |at: usize| at.wrapping_mul(2_654_435_761).to_le_bytes()[2];
    std::fs::write(&data, (0..bytes).map(pattern).collect::<Vec<u8>>())?;
    let home = Home::find(Some(&folder.join("home")))?;
    home.prepare()?;
    let cx = Context {
        home,
        config: Config {
            network: cx.config.network,
            ..Config::default()
        },
        ..cx.clone()
    };
    let engine = Engine::start(&cx).await?;
    let measured = in_turns(&engine, proof, folder, &data, rounds).await;
    engine.stop().await?;
    let (library, runs) = measured?;
    Ok(figures(proof, &library, &runs))
}

async fn in_turns(
    engine: &Engine,
    proof: SealProof,
    folder: &Path,
    data: &Path,
    rounds: usize,
) -> anyhow::Result<(Vec<Calls>, Vec<Round>)> {
    output::note("warming up: Groth16 parameters are made if they are missing, and read");
    through_engine(engine, proof, data, 0).await?;
    let (mut library, mut runs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        output::note(&format!("round {round} of {rounds}: the library"));
        let bare = folder.join(format!("library-{round}"));
        std::fs::create_dir_all(&bare)?;
        let (data_again, into) = (data.to_owned(), bare.clone());
        let sector = (ActorId(MINER), SectorNumber(round as u64));
        let calls = tokio::task::spawn_blocking(move || library::seal(proof, sector, &data_again, &into));
        library.push(
            calls
                .await?
                .map_err(|failure| anyhow::anyhow!("the library: {}", failure.message))?,
        );
        std::fs::remove_dir_all(&bare)?;
        output::note(&format!("round {round} of {rounds}: the engine"));
        runs.push(through_engine(engine, proof, data, round).await?);
    }
    Ok((library, runs))
}

/// Seals a sector by the engine, and takes its run apart.
async fn through_engine(
    engine: &Engine,
    proof: SealProof,
    data: &Path,
    sector: usize,
) -> anyhow::Result<Round> {
    let found = Found {
        label: "the workflow of the benchmark".to_owned(),
        path: None,
        text: WORKFLOW.to_owned(),
    };
    let handle = &engine.handle;
    let (graph, _) = builtin::graph(&found, handle.registry(), Path::new(""))?;
    let new = NewRun {
        graph,
        source: found.text,
        params: json!({
            "miner": format!("f0{MINER}"), "sector": sector, "proof_type": proof.to_string(), "pieces": [{ "path": data }],
        }),
        key: None,
        priority: None,
        by: By::default(),
    };
    let run = handle.start_run(new).await?;
    let journal: &Arc<dyn Journal> = handle.journal();
    let detail = loop {
        tokio::time::sleep(LOOK).await;
        let detail = view::detail(&**journal, &run, None).await?;
        let detail = detail.context("the run is gone")?;
        if detail.summary.status != "running" {
            break detail;
        }
    };
    ended_well(&detail)?;
    let entries = journal.entries(&run, 1, u32::MAX).await?;
    let at = |entry: Option<&sealflow_engine::event::Entry>| entry.map_or(0, |entry| entry.at);
    let whole = Duration::from_millis(at(entries.last()).saturating_sub(at(entries.first())));
    Ok(Round {
        whole: whole.as_secs_f64(),
        steps: detail
            .steps
            .into_iter()
            .map(|step| (step.step, step.run_seconds))
            .collect(),
    })
}

fn ended_well(run: &RunDetail) -> anyhow::Result<()> {
    let failure = run.steps.iter().find_map(|step| step.failure.as_ref());
    anyhow::ensure!(
        run.summary.status == "succeeded",
        "the run is {}: {}; see `sealflow doctor`",
        run.summary.status,
        failure.map_or("no step failed", |failure| failure.message.as_str())
    );
    Ok(())
}

fn figures(proof: SealProof, library: &[Calls], runs: &[Round]) -> Figures {
    let whole = median(runs.iter().map(|run| run.whole));
    let calls = |calls: &Calls| calls.iter().map(|(_, took)| took.as_secs_f64()).sum::<f64>();
    let bare = median(library.iter().map(calls));
    let run_without = |run: &Round| {
        let proof = run.steps.iter().find(|(step, _)| step == NOISY);
        run.whole - proof.map_or(0.0, |(_, seconds)| *seconds)
    };
    let calls_without = |calls: &Calls| {
        let others = calls.iter().filter(|(name, _)| *name != NOISY);
        others.map(|(_, took)| took.as_secs_f64()).sum::<f64>()
    };
    let overhead = median(runs.iter().map(run_without)) - median(library.iter().map(calls_without));
    let names = runs.first().map(|run| run.steps.iter().map(|(step, _)| step));
    let steps = names.into_iter().flatten().map(|step| {
        let in_run = |run: &Round| {
            run.steps
                .iter()
                .find(|(name, _)| name == step)
                .map(|(_, took)| *took)
        };
        let in_library = |calls: &Calls| {
            let call = calls.iter().find(|(name, _)| name == step);
            call.map(|(_, took)| took.as_secs_f64())
        };
        let called = library.iter().any(|calls| in_library(calls).is_some());
        Step {
            step: step.clone(),
            engine_seconds: median(runs.iter().filter_map(in_run)),
            library_seconds: called.then(|| median(library.iter().filter_map(in_library))),
        }
    });
    Figures {
        proof_type: proof.to_string(),
        rounds: runs.len(),
        library_seconds: bare,
        engine_seconds: whole,
        ratio: whole / bare,
        overhead_seconds: overhead,
        overhead_share: overhead / bare,
        steps: steps.collect(),
        peak_memory_bytes: memory("VmHWM:"),
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (
        values.get(middle),
        middle.checked_sub(1).and_then(|at| values.get(at)),
    ) {
        (Some(one), Some(before)) if values.len().is_multiple_of(2) => f64::midpoint(*one, *before),
        (Some(one), _) => *one,
        (None, _) => f64::NAN,
    }
}
