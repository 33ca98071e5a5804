//! Prepares the process before any thread starts: the home, the configuration, logging, and the
//! environment variables that libraries read once. The only file with `unsafe`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context as _;
use sealflow_executors::processor::{self, launch::Hooks};
use sealflow_stages::params::ParamsDir;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{self, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, filter::FilterExt as _};

use crate::args::{Cli, Command};
use crate::config::{Config, Network};
use crate::home::Home;
use crate::output;

/// What every command has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) config: Config,
    pub(crate) params_base: PathBuf,
    pub(crate) params: ParamsDir,
}

/// Reads the configuration and sets what is global to the process.
pub(crate) fn prepare(args: &Cli) -> anyhow::Result<Context> {
    let home = Home::find(args.home.as_deref())?;
    let home = match args.command {
        Command::Demo(_) => home.of_demo(),
        _ => home,
    };
    // These two must work when the configuration does not.
    let config = match args.command {
        Command::Config(_) | Command::Completions(_) => Config::default(),
        _ => Config::read(&home.config())?,
    };
    let params_base = match &config.params.path {
        Some(path) => home.resolve(path),
        None => ParamsDir::default_base()?,
    };
    // Two are linked, because the database brings its own; libraries would not choose.
    drop(rustls::crypto::ring::default_provider().install_default());
    let child = matches!(args.command, Command::Processor(_));
    let params = match config.network {
        Network::Devnet => ParamsDir::generated(&params_base),
        Network::Calibration | Network::Mainnet => ParamsDir::published(&params_base),
    };
    // A child takes the folder that its parent gives it: our daemon has chosen it, other parents know theirs.
    let params = match std::env::var_os("FIL_PROOFS_PARAMETER_CACHE") {
        Some(path) if child && !path.is_empty() => params.in_folder(path),
        _ => params,
    };
    if child {
        confine()?;
    }
    let variables = [
        // Panics keep their backtraces. Of errors nobody sees them, and the database makes errors in its normal work.
        ("RUST_LIB_BACKTRACE", "0".to_owned()),
        ("FIL_PROOFS_PARAMETER_CACHE", params.path().display().to_string()),
        (
            "FIL_PROOFS_PARENT_CACHE",
            params_base.join("parents").display().to_string(),
        ),
    ];
    for (name, value) in variables {
        // What the operator set goes first, except the parameter folder, which the network chooses.
        if name == "FIL_PROOFS_PARAMETER_CACHE" || std::env::var_os(name).is_none() {
            set(name, &value);
        }
    }
    log(matches!(
        args.command,
        Command::Daemon(_) | Command::Worker(_) | Command::Devnet(_)
    ) || child);
    if let Ok(plan) = std::env::var("SEALFLOW_CRASH_AT") {
        sealflow_engine::crash::arm(&plan).map_err(|why| anyhow::anyhow!("SEALFLOW_CRASH_AT: {why}"))?;
    }
    Ok(Context {
        home,
        config,
        params_base,
        params,
    })
}

/// Does what a Damocles worker leaves to its children: it names a control group, processors and a NUMA node in
/// variables. Parents of ours confine a child before it starts.
fn confine() -> anyhow::Result<()> {
    let told = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(cpus) = told("VC_CG_CPUSET") {
        let set = processor::parse_cpus(&cpus).map_err(|why| anyhow::anyhow!("VC_CG_CPUSET: {why}"))?;
        let set: Vec<usize> = set.into_iter().collect();
        use_processors(&set).with_context(|| format!("VC_CG_CPUSET: cannot use {cpus}"))?;
        if let Some(name) = told("VC_CG_NAME")
            && let Err(error) = processor::join_named(&name, &cpus)
        {
            output::note(&format!(
                "VC_CG_NAME: not in the group {name}: {error}; the processors hold anyway"
            ));
        }
    }
    if let Some(node) = told("VENUS_WORKER_NUMA_PREFERRED") {
        let number = node
            .parse()
            .with_context(|| format!("VENUS_WORKER_NUMA_PREFERRED: `{node}` is no node"))?;
        if let Err(error) = prefer_node(number) {
            output::note(&format!(
                "VENUS_WORKER_NUMA_PREFERRED: node {node} is not preferred: {error}"
            ));
        }
    }
    Ok(())
}

/// What the launch of children needs of this file.
pub(crate) const HOOKS: Hooks = Hooks {
    affinity: use_processors,
    prefer_node,
};

/// Confines this thread, and all that it starts, to processors.
fn use_processors(cpus: &[usize]) -> std::io::Result<()> {
    const BITS: usize = 64;
    let mut mask = [0_u64; 8192 / BITS];
    for cpu in cpus {
        if let Some(word) = mask.get_mut(cpu / BITS) {
            *word |= 1 << (cpu % BITS);
        }
    }
    #[expect(unsafe_code, reason = "no library that is in use has this call")]
    // SAFETY: the kernel reads as many bytes as it is told that there are.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&mask), mask.as_ptr()) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Has this thread, and all that it starts, take memory of a NUMA node first.
fn prefer_node(node: u32) -> std::io::Result<()> {
    let mask = 1_u64
        .checked_shl(node)
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    #[expect(unsafe_code, reason = "no library that is in use has this call")]
    // SAFETY: the kernel reads 64 bits, and one more is counted because it takes one off.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, &raw const mask, 65) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "the libraries are configured by variables that they read once"
)]
fn set(name: &str, value: &str) {
    // SAFETY: main calls this before it starts any thread.
    unsafe { std::env::set_var(name, value) };
}

fn log(daemon: bool) {
    let default = if daemon {
        "info,filecoin_proofs=warn,storage_proofs_core=warn,storage_proofs_porep=warn,bellperson=warn,surrealdb=error,surrealdb_core=error,surrealkv=warn"
    } else {
        "error,surrealdb=off,surrealdb_core=off,surrealdb_engine_local=off,surrealdb_kvs=off"
    };
    let filter = EnvFilter::try_from_env("SEALFLOW_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter.and(FalseAlarm)))
        .init();
}

/// Keeps one line out of the log: each clean close of an embedded store ends a thread of the database,
/// and that thread says that it cannot close the store. Closing it is ours, and follows.
struct FalseAlarm;

impl FalseAlarm {
    const TEXT: &str = "No runtime available for closing the store correctly";
}

impl<S> Filter<S> for FalseAlarm {
    fn enabled(&self, _: &Metadata<'_>, _: &layer::Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &layer::Context<'_, S>) -> bool {
        struct Found(bool);
        impl Visit for Found {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 |= field.name() == "message" && format!("{value:?}") == FalseAlarm::TEXT;
            }
        }
        let mut found = Found(false);
        event.record(&mut found);
        !found.0
    }
}
