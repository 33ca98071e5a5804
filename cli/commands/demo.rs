//! `sealflow demo`: seals a small sector with real proofs, verifies it and gives the data back. One
//! process, nothing to set up. Killed and started again, it goes on where it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use sealflow_engine::core::Verb;
use sealflow_engine::dispatcher::{Handle, NewRun};
use sealflow_engine::durable;
use sealflow_engine::event::By;
use sealflow_engine::id::RunId;
use sealflow_engine::run::RunStatus;
use sealflow_stages::types::SealProof;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::run::{Screen, verdict, who};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::view::{self, RunDetail};
use crate::wire::Engine;
use crate::{builtin, output};

/// Seal a small sector with real proofs, verify it, and give the data back
///
/// Needs no daemon and no chain. The first time, Groth16 parameters are generated while the sector is
/// sealed. Kill it at any moment and start it again: it goes on where it was.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to seal [default: a sample]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The sector's size: 2KiB or 8MiB with parameters generated here
    #[arg(long, default_value = "2KiB", value_name = "SIZE")]
    sector_size: ByteSize,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    run: String,
    proof_type: String,
    comm_d: String,
    comm_r: String,
    proof_bytes: usize,
    verified: bool,
    unsealed_matches_input: bool,
    steps: Vec<StepReport>,
    resumed: bool,
}

#[derive(Debug, Serialize)]
struct StepReport {
    step: String,
    attempts: u32,
    seconds: f64,
}

/// The miner of rehearsals: the first ID that a network gives to an actor of a user.
const MINER: &str = "f01000";

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    let size = args.sector_size.as_u64();
    let Some(proof) = SealProof::for_size(size) else {
        let text = format!(
            "{} is not a sector size; there are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB",
            args.sector_size
        );
        return Err(CliError::new(Kind::Usage, text).into());
    };
    cx.home.prepare()?;
    std::fs::create_dir_all(cx.home.demo())?;
    let file = match args.file {
        Some(file) if !file.is_file() => {
            return Err(not_found(format!("there is no file {}", file.display())));
        }
        Some(file) => std::path::absolute(file)?,
        None => sample(&cx)?,
    };
    let bytes = std::fs::metadata(&file)?.len();
    if bytes == 0 || bytes > proof.data_bytes() {
        let text = format!(
            "{} has {bytes} bytes; a {} sector holds 1 to {}",
            file.display(),
            args.sector_size,
            proof.data_bytes()
        );
        return Err(CliError::new(Kind::Usage, text)
            .hint("choose another --file or a larger --sector-size")
            .into());
    }
    let digest = sha256(&file)?;
    if !args.json {
        output::note(&format!(
            "sealing {} ({bytes} bytes) into a {} sector in {}",
            file.display(),
            args.sector_size,
            cx.home.root().display()
        ));
    }
    let mut engine = Engine::start(&cx).await?;
    let handle = engine.handle.clone();
    let work = seal_and_unseal(&cx, &handle, proof, &file, &digest);
    let report = tokio::select! {
        report = work => report,
        error = engine.failed() => return Err(error),
    };
    engine.stop().await?;
    let report = report?;
    if args.json {
        return output::json(&report);
    }
    output::data(&format!(
        "sealed    {}\nproof     {} bytes, {}\ncomm_d    {}\ncomm_r    {}\nunsealed  {}\n",
        report.proof_type,
        report.proof_bytes,
        if report.verified {
            "verified"
        } else {
            "NOT verified"
        },
        report.comm_d,
        report.comm_r,
        if report.unsealed_matches_input {
            "byte for byte the same as the input"
        } else {
            "DIFFERS from the input"
        },
    ));
    output::note(&format!(
        "look at it: sealflow --home {} run show {}",
        cx.home.root().display(),
        report.run
    ));
    Ok(())
}

