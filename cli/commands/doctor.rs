//! `sealflow doctor`: what this machine has, and what is missing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use bytesize::ByteSize;
use rustix::process::{Resource, getrlimit};
use sealflow_stages::params::{SetState, list};
use serde::Serialize;

use crate::config::Network;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::machine::hardware::Hardware;
use crate::{machine, output, wire};

/// Say what this machine has for sealing, and what is missing
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a machine profile for this hardware instead
    #[arg(long, conflicts_with = "json")]
    suggest: bool,
    /// The size of the sectors that it is for [default: 2KiB on a devnet, else 32GiB]
    #[arg(long, value_name = "SIZE", requires = "suggest")]
    sector_size: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn finding(what: &'static str, verdict: Verdict, found: String, advice: &str) -> Finding {
    let advice = (verdict != Verdict::Ok && !advice.is_empty()).then(|| advice.to_owned());
    Finding {
        what,
        verdict,
        found,
        advice,
    }
}

pub(crate) fn run(cx: &Context, args: &Args) -> anyhow::Result<()> {
    if args.suggest {
        return suggest(cx, args.sector_size);
    }
    cx.home.prepare()?;
    let mut findings = vec![cpu(), memory(), open_files()];
    findings.extend(disk(cx));
    findings.push(params(cx));
    findings.push(workflows(cx));
    findings.push(backups(cx));
    if args.json {
        output::json(&findings)?;
    } else {
        let mut rows = Vec::new();
        for finding in &findings {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Problem => "PROBLEM",
            };
            rows.push(vec![
                finding.what.to_owned(),
                verdict.to_owned(),
                finding.found.clone(),
            ]);
            if let Some(advice) = &finding.advice {
                rows.push(vec![String::new(), String::new(), format!("→ {advice}")]);
            }
        }
        output::table(&["what", "", "found"], rows);
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Problem)
        .count();
    if problems == 0 {
        Ok(())
    } else {
        Err(CliError::new(Kind::CheckFailed, format!("{problems} problems")).into())
    }
}

/// Prints a machine profile for what is here.
fn suggest(cx: &Context, size: Option<ByteSize>) -> anyhow::Result<()> {
    let usual = match cx.config.network {
        Network::Devnet => ByteSize::kib(2),
        _ => ByteSize::gib(32),
    };
    let size = size.unwrap_or(usual);
    let proof = crate::sizes::seal_proof(size)?;
    let hardware = Hardware::of_this_machine();
    output::data(machine::suggest::profile(&hardware, proof, &wire::registry(cx)).trim_end());
    Ok(())
}

