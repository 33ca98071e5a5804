//! The command line. The doc comments are the help.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, completions, config, daemon, demo, devnet, doctor, executor, init, message, miner, params,
    processor, run, sector, stage, store, trigger, wallet, worker, workflow,
};

/// Durable workflows for Filecoin storage providers.
///
/// `sealflow demo` seals a small sector with real proofs, here and now. `sealflow init` makes a data
/// directory, `sealflow daemon` runs what `sealflow run start` asks for.
#[derive(Debug, Parser)]
#[command(version, after_help = crate::exit::CODES, propagate_version = true)]
pub(crate) struct Cli {
    /// The data directory [default: ~/.sealflow]
    #[arg(long, global = true, env = "SEALFLOW_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Daemon(daemon::Args),
    Run(run::Args),
    Workflow(workflow::Args),
    Stage(stage::Args),
    Trigger(trigger::Args),
    Executor(executor::Args),
    Worker(worker::Args),
    Miner(miner::Args),
    Message(message::Args),
    Wallet(wallet::Args),
    Processor(processor::Args),
    Devnet(devnet::Args),
    Params(params::Args),
    Store(store::Args),
    Sector(sector::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Config(config::Args),
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
