//! `sealflow trigger`: workflows that start by themselves.

use clap::Subcommand;

use super::run::{Reason, by};
use crate::api::{Client, TriggerRequest};
use crate::environment::Context;
use crate::{builtin, output, wire};

/// Switch on and off what starts by itself, and show when
///
/// A workflow file says when, in tables named trigger; nothing starts before somebody switches them on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the triggers that are on, with the next time of each
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch the triggers of a workflow on, as its file says now
    ///
    /// The runs keep that file, also when it is edited later; switch them on again to take the new one.
    Enable {
        /// A file, or the name of a workflow
        workflow: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Switch the triggers of a workflow off; runs that were started go on
    Disable {
        /// The name of the workflow
        workflow: String,
        #[command(flatten)]
        reason: Reason,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { json } => {
            let triggers = Client::need(cx).await?.triggers().await?;
            if json {
                return output::json(&triggers);
            }
            if triggers.is_empty() {
                output::note(
                    "no trigger is on; `sealflow trigger enable WORKFLOW` switches those of a workflow on",
                );
                return Ok(());
            }
            let rows = triggers.into_iter().map(|one| {
                let last = match (one.skipped, one.run) {
                    (Some(why), _) => format!("left out: {why}"),
                    (None, Some(run)) => run,
                    (None, None) => String::new(),
                };
                let next = one.next.unwrap_or_default();
                vec![
                    one.workflow,
                    one.cron,
                    next,
                    last,
                    one.missed.to_string(),
                    one.policy,
                ]
            });
            let headings = ["workflow", "cron", "next", "last", "left out", "when it cannot"];
            output::table(&headings, rows.collect());
            Ok(())
        }
        Command::Enable { workflow, reason } => {
            let home = cx.home.workflows();
            let found = builtin::find(&workflow, &home)?;
            let (graph, _) = builtin::graph(&found, &wire::registry(cx), &home)?;
            let name = graph.data().name.to_string();
            let client = Client::need(cx).await?;
            let request = TriggerRequest {
                source: Some(found.text),
                by: by(reason),
            };
            client.trigger(&name, true, &request).await?;
            let triggers = client.triggers().await?;
            for one in triggers.iter().filter(|one| one.workflow == name) {
                let next = one.next.as_deref().unwrap_or("never");
                output::note(&format!("{name} starts at {next} ({})", one.cron));
            }
            Ok(())
        }
        Command::Disable { workflow, reason } => {
            let request = TriggerRequest {
                source: None,
                by: by(reason),
            };
            Client::need(cx)
                .await?
                .trigger(&workflow, false, &request)
                .await?;
            output::note(&format!("{workflow} does not start by itself any more"));
            Ok(())
        }
    }
}
