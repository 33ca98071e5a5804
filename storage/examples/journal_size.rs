//! Measures how much memory the store takes while a journal grows, its tables' merging included: commits of a mebibyte
//! of data that cannot be compressed, 64 KiB for each of sixteen runs in entries of a size. Prints a line of JSON for
//! every 256 MiB. Usage: `journal_size [MIB] [ENTRY_BYTES] [FOLDER]`, with entries of 1024 bytes unless told otherwise, about
//! as large as a step's; docs/storage.md has results.

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
const RUN_BYTES: u64 = 64 << 10;

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let most: u64 = args.next().map_or(Ok(2048), |text| text.parse())?;
    if most > 4095 {
        return Err("it has names for the runs of 4095 MiB".into());
    }
    let entry_bytes: u64 = args.next().map_or(Ok(1024), |text| text.parse())?;
    if entry_bytes == 0 || !RUN_BYTES.is_multiple_of(entry_bytes) {
        return Err(format!("an entry has a part of {RUN_BYTES} bytes").into());
    }
    let folder = tempfile::TempDir::new()?;
    let folder = args.next().map_or(folder.path().to_owned(), Into::into);
    let url = format!("surrealkv://{}", folder.join("journal").display());
    let open = || SurrealJournal::open(&url, OpenOptions::new(folder.join("payloads")));
    let journal = open().await?;
    let (mut number, mut longest, mut begun) = (0, 0.0_f64, Instant::now());
    for mib in 1..=most {
        let batch = mebibyte(&mut number, entry_bytes);
        let one = Instant::now();
        journal.commit(&batch).await?;
        longest = longest.max(one.elapsed().as_secs_f64());
        if mib % LINE_MIB == 0 {
            say(&json!({
                "entry_bytes": entry_bytes, "written_mib": mib, "disk_mib": size(&folder)? >> 20, "peak_memory_mib": memory("VmHWM:")? >> 20,
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

/// Sixteen new runs with their entries.
fn mebibyte(number: &mut u16, entry_bytes: u64) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..16 {
        *number += 1;
        let (mut run, start) = SampleRun::start(*number, None);
        batch.push(start);
        for part in 0..RUN_BYTES / entry_bytes {
            let name = format!("part{part}");
            let data = Value::String(noise(u64::from(*number) << 16 | part, entry_bytes));
            let by = By::default();
            batch.push(run.next(vec![Event::SignalReceived { name, data, by }]));
        }
    }
    batch
}

/// So many hexadecimal digits.
fn noise(seed: u64, bytes: u64) -> String {
    let digest = |at: u64| hex::encode(Sha256::digest([seed.to_le_bytes(), at.to_le_bytes()].concat()));
    (0..bytes.div_ceil(64)).map(digest).collect()
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
