//! The sealflow binary: parses the command line, prepares the process, runs one command.

mod api;
mod archived;
mod args;
mod backup;
mod bench;
mod builtin;
mod chain;
mod commands;
mod config;
mod conformance;
mod credentials;
mod damocles;
mod draw;
mod durations;
mod environment;
mod exit;
mod gantt;
mod home;
mod housekeeping;
mod lease;
mod machine;
mod numbers;
mod output;
mod sectors;
mod sizes;
mod span;
mod stores;
mod successor;
mod timeline;
mod tls;
mod view;
mod wire;
mod workers;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Cli::parse();
    if let args::Command::Processor(args) = &args.command
        && let Some(status) = commands::processor::launched(args)
    {
        return status;
    }
    let result = environment::prepare(&args).and_then(|cx| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            // Admission by CPU and memory bounds the work; this bounds mistakes.
            .max_blocking_threads(256)
            .thread_name("sealflow")
            .build()?;
        let result = runtime.block_on(commands::run(cx, args.command));
        // A proof cannot be interrupted; what it would still give is not waited for.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
