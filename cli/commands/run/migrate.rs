//! `sealflow run migrate`: go on with an edited workflow.

use super::{Reason, by, find};
use crate::api::{Client, MigrateRequest, MigrationView, Source};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::{builtin, output, wire};

/// A run, and the workflow that it is to follow
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run, or the end of its name, or `latest`
    run: String,
    /// A file, or the name of a workflow
    workflow: String,
    /// Do steps again that are done but would be done otherwise now, with all that need them
    #[arg(long)]
    redo: bool,
    /// Say what would become of each step, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reason: Reason,
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let found = builtin::find(&args.workflow, &cx.home.workflows())?;
    // Checked here first, so that complaints show the user's own file.
    builtin::graph(&found, &wire::registry(cx), &cx.home.workflows())?;
    let source = Source::Daemon(Client::need(cx).await?);
    let run = find(&source, &args.run).await?;
    let Source::Daemon(client) = &source else {
        return Ok(());
    };
    let request = MigrateRequest {
        workflow: None,
        source: Some(found.text),
        redo: args.redo,
        dry_run: args.dry_run,
        by: by(args.reason),
    };
    let view = client.migrate(&run, &request).await?;
    if args.json {
        output::json(&view)?;
    } else {
        tell(&view);
    }
    if view.safe {
        return Ok(());
    }
    let steps = view.steps.iter().filter(|step| step.fate == "refused");
    let what = match (view.refused.as_slice(), steps.count()) {
        ([first, ..], _) => first.clone(),
        ([], count) => format!("{} in the way", output::count(count, "step")),
    };
    Err(CliError::new(Kind::Failed, format!("{run} was not moved: {what}")).into())
}

fn tell(view: &MigrationView) {
    let rows = view.steps.iter().map(|step| {
        let changed: Vec<&str> = step.keys.iter().map(|key| key.key.as_str()).collect();
        let why = if step.why.is_empty() {
            changed.join(", ")
        } else {
            step.why.clone()
        };
        let fate = match step.fate.as_str() {
            "settings" => "kept, new settings",
            "new_form" => "new form",
            "again" => "done again",
            fate => fate,
        };
        vec![step.step.clone(), step.status.clone(), fate.to_owned(), why]
    });
    output::table(&["step", "status", "what becomes of it", "why"], rows.collect());
    for what in &view.refused {
        output::note(what);
    }
    match (view.done, view.safe) {
        (true, _) => output::note(&format!("{} follows the new workflow from now on", view.run)),
        (false, true) => output::note("nothing stands in the way; without --dry-run it is done"),
        (false, false) => {}
    }
}
