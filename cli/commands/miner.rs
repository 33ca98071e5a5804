//! `sealflow miner`: make a miner, and see what the chain knows of it.

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Subcommand, ValueEnum};
use sealflow_chain::control::{self, Purpose};
use sealflow_chain::params::{Call, MinerCreation, create_miner};
use sealflow_chain::policy::DEADLINES;
use sealflow_chain::types::{Address, RegisteredPoStProof, power};
use sealflow_chain::{address, amount};
use sealflow_stages::types::PostProof;
use serde::Serialize;

use crate::api::{Client, MessageView, PushRequest};
use crate::chain;
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::output;

/// Make a miner on the chain, and show what the chain knows of one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a miner: one message, whose value is the network's deposit. Prints its address
    Create {
        /// Who owns it, and pays
        #[arg(long)]
        owner: String,
        /// Who sends its messages; a BLS key (f3…) that the network knows [default: the owner]
        #[arg(long)]
        worker: Option<String>,
        /// The size of its sectors
        #[arg(long, default_value = "32GiB", value_name = "SIZE")]
        sector_size: ByteSize,
        /// The caller's name for it: the same name makes no second one
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
    },
    /// Say who would send a message of a miner now, and why
    Senders {
        /// The miner
        miner: String,
        /// What the message is for
        #[arg(long = "for", value_enum, default_value = "precommit")]
        purpose: PurposeName,
        /// What the message carries
        #[arg(long, value_name = "AMOUNT", default_value = "0 FIL")]
        value: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a miner as the chain has it
    Info {
        /// The miner
        miner: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Serialize)]
struct InfoView {
    miner: String,
    owner: String,
    worker: String,
    control: Vec<String>,
    sector_size: u64,
    available_attofil: String,
    raw_power: String,
    quality_adjusted_power: String,
    sectors: u64,
    active: u64,
    faulty: u64,
    deadline: u64,
    deadlines: u64,
    epoch: i64,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Create {
            owner,
            worker,
            sector_size,
            key,
        } => create(cx, &owner, worker.as_deref(), sector_size, key).await,
        Command::Senders {
            miner,
            purpose,
            value,
            json,
        } => senders(cx, &miner, purpose, &value, json).await,
        Command::Info { miner, json } => info(cx, &miner, json).await,
    }
}

/// What a message is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PurposeName {
    /// Pre-commits
    Precommit,
    /// Proofs of sectors, and updates
    Commit,
    /// Window proofs, faults and recoveries
    Post,
}

#[derive(Debug, Serialize)]
struct SenderView {
    address: String,
    chosen: bool,
    balance_attofil: String,
    reason: String,
}

async fn senders(
    cx: &Context,
    miner: &str,
    purpose: PurposeName,
    value: &str,
    json: bool,
) -> anyhow::Result<()> {
    let usage = |text: String| CliError::new(Kind::Usage, text);
    let miner = Address::new_id(
        address::parse_miner(miner).map_err(|error| CliError::new(Kind::Usage, error.to_string()))?,
    );
    let value = amount::parse(value).map_err(|error| usage(error.to_string()))?;
    let purpose = match purpose {
        PurposeName::Precommit => Purpose::Precommit,
        PurposeName::Commit => Purpose::Commit,
        PurposeName::Post => Purpose::Post,
    };
    let nodes = chain::client(cx)?.ok_or_else(no_chain)?;
    let head = nodes.chain_head().await?;
    let book = cx.config.chain.control.book()?;
    let choice = control::choose(&nodes, &miner, purpose, &value, &book, &head.key).await?;
    let views: Vec<SenderView> = choice
        .candidates
        .iter()
        .map(|candidate| SenderView {
            address: candidate.address.to_string(),
            chosen: candidate.address == choice.from,
            balance_attofil: candidate.balance.atto().to_string(),
            reason: choice.reason(candidate),
        })
        .collect();
    if json {
        return output::json(&views);
    }
    let rows = views.into_iter().map(|view| {
        let chosen = if view.chosen { "sends" } else { "" };
        vec![view.address, chosen.to_owned(), view.reason]
    });
    output::table(&["address", "", "why"], rows.collect());
    Ok(())
}

async fn create(
    cx: &Context,
    owner: &str,
    worker: Option<&str>,
    size: ByteSize,
    key: Option<String>,
) -> anyhow::Result<()> {
    let usage = |text: String| CliError::new(Kind::Usage, text);
    let key_address = |text: &str| address::parse(text).map_err(|error| usage(error.to_string()));
    let (owner, worker) = (key_address(owner)?, key_address(worker.unwrap_or(owner))?);
    let call = creation(owner, worker, size.as_u64())?;
    let nodes = chain::client(cx)?.ok_or_else(no_chain)?;
    let head = nodes.chain_head().await?;
    let deposit = nodes.creation_deposit(&head.key).await?;
    let api = Client::need(cx).await?;
    let key = key.unwrap_or_else(|| format!("miner/{owner}/{}", crate::span::now_ms()));
    let push = PushRequest {
        key: key.clone(),
        from: nodes.account_key(&owner, &head.key).await?.to_string(),
        to: address::POWER_ACTOR.to_string(),
        value_attofil: deposit.atto().to_string(),
        method: call.number(),
        params: hex::encode(call.params()?.bytes()),
        expires: None,
    };
    api.push_message(&push).await?;
    output::note(&format!("message {key}: waiting until it is final"));
    let landed = ended(&api, &key).await?;
    let returned = hex::decode(landed.returned.unwrap_or_default())?;
    output::data(&made(&returned)?.to_string());
    Ok(())
}

