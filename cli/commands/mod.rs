//! The commands, one file a noun.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
mod conformance;
mod credential;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod devnet;
pub(crate) mod doctor;
pub(crate) mod executor;
mod hold;
pub(crate) mod init;
mod logs;
pub(crate) mod message;
pub(crate) mod miner;
pub(crate) mod params;
pub(crate) mod processor;
pub(crate) mod run;
pub(crate) mod sector;
pub(crate) mod stage;
pub(crate) mod store;
pub(crate) mod trigger;
pub(crate) mod wallet;
pub(crate) mod worker;
pub(crate) mod workflow;

pub(crate) use run::Screen;

use crate::args::Command;
use crate::environment::Context;

/// Runs one command.
pub(crate) async fn run(cx: Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => Box::pin(demo::run(cx, args)).await,
        Command::Init(args) => init::run(&cx, &args),
        Command::Daemon(args) => Box::pin(daemon::run(cx, args)).await,
        Command::Run(args) => Box::pin(run::run(cx, args)).await,
        Command::Workflow(args) => Box::pin(workflow::run(&cx, args)).await,
        Command::Stage(args) => stage::run(&cx, args).await,
        Command::Worker(args) => worker::run(cx, args).await,
        Command::Executor(args) => executor::run(&cx, args).await,
        Command::Trigger(args) => trigger::run(&cx, args).await,
        Command::Processor(args) => processor::run(&cx, args).await,
        Command::Devnet(args) => Box::pin(devnet::run(cx, args)).await,
        Command::Params(args) => params::run(&cx, args).await,
        Command::Store(args) => Box::pin(store::run(&cx, args)).await,
        Command::Sector(args) => Box::pin(sector::run(&cx, args)).await,
        Command::Miner(args) => miner::run(&cx, args).await,
        Command::Message(args) => message::run(&cx, args).await,
        Command::Wallet(args) => wallet::run(&cx, args).await,
        Command::Bench(args) => bench::run(&cx, args).await,
        Command::Doctor(args) => doctor::run(&cx, &args),
        Command::Config(args) => config::run(&cx, args),
        Command::Completions(args) => {
            completions::run(&args);
            Ok(())
        }
    }
}
