//! `sealflow stage`: what steps can do.

use clap::Subcommand;

use super::hold::Hold;
use crate::environment::Context;
use crate::exit::not_found;
use crate::{output, wire};

/// Show the stages that workflow files can name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all stages
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a stage takes, gives, costs, and how it fails
    Show {
        /// The stage
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start no attempt of a stage any more; those that run go on
    Pause(Hold),
    /// Let attempts of a stage start again
    Resume(Hold),
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let registry = wire::registry(cx);
    match args.command {
        Command::Pause(what) => what.set(cx, "stage", true).await,
        Command::Resume(what) => what.set(cx, "stage", false).await,
        Command::List { json: true } => output::json(&registry.iter().collect::<Vec<_>>()),
        Command::List { json: false } => {
            let first_sentence = |doc: &str| {
                let paragraph = doc
                    .split("\n\n")
                    .next()
                    .unwrap_or("")
                    .replace('\n', " ")
                    .replace("**", "");
                paragraph
                    .split_inclusive(". ")
                    .next()
                    .unwrap_or("")
                    .trim_end()
                    .to_owned()
            };
            let rows = registry
                .iter()
                .map(|info| vec![info.name.to_string(), first_sentence(&info.doc)]);
            output::table(&["stage", "does"], rows.collect());
            Ok(())
        }
        Command::Show { name, json } => {
            let Some(info) = registry.info(&name) else {
                return Err(not_found(format!(
                    "there is no stage `{name}`; `sealflow stage list` shows all"
                )));
            };
            if json {
                return output::json(info);
            }
            output::data(&format!(
                "{} (version {})\n\n{}\n",
                info.name, info.version, info.doc
            ));
            if info.bound {
                output::data(
                    "It works in the sector's cache directory: all such steps of a run are done on one machine.\n",
                );
            }
            for (what, fields) in [("TAKES", &info.inputs), ("GIVES", &info.outputs)] {
                let row = |field: &sealflow_engine::schema::Field| {
                    let need = if field.required { "" } else { "optional" };
                    vec![
                        field.name.clone(),
                        field.ty.clone(),
                        need.to_owned(),
                        field.doc.clone(),
                    ]
                };
                output::table(&[what, "type", "", ""], fields.iter().map(row).collect());
                output::data("");
            }
            Ok(())
        }
    }
}