/// How scheduled backups go.
fn backups(cx: &Context) -> Finding {
    let Some(every) = cx.config.backup.every else {
        let advice = "set `every` under [backup] in config.toml, or see to `sealflow store backup` yourself";
        return finding("backup", Verdict::Warning, "none is scheduled".to_owned(), advice);
    };
    let record = crate::backup::Record::read(&cx.home);
    let every = every.0;
    let taken = match record.taken_at {
        Some(at) => format!("the last one was taken at {}", crate::view::time(at)),
        None => "none was taken yet".to_owned(),
    };
    if let Some(problem) = record.problem {
        let advice = "the history is not guarded: mend this; the daemon then tries again by itself";
        return finding(
            "backup",
            Verdict::Problem,
            format!("{taken}; then: {problem}"),
            advice,
        );
    }
    let age = record.taken_at.map(|at| crate::span::now_ms().saturating_sub(at));
    match age {
        Some(age) if u128::from(age) > 2 * every.as_millis() => {
            let advice = "it is overdue: does the daemon run?";
            finding("backup", Verdict::Problem, taken, advice)
        }
        Some(_) => finding("backup", Verdict::Ok, taken, ""),
        None => finding(
            "backup",
            Verdict::Warning,
            taken,
            "the daemon takes the first one when it starts",
        ),
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("sha_ni", std::is_x86_feature_detected!("sha")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("adx", std::is_x86_feature_detected!("adx")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![("sha2", std::arch::is_aarch64_feature_detected!("sha2"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = features();
    let has = |name: &str| features.iter().any(|(known, has)| *known == name && *has);
    let verdict = if has("sha_ni") || has("sha2") {
        Verdict::Ok
    } else {
        Verdict::Warning
    };
    let present: Vec<&str> = features
        .iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| *name)
        .collect();
    let found = format!("{cores} cores; {}", present.join(" "));
    finding(
        "cpu",
        verdict,
        found,
        "without SHA instructions PC1 and commitments are several times slower",
    )
}

fn memory() -> Finding {
    let bytes = machine::memory_bytes();
    let need = 8_u64 << 30;
    let verdict = if bytes >= need {
        Verdict::Ok
    } else {
        Verdict::Warning
    };
    finding(
        "memory",
        verdict,
        ByteSize(bytes).to_string(),
        "a small sector takes up to 6 GiB; a 32 GiB sector takes 128 GiB and more",
    )
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let verdict = if limit >= 4096 {
        Verdict::Ok
    } else {
        Verdict::Warning
    };
    finding(
        "open files",
        verdict,
        format!("at most {limit}"),
        "raise it: ulimit -n 65536, or LimitNOFILE in the systemd unit",
    )
}

fn disk(cx: &Context) -> Vec<Finding> {
    let mut places = vec![("journal disk", cx.home.root().to_owned())];
    places.push(("scratch disk", cx.home.resolve(&cx.config.scratch.path)));
    let stores = cx.config.stores();
    let folders = stores.iter().filter_map(|(name, store)| store.folder(name));
    places.extend(folders.map(|path| ("store disk", cx.home.resolve(&path))));
    places.push(("parameters disk", cx.params_base.clone()));
    places
        .into_iter()
        .map(|(what, path)| one_disk(what, &path))
        .collect()
}

fn one_disk(what: &'static str, path: &Path) -> Finding {
    let probe = || -> std::io::Result<(u64, f64)> {
        std::fs::create_dir_all(path)?;
        let stat = rustix::fs::statvfs(path).map_err(std::io::Error::from)?;
        let free = stat.f_bavail * stat.f_frsize;
        Ok((free, fsync_ms(path)?))
    };
    match probe() {
        Ok((free, fsync)) => {
            let verdict = if free < 2 << 30 || fsync > 50.0 {
                Verdict::Warning
            } else {
                Verdict::Ok
            };
            let found = format!("{}: {} free, fsync {fsync:.2} ms", path.display(), ByteSize(free));
            finding(
                what,
                verdict,
                found,
                "a slow or full disk slows every durable step; use a local SSD",
            )
        }
        Err(error) => {
            let advice = "let the user that runs sealflow make and write this folder, or configure another";
            finding(
                what,
                Verdict::Problem,
                format!("{}: {error}", path.display()),
                advice,
            )
        }
    }
}

/// The median time of making 512 bytes durable, in milliseconds.
fn fsync_ms(dir: &Path) -> std::io::Result<f64> {
    let path = dir.join(".sealflow-doctor");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    drop(file);
    std::fs::remove_file(&path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn params(cx: &Context) -> Finding {
    let found = match list(&cx.params) {
        Ok(found) => found,
        Err(error) => return finding("parameters", Verdict::Problem, error.to_string(), ""),
    };
    let present: Vec<String> = found
        .iter()
        .filter(|set| set.state == SetState::Present)
        .map(|set| set.set.to_string())
        .collect();
    let partial: Vec<String> = found
        .iter()
        .filter(|set| set.state == SetState::Partial)
        .map(|set| set.set.to_string())
        .collect();
    let text = format!(
        "{}: {}",
        cx.params.path().display(),
        if present.is_empty() {
            "none".to_owned()
        } else {
            present.join(" ")
        }
    );
    if !partial.is_empty() {
        let advice = format!("incomplete: {}; generate or fetch them again", partial.join(" "));
        return finding("parameters", Verdict::Warning, text, &advice);
    }
    let verdict = if present.is_empty() {
        Verdict::Warning
    } else {
        Verdict::Ok
    };
    finding(
        "parameters",
        verdict,
        text,
        "the first run makes what it needs; or: sealflow params generate porep-2KiB",
    )
}

fn workflows(cx: &Context) -> Finding {
    let registry = wire::registry(cx);
    let home = cx.home.workflows();
    let names = crate::builtin::names(&home);
    let wrong: Vec<&String> = names
        .iter()
        .filter(|name| {
            let found = crate::builtin::find(name, &home);
            found.is_ok_and(|found| crate::builtin::check(&found.text, &registry, &home).0.is_none())
        })
        .collect();
    if wrong.is_empty() {
        return finding("workflows", Verdict::Ok, format!("{} are right", names.len()), "");
    }
    let advice = "`sealflow workflow check` says what is wrong, at its line";
    finding(
        "workflows",
        Verdict::Problem,
        format!("{wrong:?} cannot run"),
        advice,
    )
}
