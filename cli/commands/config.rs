//! `sealflow config`: the configuration file.

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::{Config, DEFAULT_TEXT};
use crate::environment::Context;
use crate::exit::not_found;
use crate::output;

/// Show or check the configuration file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the whole file with every setting at its default
    Default,
    /// Say what is wrong with a file
    Check {
        /// The file [default: config.toml in the data directory]
        file: Option<PathBuf>,
        /// Print the settings that are in force, as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Default => output::data(DEFAULT_TEXT),
        Command::Check { file, json } => {
            if let Some(file) = file.as_ref().filter(|file| !file.exists()) {
                return Err(not_found(format!("there is no file {}", file.display())));
            }
            let path = file.unwrap_or_else(|| cx.home.config());
            let config = Config::read(&path)?;
            if json {
                output::json(&config)?;
            } else if path.exists() {
                output::note(&format!("{} is right", path.display()));
            } else {
                output::note(&format!(
                    "{} is not there: every setting is at its default",
                    path.display()
                ));
            }
        }
    }
    Ok(())
}
