//! Our parameter generator against the library's own, in CPU time: `params_bench [SET...]` (2KiB sets; the two
//! kinds of PoSt unless named). Each run is a process of its own, started by this one; the result is JSON.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use filecoin_proofs::constants::{DefaultPieceHasher, SectorShape2KiB as Tree};
use filecoin_proofs::parameters::{public_params, window_post_public_params, winning_post_public_params};
use filecoin_proofs_api::{RegisteredPoStProof, RegisteredSealProof};
use rand::rngs::OsRng;
use sealflow_stages::params::{ParamKind, ParamSet, ParamsDir, Phase, SectorSize, generate};
use serde_json::{Value, json};
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_porep::stacked::{StackedCompound, StackedDrg};
use storage_proofs_post::fallback::{FallbackPoSt, FallbackPoStCompound};
use storage_proofs_update::{EmptySectorUpdate, EmptySectorUpdateCompound, PublicParams};

#[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["run", "ours", set, folder] => ours(set.parse()?, Path::new(folder))?,
        ["run", "library", set, _] => library(set.parse()?)?,
        [] => compare(&["winning-post-2KiB", "window-post-2KiB"])?,
        ref sets => compare(sets)?,
    };
    println!("{result:#}");
    Ok(())
}

/// Runs both generators on every set, each in a fresh process and folder.
fn compare(sets: &[&str]) -> anyhow::Result<Value> {
    let mut results = Vec::new();
    for set in sets {
        let ours = in_a_process("ours", set)?;
        let library = in_a_process("library", set)?;
        let ratio = |key: &str| Some(library[key].as_f64()? / ours[key].as_f64()?);
        results.push(json!({
            "set": set,
            "cpu_ratio": ratio("cpu_s"),
            "wall_ratio": ratio("wall_s"),
            "ours": ours,
            "library": library,
        }));
    }
    Ok(json!({
        "benchmark": "parameter generation, library over ours",
        "sealflow": env!("CARGO_PKG_VERSION"),
        "library": "bellperson 0.27.0, filecoin-proofs 19.1.0",
        "cpus": std::thread::available_parallelism()?.get(),
        "load_average_at_end": fs::read_to_string("/proc/loadavg")?.trim(),
        "results": results,
    }))
}

fn in_a_process(generator: &str, set: &str) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["run", generator, set])
        .arg(folder.path())
        .env("FIL_PROOFS_PARAMETER_CACHE", folder.path())
        .output()?;
    ensure!(
        output.status.success(),
        "{generator} {set}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn ours(set: ParamSet, folder: &Path) -> anyhow::Result<Value> {
    let started = Instant::now();
    let phases = Mutex::new(Vec::<(Phase, Duration)>::new());
    let note = |progress: sealflow_stages::params::Progress| {
        if let Ok(mut phases) = phases.lock()
            && phases.last().is_none_or(|(phase, _)| *phase != progress.phase)
        {
            phases.push((progress.phase, progress.elapsed));
        }
    };
    let report = generate(set, &ParamsDir::generated(folder), note, &AtomicBool::new(false))?;
    let phases = phases.into_inner().unwrap_or_default();
    let bytes = report.files[0].bytes;
    let mut result = usage(started, bytes)?;
    result["constraints"] = report.constraints.into();
    result["scalars"] = report.scalars.into();
    // As seen by the reports, four a second.
    result["phases_began_at_s"] = phases
        .iter()
        .map(|(phase, at)| json!([phase.name(), at.as_secs_f64()]))
        .collect::<Vec<_>>()
        .into();
    Ok(result)
}

fn library(set: ParamSet) -> anyhow::Result<Value> {
    ensure!(set.size == SectorSize::KiB2, "only 2KiB sets can be compared");
    let started = Instant::now();
    let rng = Some(&mut OsRng);
    match set.kind {
        ParamKind::PoRep => {
            let params = public_params::<Tree>(&RegisteredSealProof::StackedDrg2KiBV1_1.as_v1_config())?;
            <StackedCompound<Tree, DefaultPieceHasher> as CompoundProof<
                StackedDrg<'_, Tree, DefaultPieceHasher>,
                _,
            >>::groth_params(rng, &params)?;
        }
        ParamKind::EmptySectorUpdate => {
            let params = PublicParams::from_sector_size(set.size.bytes());
            <EmptySectorUpdateCompound<Tree> as CompoundProof<EmptySectorUpdate<Tree>, _>>::groth_params(
                rng, &params,
            )?;
        }
        ParamKind::WinningPost => {
            let config = RegisteredPoStProof::StackedDrgWinning2KiBV1.as_v1_config();
            let params = winning_post_public_params::<Tree>(&config)?;
            <FallbackPoStCompound<Tree> as CompoundProof<FallbackPoSt<'_, Tree>, _>>::groth_params(
                rng, &params,
            )?;
        }
        ParamKind::WindowPost => {
            let config = RegisteredPoStProof::StackedDrgWindow2KiBV1_2.as_v1_config();
            let params = window_post_public_params::<Tree>(&config)?;
            <FallbackPoStCompound<Tree> as CompoundProof<FallbackPoSt<'_, Tree>, _>>::groth_params(
                rng, &params,
            )?;
        }
    }
    let folder = std::env::var("FIL_PROOFS_PARAMETER_CACHE")?;
    let bytes = fs::metadata(Path::new(&folder).join(set.files()?.params))?.len();
    usage(started, bytes)
}

/// Wall time since `started`, and what this process used in all: CPU of all threads, and the peak of its memory.
fn usage(started: Instant, params_bytes: u64) -> anyhow::Result<Value> {
    let wall = started.elapsed().as_secs_f64();
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The fields after the command, which may hold spaces: user time is the 12th of them, system time the 13th.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("/proc/self/stat")?
        .1
        .split_whitespace()
        .collect();
    let [user, system] = fields[11..13] else {
        bail!("/proc/self/stat is short")
    };
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let (user, system) = (user.parse::<f64>()? / ticks, system.parse::<f64>()? / ticks);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("VmHWM")?;
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(json!({
        "wall_s": wall,
        "cpu_s": user + system,
        "user_s": user,
        "system_s": system,
        "peak_mib": peak / 1024,
        "params_bytes": params_bytes,
    }))
}
