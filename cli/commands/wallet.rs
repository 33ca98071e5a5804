//! `sealflow wallet`: the keys that messages are signed with.

use std::io::Read;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use sealflow_chain::wallet::{KeyType, LotusKey, Passphrase, parse_key_address};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::api::{Client, WalletRequest};
use crate::chain;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// Make, import and list keys; they are encrypted by a passphrase
///
/// The daemon unlocks them at its start, with the passphrase in the file that `passphrase_file` of config.toml
/// names. What may be signed is in wallet/policy.toml in the home: by default nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// How a passphrase is told
#[derive(Debug, clap::Args)]
struct Secret {
    /// The file with the passphrase [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kinds {
    Bls,
    Secp256k1,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List keys
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a key, and print its address
    New {
        /// Its kind
        #[arg(value_enum, default_value = "bls")]
        kind: Kinds,
        #[command(flatten)]
        secret: Secret,
    },
    /// Take in a key as Lotus exports it, from a file or standard input
    Import {
        /// The file
        file: Option<PathBuf>,
        #[command(flatten)]
        secret: Secret,
    },
    /// Have a running daemon forget its keys: messages wait until they are unlocked
    Lock,
    /// Have a running daemon unlock its keys, also those that were added since it started
    Unlock {
        #[command(flatten)]
        secret: Secret,
    },
    /// Print a key as Lotus imports it: whoever reads it can spend what the address has
    Export {
        /// The address
        address: String,
        #[command(flatten)]
        secret: Secret,
    },
}

#[derive(Debug, Serialize)]
struct KeyView {
    address: String,
    kind: &'static str,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    cx.home.prepare()?;
    let (verb, passphrase) = match &args.command {
        Command::Lock => ("lock", String::new()),
        Command::Unlock { secret } => ("unlock", secret.text(cx)?),
        _ => return tokio::task::block_in_place(|| keys(cx, args)),
    };
    let daemon = Client::need(cx).await?;
    let told = daemon.operate_wallet(verb, &WalletRequest { passphrase }).await?;
    output::note(&format!("{} of {} keys can sign now", told.unlocked, told.keys));
    Ok(())
}

/// What needs no daemon.
fn keys(cx: &Context, args: Args) -> anyhow::Result<()> {
    let wallet = chain::wallet(cx)?;
    if !cx.home.wallet_policy().exists() {
        std::fs::write(cx.home.wallet_policy(), chain::NOTHING)?;
    }
    match args.command {
        Command::List { json } => {
            let keys: Vec<KeyView> = wallet
                .list()
                .into_iter()
                .map(|key| KeyView {
                    address: key.address.to_string(),
                    kind: match key.key_type {
                        KeyType::Bls => "bls",
                        KeyType::Secp256k1 => "secp256k1",
                    },
                })
                .collect();
            if json {
                return output::json(&keys);
            }
            let rows = keys.into_iter().map(|key| vec![key.address, key.kind.to_owned()]);
            output::table(&["address", "kind"], rows.collect());
            Ok(())
        }
        Command::New { kind, secret } => {
            let kind = match kind {
                Kinds::Bls => KeyType::Bls,
                Kinds::Secp256k1 => KeyType::Secp256k1,
            };
            let address = wallet.create(kind, &secret.read(cx)?)?;
            output::data(&address.to_string());
            restart(cx);
            Ok(())
        }
        Command::Import { file, secret } => {
            let mut text = Zeroizing::new(String::new());
            match &file {
                Some(path) => *text = std::fs::read_to_string(path)?,
                None => drop(std::io::stdin().lock().take(1 << 16).read_to_string(&mut text)?),
            }
            let address = wallet.import(&LotusKey::parse(text.trim())?, &secret.read(cx)?)?;
            output::data(&address.to_string());
            restart(cx);
            Ok(())
        }
        // Asked of the daemon.
        Command::Lock | Command::Unlock { .. } => Ok(()),
        Command::Export { address, secret } => {
            let address = parse_key_address(&address)?;
            output::data(&wallet.export(&address, &secret.read(cx)?)?.export());
            Ok(())
        }
    }
}

/// A daemon that runs knows only the keys that were there when it started.
fn restart(cx: &Context) {
    if cx.home.listening().is_some() {
        output::note("`sealflow wallet unlock` lets the running daemon use the key");
    }
}

impl Secret {
    fn read(&self, cx: &Context) -> anyhow::Result<Passphrase> {
        chain::passphrase(&self.file(cx)?)
    }

    /// The first line of the file, for the daemon.
    fn text(&self, cx: &Context) -> anyhow::Result<String> {
        let file = self.file(cx)?;
        // Refuses a file that others may read.
        drop(chain::passphrase(&file)?);
        let text = Zeroizing::new(std::fs::read_to_string(&file)?);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn file(&self, cx: &Context) -> anyhow::Result<PathBuf> {
        let configured = cx
            .config
            .wallet
            .passphrase_file
            .as_ref()
            .map(|path| cx.home.resolve(path));
        let path = self.passphrase_file.clone().or(configured).ok_or_else(|| {
            CliError::new(Kind::Usage, "no passphrase")
                .hint("write one into a file that only you can read, and give --passphrase-file or set [wallet] passphrase_file in config.toml")
        })?;
        Ok(path)
    }
}