/// The message that makes a miner whose sectors have so many bytes.
pub(super) fn creation(owner: Address, worker: Address, bytes: u64) -> anyhow::Result<Call> {
    let proof = PostProof::window(bytes).ok_or_else(|| crate::sizes::unknown(ByteSize(bytes)))?;
    // The window types are numbered by size: 10 to 14.
    let order = [2 << 10, 8 << 20, 512 << 20, 32 << 30, 64 << 30];
    let at = order
        .iter()
        .position(|bytes| *bytes == proof.sector_bytes())
        .unwrap_or_default();
    let creation = MinerCreation {
        owner,
        worker,
        post_proof: RegisteredPoStProof::from(10 + i64::try_from(at)?),
        peer: Vec::new(),
        multiaddrs: Vec::new(),
    };
    Ok(create_miner(creation).map_err(|error| CliError::new(Kind::Usage, error.to_string()))?)
}

/// The miner that such a message made.
pub(super) fn made(returned: &[u8]) -> anyhow::Result<Address> {
    let made: power::CreateMinerReturn =
        sealflow_chain::message::returned(returned).context("what the network returned is not understood")?;
    Ok(made.id_address)
}

/// Waits for the end of a message.
async fn ended(api: &Client, key: &str) -> anyhow::Result<MessageView> {
    let mut told = String::new();
    loop {
        let one = api.message(key).await?;
        match one.state.as_str() {
            "final" if one.exit_code == Some(0) => return Ok(one),
            "final" => {
                let text = format!(
                    "the network refused it with exit code {}",
                    one.exit_code.unwrap_or_default()
                );
                return Err(CliError::new(Kind::Failed, text).into());
            }
            "failed" | "conflict" => {
                return Err(
                    CliError::new(Kind::Failed, format!("the message was given up: {}", one.note)).into(),
                );
            }
            _ => {}
        }
        if one.note != told {
            output::note(&format!("it waits: {}", one.note));
            told.clone_from(&one.note);
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

fn no_chain() -> anyhow::Error {
    let text = "no chain is configured";
    CliError::new(Kind::Config, text)
        .hint("name a node under [chain] in config.toml; `sealflow devnet` is one")
        .into()
}

async fn info(cx: &Context, text: &str, json: bool) -> anyhow::Result<()> {
    let id = address::parse_miner(text).map_err(|error| CliError::new(Kind::Usage, error.to_string()))?;
    let miner = Address::new_id(id);
    let nodes = chain::client(cx)?.ok_or_else(no_chain)?;
    let head = nodes.chain_head().await?;
    if nodes.actor(&miner, &head.key).await?.is_none() {
        return Err(not_found(format!("the network knows no {text}")));
    }
    let info = nodes.miner_info(&miner, &head.key).await?;
    let power = nodes.power(&miner, &head.key).await?;
    let deadline = nodes.proving_deadline(&miner, &head.key).await?;
    let (mut sectors, mut active, mut faulty) = (0, 0, 0);
    for index in 0..deadline.period_deadlines.min(DEADLINES) {
        for partition in nodes.partitions(&miner, index, &head.key).await? {
            sectors += partition.live_sectors.len();
            active += partition.active_sectors.len();
            faulty += partition.faulty_sectors.len();
        }
    }
    let view = InfoView {
        miner: miner.to_string(),
        owner: info.owner.to_string(),
        worker: info.worker.to_string(),
        control: info.control_addresses.iter().map(ToString::to_string).collect(),
        sector_size: info.sector_size,
        available_attofil: nodes
            .available_balance(&miner, &head.key)
            .await?
            .atto()
            .to_string(),
        raw_power: power.miner_power.raw_byte_power.to_string(),
        quality_adjusted_power: power.miner_power.quality_adj_power.to_string(),
        sectors,
        active,
        faulty,
        deadline: deadline.index,
        deadlines: deadline.period_deadlines,
        epoch: head.height,
    };
    if json {
        return output::json(&view);
    }
    let rows = [
        ("miner", view.miner),
        ("owner", view.owner),
        ("worker", view.worker),
        ("control", view.control.join(" ")),
        ("sector size", ByteSize(view.sector_size).to_string()),
        ("available", format!("{} attoFIL", view.available_attofil)),
        (
            "power",
            format!(
                "{} bytes raw, {} adjusted",
                view.raw_power, view.quality_adjusted_power
            ),
        ),
        (
            "sectors",
            format!(
                "{} live, {} active, {} faulty",
                view.sectors, view.active, view.faulty
            ),
        ),
        ("deadline", format!("{} of {}", view.deadline, view.deadlines)),
        ("epoch", view.epoch.to_string()),
    ];
    output::table(
        &["", ""],
        rows.into_iter()
            .map(|(what, is)| vec![what.to_owned(), is])
            .collect(),
    );
    Ok(())
}
