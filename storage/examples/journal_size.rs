//! Measures how much memory the store takes while a journal grows, its tables' merging included: commits of a mebibyte
//! of data that cannot be compressed, four entries of 16 KiB for each of sixteen runs. Prints a line of JSON for
//! every 256 MiB. Usage: `journal_size [MIB] [FOLDER]`; docs/storage.md has results.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sealflow_engine::event::{By, Event};
use sealflow_engine::journal::{Batch, Journal};
use sealflow_engine::testing::SampleRun;
use sealflow_storage::journal::{OpenOptions, SurrealJournal, check};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const LINE_MIB: u64 = 256;

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let most: u64 = args.next().map_or(Ok(2048), |text| text.parse())?;
    if most > 4095 {
        return Err("it has names for the runs of 4095 MiB".into());
    }
    let folder = tempfile::TempDir::new()?;
    let folder = args.next().map_or(folder.path().to_owned(), Into::into);
    let url = format!("surrealkv://{}", folder.join("journal").display());
    let open = || SurrealJournal::open(&url, OpenOptions::new(folder.join("payloads")));
    let journal = open().await?;
    let (mut number, mut longest, mut begun) = (0, 0.0_f64, Instant::now());
    for mib in 1..=most {
        let batch = mebibyte(&mut number);
        let one = Instant::now();
        journal.commit(&batch).await?;
        longest = longest.max(one.elapsed().as_secs_f64());
        if mib % LINE_MIB == 0 {
            say(&json!({
                "written_mib": mib, "disk_mib": size(&folder)? >> 20, "peak_memory_mib": memory("VmHWM:")? >> 20,
                "memory_mib": memory("VmRSS:")? >> 20, "mib_per_second": LINE_MIB as f64 / begun.elapsed().as_secs_f64(),
                "longest_commit_seconds": longest,
            }))?;
            // The most that it had begins anew.
            std::fs::write("/proc/self/clear_refs", "5")?;
            (begun, longest) = (Instant::now(), 0.0);
        }
    }
    journal.close().await?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    let begun = Instant::now();
    let journal = open().await?;
    let opened = begun.elapsed().as_secs_f64();
    let peak = memory("VmHWM:")?;
    let report = check(&journal).await?;
    say(&json!({
        "open_seconds": opened, "open_peak_memory_mib": peak >> 20, "check_peak_memory_mib": memory("VmHWM:")? >> 20,
        "runs": report.checked.runs, "problems": report.problems.len(),
    }))?;
    Ok(journal.close().await?)
}

/// Sixteen new runs with four entries of 16 KiB each.
fn mebibyte(number: &mut u16) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..16 {
        *number += 1;
        let (mut run, start) = SampleRun::start(*number, None);
        batch.push(start);
        for part in 0..4 {
            let name = format!("part{part}");
            let data = Value::String(noise(u64::from(*number) * 4 + part));
            let by = By::default();
            batch.push(run.next(vec![Event::SignalReceived { name, data, by }]));
        }
    }
    batch
}

/// Some 16 KiB of hexadecimal digits.
fn noise(seed: u64) -> String {
    let digest = |at: u64| hex::encode(Sha256::digest([seed.to_le_bytes(), at.to_le_bytes()].concat()));
    (0..256).map(digest).collect()
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        sum += match file.metadata()? {
            meta if meta.is_dir() => size(&file.path())?,
            meta => meta.len(),
        };
    }
    Ok(sum)
}

/// What the system says about this process's memory, in bytes.
fn memory(field: &str) -> Fallible<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no such field")?;
    Ok(kib.parse::<u64>()? << 10)
}

fn say(line: &Value) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}
