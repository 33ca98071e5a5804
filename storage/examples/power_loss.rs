//! Cuts the power of a journal: what a process writes and syncs is recorded by `strace`, and the disk is put together again as
//! it may be after a cut at any of these calls. Of what was not synced nothing, a torn part or all is there. Every
//! such disk must open, pass the check, and have all commits that were acknowledged before the cut. As a control the
//! same is done with a store that does not sync: there something must be missing. Prints JSON, a line each.
//! Usage: `power_loss FOLDER [COMMITS] [CUTS]`; needs strace. docs/reliability.md has results.

#[path = "power_loss/disk.rs"]
mod disk;
#[path = "power_loss/trace.rs"]
mod trace;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use sealflow_engine::event::{By, Event};
use sealflow_engine::journal::{Batch, Journal};
use sealflow_engine::testing::SampleRun;
use sealflow_storage::journal::{OpenOptions, SurrealJournal, check};
use serde_json::{Value, json};

use disk::{Disk, Rest};
use trace::Call;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words[..] {
        ["victim", folder, commits, sync] => {
            runtime.block_on(victim(Path::new(folder), commits.parse()?, sync == "every"))
        }
        [folder, ref rest @ ..] => {
            let commits = rest.first().map_or(Ok(200), |commits| commits.parse())?;
            let cuts = rest.get(1).map_or(Ok(60), |cuts| cuts.parse())?;
            for sync in ["every", "never"] {
                runtime.block_on(cut(Path::new(folder), commits, cuts, sync))?;
            }
            Ok(())
        }
        [] => Err("power_loss FOLDER [COMMITS] [CUTS]".into()),
    }
}

fn options(folder: &Path) -> OpenOptions {
    OpenOptions {
        // Small, so that tables are written and the log begins anew while we look.
        log_bytes: 256 << 10,
        ..OpenOptions::new(folder.join("payloads"))
    }
}

fn url(folder: &Path) -> String {
    format!("surrealkv://{}", folder.join("journal").display())
}

/// A payload that belongs to a commit.
fn payload(n: u16) -> Vec<u8> {
    n.to_le_bytes().repeat(10_000)
}

/// Whether a commit has one.
fn has_payload(n: u16) -> bool {
    n.is_multiple_of(10)
}

/// Whether a commit has an entry of 20 KiB: large values have a place of their own in some stores.
fn is_large(n: u16) -> bool {
    n.is_multiple_of(7)
}

/// Commits, and says so after each one.
async fn victim(folder: &Path, commits: u16, synced: bool) -> Fallible<()> {
    let options = OpenOptions {
        synced,
        ..options(folder)
    };
    let journal = SurrealJournal::open(&url(folder), options).await?;
    let mut out = std::io::stdout();
    let mut before: Option<SampleRun> = None;
    for n in 0..commits {
        if has_payload(n) {
            journal.put_payload(&payload(n)).await?;
        }
        let (run, start) = SampleRun::start(n, None);
        let mut batch = Batch::default();
        batch.push(start);
        if let Some(before) = &mut before {
            batch.push(before.one_done());
            if is_large(n - 1) {
                let (name, data) = ("large".to_owned(), Value::String("x".repeat(20 << 10)));
                let by = By::default();
                batch.push(before.next(vec![Event::SignalReceived { name, data, by }]));
            }
        }
        journal.commit(&batch).await?;
        out.write_all(format!("ack {n}\n").as_bytes())?;
        out.flush()?;
        before = Some(run);
    }
    // Not closed: that would sync.
    std::process::exit(0);
}

/// Records one life, and looks at disks after cuts.
async fn cut(folder: &Path, commits: u16, cuts: usize, sync: &str) -> Fallible<()> {
    let home = folder.join(format!("power-{sync}"));
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    let life = home.join("life");
    std::fs::create_dir_all(&life)?;
    let recorded = home.join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "16777216", "-e", trace::CALLS, "-o"])
        .arg(&recorded)
        .arg(std::env::current_exe()?)
        .arg("victim")
        .arg(&life)
        .args([&commits.to_string(), sync])
        .stdout(std::process::Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("the recorded process ended with {status}").into());
    }
    let calls = trace::read(&recorded, &life)?;
    let syncs = calls.iter().filter(|call| matches!(call, Call::Sync(_))).count();
    let (mut states, mut lost, mut unreadable) = (0, Vec::new(), Vec::new());
    for cut in 1..=cuts {
        let at = calls.len() * cut / cuts;
        let mut disk = Disk::default();
        let mut acked: Option<u16> = None;
        for call in &calls[..at] {
            match call {
                Call::Ack(n) => acked = Some(*n),
                call => disk.apply(call),
            }
        }
        for rest in [Rest::Nothing, Rest::Names, Rest::Torn(cut as u64), Rest::All] {
            states += 1;
            // A folder of its own: a store that was closed a moment ago may still tidy up in the last one.
            let after = home.join(format!("after-{states}"));
            disk.write(&after, rest)?;
            let what = format!("cut at call {at}, {rest:?}, acknowledged up to {acked:?}");
            match look(&after, acked).await {
                Ok(None) => std::fs::remove_dir_all(&after)?,
                Ok(Some(missing)) => lost.push(format!("{what}: {missing}")),
                Err(error) => unreadable.push(format!("{what}: {error}")),
            }
        }
    }
    let bad = lost.len() + unreadable.len();
    let report = json!({
        "sync": sync, "commits": commits, "calls": calls.len(), "syncs": syncs, "cuts": cuts, "disks": states,
        "lost": lost.len(), "unreadable": unreadable.len(),
        "some": lost.iter().take(5).chain(unreadable.iter().take(5)).collect::<Vec<_>>(),
    });
    writeln!(std::io::stdout(), "{report}")?;
    match sync {
        "every" if bad > 0 => Err("acknowledged commits were lost, or a disk could not be read".into()),
        "never" if lost.is_empty() => Err("the control lost nothing: this test does not bite".into()),
        _ => Ok(()),
    }
}

/// What is missing on a disk of what was acknowledged.
async fn look(folder: &Path, acked: Option<u16>) -> Fallible<Option<String>> {
    let Some(acked) = acked else {
        // Before the first acknowledgement the journal may not be there yet; it must be possible to begin.
        let journal = SurrealJournal::open(&url(folder), options(folder)).await?;
        journal.close().await?;
        return Ok(None);
    };
    let journal = SurrealJournal::open(&url(folder), options(folder)).await?;
    let mut missing = None;
    for n in 0..=acked {
        let (run, _) = SampleRun::start(n, None);
        let row = journal.run(&run.id()).await?;
        let wanted = match n < acked {
            true if is_large(n) => 3,
            true => 2,
            false => 1,
        };
        if row.as_ref().is_none_or(|row| row.seq < wanted) {
            missing = Some(format!("commit {n} is not there"));
            break;
        }
        if has_payload(n) {
            let bytes = payload(n);
            if journal
                .payload(&hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)))
                .await?
                != bytes
            {
                missing = Some(format!("the payload of commit {n} is not there"));
            }
        }
    }
    let report = check(&journal).await?;
    journal.close().await?;
    if let Some(problem) = report.problems.first() {
        return Err(format!("{problem:?}").into());
    }
    Ok(missing)
}

/// A path below the folder that is recorded, or nothing.
fn inside(folder: &Path, path: &Path) -> Option<PathBuf> {
    path.strip_prefix(folder).ok().map(Path::to_owned)
}