/// A text to seal, if the user brings none.
fn sample(cx: &Context) -> anyhow::Result<PathBuf> {
    let path = cx.home.demo().join("sample.txt");
    if !path.exists() {
        let text: String = (1..=24)
            .map(|line| format!("line {line:2} of the sample that sealflow demo seals\n"))
            .collect();
        durable::write(&path, text.as_bytes())?;
    }
    Ok(path)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    std::io::copy(&mut open, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn by() -> By {
    By {
        who: who(),
        why: "demo".to_owned(),
    }
}

async fn seal_and_unseal(
    cx: &Context,
    handle: &Handle,
    proof: SealProof,
    file: &Path,
    digest: &str,
) -> anyhow::Result<Report> {
    let (key, sector, resumed) = next_demo(handle, proof, digest).await?;
    let params = json!({
        "miner": MINER, "sector": sector, "proof_type": proof.to_string(), "pieces": [{ "path": file }],
    });
    let seal = start(cx, handle, "seal_offline", params, key.clone()).await?;
    let sealed = finish(handle, &seal).await?;
    let output_path = cx.home.demo().join(format!("{seal}.unsealed"));
    let params = json!({ "miner": MINER, "sector": sector, "output": output_path });
    let unseal = start(cx, handle, "unseal", params, format!("{key}:unseal")).await?;
    let unsealed = finish(handle, &unseal).await?;
    let steps = sealed.steps.iter().chain(&unsealed.steps).map(|step| StepReport {
        step: step.step.clone(),
        attempts: step.attempts,
        seconds: step.seconds,
    });
    let text = |step: &str, field: &str| -> String {
        let step = sealed.steps.iter().find(|found| found.step == step);
        let value = step
            .and_then(|step| step.output.as_ref())
            .map(|output| &output[field]);
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let verified = sealed.steps.iter().find(|step| step.step == "verify_seal");
    Ok(Report {
        run: seal.to_string(),
        proof_type: proof.to_string(),
        comm_d: text("tree_d", "comm_d"),
        comm_r: text("pc2", "comm_r"),
        proof_bytes: text("c2", "proof").len() / 2,
        verified: verified
            .and_then(|step| step.output.as_ref())
            .is_some_and(|output| output["verified"] == true),
        unsealed_matches_input: sha256(&output_path)? == digest,
        steps: steps.collect(),
        resumed,
    })
}

/// The key and sector of the demo that is under way for this file, or of a new one.
async fn next_demo(handle: &Handle, proof: SealProof, digest: &str) -> anyhow::Result<(String, u64, bool)> {
    // Far from the numbers that people choose, and the same for the same file.
    let first = 1_000_000_000 + u64::from_str_radix(&digest[..7], 16)?;
    for count in 0_u64.. {
        let key = format!("demo:{proof}:{}:{count}", &digest[..16]);
        let open = |run: Option<RunId>| async move {
            match run {
                None => anyhow::Ok(None),
                Some(run) => Ok(handle.journal().run(&run).await?.map(|row| row.status)),
            }
        };
        let seal = open(handle.journal().find_key(&key).await?).await?;
        let unseal = open(handle.journal().find_key(&format!("{key}:unseal")).await?).await?;
        match (seal, unseal) {
            (None, _) => return Ok((key, first + count, false)),
            (Some(seal), _) if !seal.is_final() => return Ok((key, first + count, true)),
            (Some(RunStatus::Succeeded), None) => {
                return Ok((key, first + count, true));
            }
            (_, Some(unseal)) if !unseal.is_final() => return Ok((key, first + count, true)),
            _ => {}
        }
    }
    anyhow::bail!("no number is left for a demo")
}

async fn start(
    cx: &Context,
    handle: &Handle,
    workflow: &str,
    params: Value,
    key: String,
) -> anyhow::Result<RunId> {
    let found = builtin::find(workflow, &cx.home.workflows())?;
    let (graph, _) = builtin::graph(&found, handle.registry(), &cx.home.workflows())?;
    let run = handle
        .start_run(NewRun {
            graph,
            source: found.text,
            params,
            key: Some(key),
            priority: None,
            by: by(),
        })
        .await?;
    let row = handle.journal().run(&run).await?;
    if row.is_some_and(|row| row.status == RunStatus::Paused) {
        // Whatever paused it, the user started the demo again to have it go on.
        handle.operate(&run, Verb::Resume, by()).await?;
    }
    Ok(run)
}

/// Waits for the end of a run, and shows how it goes.
async fn finish(handle: &Handle, run: &RunId) -> anyhow::Result<RunDetail> {
    let mut screen = Screen::default();
    loop {
        let live = handle.live(run).await?;
        let detail = view::detail(&**handle.journal(), run, Some(&live)).await?;
        let detail = detail.with_context(|| format!("run {run} is gone"))?;
        screen.show(&detail);
        let status = detail.summary.status.as_str();
        if status != "running" {
            verdict(&detail).map_err(|error| match error.downcast::<CliError>() {
                Ok(error) => error
                    .hint("mend that and start the demo again: it goes on where it was")
                    .into(),
                Err(error) => error,
            })?;
            return Ok(detail);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
