//! Our commitment to a piece against the library's own function, on one core: `comm_p_bench [MIB]` (512 unless named).
//! The result is JSON; `ratio` is how many times faster ours is in CPU time.

use std::time::Duration;

use anyhow::ensure;
use filecoin_proofs_api::seal::generate_piece_commitment;
use filecoin_proofs_api::{RegisteredSealProof, UnpaddedBytesAmount};
use rand::{RngCore, SeedableRng};
use sealflow_stages::comm_p::comm_p;
use serde_json::json;

/// How often each is measured, in turns.
const ROUNDS: usize = 3;

#[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
fn main() -> anyhow::Result<()> {
    let mib: u64 = std::env::args().nth(1).map_or(Ok(512), |text| text.parse())?;
    let padded = (mib << 20).next_power_of_two();
    let unpadded = padded / 128 * 127;
    let mut data = vec![0; usize::try_from(unpadded)?];
    rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut data);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (found, took) = measured(|| pool.install(|| comm_p(data.as_slice(), padded)));
        ours.push(took);
        let librarys = || {
            let proof = RegisteredSealProof::StackedDrg32GiBV1_1;
            generate_piece_commitment(proof, data.as_slice(), UnpaddedBytesAmount(unpadded))
        };
        let (wanted, took) = measured(|| pool.install(librarys));
        theirs.push(took);
        ensure!(found? == wanted?.commitment, "they differ");
    }
    let (ours, theirs) = (least(&ours), least(&theirs));
    let rate = |took: f64| padded as f64 / f64::from(1 << 20) / took;
    let result = json!({
        "piece_mib": padded >> 20,
        "ours_cpu_seconds": ours,
        "library_cpu_seconds": theirs,
        "ours_mib_per_second_and_core": rate(ours),
        "library_mib_per_second_and_core": rate(theirs),
        "ratio": theirs / ours,
    });
    println!("{result:#}");
    Ok(())
}

/// What a computation gives, and the CPU time of this process that it took.
fn measured<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = cpu_time();
    let result = work();
    (result, (cpu_time() - start).as_secs_f64())
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

fn least(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}
