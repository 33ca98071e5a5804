//! `sealflow config`: the configuration file.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::config::{Config, DEFAULT_TEXT, read};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::machine::{self, Profile};
use crate::{damocles, output, wire};

/// Show or check the configuration file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the whole file with every setting at its default
    Default {
        /// The machine profile, machine.toml, instead of config.toml
        #[arg(long)]
        machine: bool,
    },
    /// Turn a Damocles worker's configuration into a machine profile, and say what has no counterpart
    ///
    /// Prints machine.toml, and behind it, as comments, what goes into config.toml. Example: sealflow config
    /// import-damocles worker.toml > machine.toml
    ImportDamocles {
        /// The worker's file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what is wrong with the configuration and with the machine profile
    Check {
        /// The configuration file [default: config.toml in the data directory]
        file: Option<PathBuf>,
        /// The machine profile [default: machine.toml in the data directory]
        #[arg(long, value_name = "FILE")]
        machine: Option<PathBuf>,
        /// Print the settings that are in force, as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Default { machine: false } => output::data(DEFAULT_TEXT),
        Command::Default { machine: true } => output::data(machine::DEFAULT_TEXT),
        Command::ImportDamocles { file, json } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| not_found(format!("cannot read {}: {error}", file.display())))?;
            let registry = wire::registry(cx);
            let stages: Vec<String> = registry.iter().map(|info| info.name.to_string()).collect();
            let wired: Vec<String> = registry.wired().map(ToString::to_string).collect();
            let imported = damocles::import(&text, &stages, &wired).map_err(|error| {
                let text = format!("{} is not TOML: {error}", file.display());
                CliError::new(Kind::Config, text)
            })?;
            if json {
                return output::json(&imported);
            }
            output::data(imported.machine.trim_end());
            if !imported.config.is_empty() {
                output::data("\n# For config.toml:");
                for line in imported.config.lines() {
                    output::data(&format!("# {line}"));
                }
            }
            let rows = imported
                .without
                .iter()
                .map(|one| format!("  {}: {}", one.key, one.why));
            let rows: Vec<String> = rows.collect();
            if !rows.is_empty() {
                output::note(&format!("without a counterpart:\n{}", rows.join("\n")));
            }
        }
        Command::Check { file, machine, json } => {
            if let Some(file) = file.iter().chain(&machine).find(|file| !file.exists()) {
                return Err(not_found(format!("there is no file {}", file.display())));
            }
            let path = file.unwrap_or_else(|| cx.home.config());
            let machine = machine.unwrap_or_else(|| cx.home.machine());
            let config = Config::read(&path)?;
            let profile = read(&machine, Profile::parse)?;
            profile.executors(&wire::registry(cx))?;
            if json {
                return output::json(&json!({ "config": config, "machine": profile }));
            }
            for path in [path, machine] {
                output::note(&if path.exists() {
                    format!("{} is right", path.display())
                } else {
                    format!("{} is not there: every setting is at its default", path.display())
                });
            }
        }
    }
    Ok(())
}
