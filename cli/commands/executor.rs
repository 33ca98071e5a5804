//! `sealflow executor`: where attempts run, and who holds what.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Subcommand;

use super::conformance;
use super::credential::{self, Cert, Token};
use super::hold::Hold;
use crate::api::{Amounts, Client, ExecutorDetail};
use crate::environment::Context;
use crate::exit::not_found;
use crate::output;

/// Show where attempts run, who holds what and what programs said; drain an executor
///
/// Executors are declared in the machine profile: `sealflow config default --machine`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List executors with what they have and hold
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an executor's attempts and what each holds
    Show {
        /// The executor
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give an executor no new attempts; those that it runs go on
    #[command(visible_alias = "cordon")]
    Drain {
        #[command(flatten)]
        what: Hold,
        /// Return when it runs nothing any more
        #[arg(long)]
        wait: bool,
    },
    /// Give an executor attempts again: one that was drained, or that refuses because its programs kept dying
    Resume(Hold),
    /// Make, list and revoke what workers show the daemon
    #[command(subcommand)]
    Token(Token),
    /// Make certificates for the daemon and for workers
    #[command(subcommand)]
    Cert(Cert),
    /// Hold a vendor's program or service against the protocol and the library's results
    Test(conformance::Args),
    /// Print what an executor's programs said
    Logs {
        /// The executor
        name: String,
        /// Go on until you stop it
        #[arg(long, short)]
        follow: bool,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { json } => {
            let executors = Client::need(cx).await?.executors().await?;
            if json {
                return output::json(&executors);
            }
            let rows = executors.iter().map(|one| {
                vec![
                    one.name.clone(),
                    one.stages
                        .as_ref()
                        .map_or("all".to_owned(), |stages| stages.join(" ")),
                    format!("{} of {}", one.attempts.len(), one.concurrency),
                    format!("{} of {}", one.machine_held.cpu, one.capacity.cpu),
                    share(one.machine_held.memory, one.capacity.memory),
                    one.capacity.disk.map_or_else(
                        || ByteSize(one.machine_held.disk.unwrap_or_default()).to_string(),
                        |disk| share(one.machine_held.disk.unwrap_or_default(), disk),
                    ),
                    format!("{} of {}", one.machine_held.gpus.len(), one.capacity.gpus.len()),
                    one.drained
                        .as_ref()
                        .map_or(String::new(), |hold| format!("drained by {}", hold.who)),
                ]
            });
            let headings = [
                "executor", "stages", "attempts", "cores", "memory", "disk", "gpus", "",
            ];
            output::table(&headings, rows.collect());
            Ok(())
        }
        Command::Show { name, json } => {
            let one = find(&Client::need(cx).await?, &name).await?;
            if json {
                return output::json(&one);
            }
            show(&one);
            Ok(())
        }
        Command::Drain { what, wait } => {
            let name = what.name.clone();
            what.set(cx, "executor", true).await?;
            let client = Client::need(cx).await?;
            let mut before = usize::MAX;
            loop {
                let left = find(&client, &name).await?.attempts.len();
                if left != before {
                    output::note(&format!("{} left", output::count(left, "attempt")));
                }
                if left == 0 || !wait {
                    return Ok(());
                }
                before = left;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Command::Logs { name, follow } => super::logs::of_executor(cx, &name, follow).await,
        Command::Resume(what) => what.set(cx, "executor", false).await,
        Command::Test(args) => conformance::run(cx, args).await,
        Command::Token(command) => credential::token(cx, command),
        Command::Cert(command) => credential::cert(cx, command),
    }
}

async fn find(client: &Client, name: &str) -> anyhow::Result<ExecutorDetail> {
    let mut executors = client.executors().await?.into_iter();
    executors.find(|one| one.name == name).ok_or_else(|| {
        not_found(format!(
            "there is no executor `{name}`; `sealflow executor list` shows all"
        ))
    })
}

fn share(held: u64, capacity: u64) -> String {
    format!("{} of {}", ByteSize(held), ByteSize(capacity))
}

fn amounts(amounts: &Amounts) -> Vec<String> {
    let gpus: Vec<String> = amounts.gpus.iter().map(u8::to_string).collect();
    vec![
        amounts.cpu.to_string(),
        ByteSize(amounts.memory).to_string(),
        amounts
            .disk
            .map_or_else(|| "no limit".to_owned(), |disk| ByteSize(disk).to_string()),
        gpus.join(" "),
    ]
}

fn show(one: &ExecutorDetail) {
    let stages = one
        .stages
        .as_ref()
        .map_or("all".to_owned(), |stages| stages.join(", "));
    output::data(&format!(
        "{} on machine {}\nstages: {stages}",
        one.name, one.machine
    ));
    if let Some(hold) = &one.drained {
        let why = if hold.why.is_empty() {
            String::new()
        } else {
            format!(": {}", hold.why)
        };
        output::data(&format!("drained by {}{why}, since {}", hold.who, hold.since));
    }
    if !one.locks.is_empty() {
        output::data(&format!("locks: {}", one.locks.join(", ")));
    }
    if one.stagger_seconds > 0.0 {
        output::data(&format!("one start every {} s", one.stagger_seconds));
    }
    for note in &one.notes {
        output::data(note);
    }
    output::data("");
    let row = |what: [String; 3], of: &Amounts| what.into_iter().chain(amounts(of)).collect::<Vec<_>>();
    let own = |text: &str| [text.to_owned(), String::new(), String::new()];
    let mut rows = vec![
        row(own("the machine has"), &one.capacity),
        row(own("all executors hold"), &one.machine_held),
        row(own("this one holds"), &one.held),
    ];
    for holding in &one.attempts {
        let ends = if holding.given_up { " (given up)" } else { "" };
        let what = [
            format!("{} of {}{ends}", holding.step, holding.run),
            holding.attempt.to_string(),
            holding.since.clone(),
        ];
        rows.push(row(what, &holding.held));
    }
    output::table(&["", "attempt", "since", "cores", "memory", "disk", "gpus"], rows);
}
