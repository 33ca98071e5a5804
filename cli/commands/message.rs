//! `sealflow message`: what goes to the chain, and repairs.

use clap::Subcommand;

use crate::api::{Client, MessageView};
use crate::environment::Context;
use crate::output;

/// Show messages to the chain, pay more for one, give one up
///
/// Each has one key: it lands at most once, whatever is killed or repeated. docs/chain.md says how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List messages, the newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one message with all versions that were signed
    Show {
        /// Its key
        key: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Pay more for a message that does not land
    Replace {
        /// Its key
        key: String,
    },
    /// Give up a message that has no nonce yet
    Cancel {
        /// Its key
        key: String,
        /// Why
        #[arg(long, default_value = "")]
        why: String,
    },
    /// Give a message a new nonce, after somebody else used its own and that is final
    Recover {
        /// Its key
        key: String,
    },
    /// Let nothing be sent from an address; what is asked for waits
    Forbid {
        /// The address
        address: String,
    },
    /// Let messages be sent from an address again
    Allow {
        /// The address
        address: String,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let client = Client::need(cx).await?;
    match args.command {
        Command::List { limit, json } => {
            let found = client.messages(limit).await?;
            if json {
                return output::json(&found);
            }
            let rows = found.messages.iter().map(|one| {
                vec![
                    one.key.clone(),
                    one.method.clone(),
                    one.from.chars().take(12).collect(),
                    one.nonce.map_or_else(String::new, |nonce| nonce.to_string()),
                    one.state.clone(),
                    one.height.map_or_else(String::new, |height| height.to_string()),
                    one.note.clone(),
                ]
            });
            output::table(
                &["message", "method", "from", "nonce", "state", "epoch", ""],
                rows.collect(),
            );
            match (found.height, found.trouble) {
                (_, Some(trouble)) => output::note(&format!("messages wait: {trouble}")),
                (Some(height), None) => output::note(&format!("the chain was read up to epoch {height}")),
                (None, None) => output::note("no node was reached yet"),
            }
            Ok(())
        }
        Command::Show { key, json } => {
            let one = client.message(&key).await?;
            if json {
                return output::json(&one);
            }
            show(&one);
            Ok(())
        }
        Command::Replace { key } => client.repair_message("replace", &key, "").await,
        Command::Cancel { key, why } => client.repair_message("cancel", &key, &why).await,
        Command::Recover { key } => client.repair_message("recover", &key, "").await,
        Command::Forbid { address } => client.repair_message("forbid", &address, "").await,
        Command::Allow { address } => client.repair_message("allow", &address, "").await,
    }
}

fn show(one: &MessageView) {
    let number = |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
    let mut rows = vec![
        ("message", one.key.clone()),
        ("state", one.state.clone()),
        ("method", one.method.clone()),
        ("from", one.from.clone()),
        ("to", one.to.clone()),
        ("value", format!("{} attoFIL", one.value)),
        (
            "nonce",
            one.nonce.map_or_else(String::new, |nonce| nonce.to_string()),
        ),
        ("epoch", number(one.height)),
        (
            "exit code",
            one.exit_code.map_or_else(String::new, |code| code.to_string()),
        ),
        ("not after", number(one.expires)),
        ("note", one.note.clone()),
    ];
    for cid in &one.cids {
        let landed = if one.landed.as_ref() == Some(cid) {
            " (on the chain)"
        } else {
            ""
        };
        rows.push(("version", format!("{cid}{landed}")));
    }
    let rows = rows.into_iter().filter(|(_, is)| !is.is_empty());
    output::table(
        &["", ""],
        rows.map(|(what, is)| vec![what.to_owned(), is]).collect(),
    );
}
