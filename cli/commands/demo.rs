//! `sealflow demo`: seals a small sector with real proofs, brings it onto a network of its own and gives the data back. One
//! process, nothing to set up. Killed and started again, it goes on where it was.

mod network;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use sealflow_chain::commitment;
use sealflow_chain::messager::Messager;
use sealflow_chain::node::Client;
use sealflow_chain::types::Address;
use sealflow_engine::core::Verb;
use sealflow_engine::dispatcher::{Handle, NewRun};
use sealflow_engine::durable;
use sealflow_engine::event::By;
use sealflow_engine::id::RunId;
use sealflow_engine::run::RunStatus;
use sealflow_stages::types::SealProof;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::network::Network;
use super::run::{Screen, verdict, who};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::numbers::Numbers;
use crate::view::{self, RunDetail, StepView};
use crate::wire::Engine;
use crate::{builtin, output};

/// Seal a small sector with real proofs, bring it onto a network of its own, and give the data back
///
/// Needs no daemon and no node: the network is a devnet in this process, which verifies every proof and signature, and
/// everything is in the folder `demo` of the data directory. The first time, Groth16 parameters are generated while the
/// sector is sealed. Kill it at any moment and start it again: it goes on where it was.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to seal [default: a sample]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The sector's size: 2KiB or 8MiB with parameters generated here
    #[arg(long, default_value = "2KiB", value_name = "SIZE")]
    sector_size: ByteSize,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    run: String,
    miner: String,
    sector: u64,
    proof_type: String,
    comm_d: String,
    comm_r: String,
    proof_bytes: usize,
    verified: bool,
    unsealed_matches_input: bool,
    precommit_cid: String,
    commit_cid: String,
    /// Whether the miner's state on the chain has the sector with this replica.
    on_chain: bool,
    activation_epoch: i64,
    expiration_epoch: i64,
    deadline: u64,
    partition: u64,
    steps: Vec<StepReport>,
    resumed: bool,
}

#[derive(Debug, Serialize)]
struct StepReport {
    step: String,
    attempts: u32,
    seconds: f64,
}

/// The stages that wait for the chain, or send to it.
const ON_CHAIN: [&str; 4] = ["chain_ticket", "submit_precommit", "chain_seed", "submit_commit"];

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    let proof = crate::sizes::seal_proof(args.sector_size)?;
    cx.home.prepare()?;
    let file = match args.file {
        Some(file) if !file.is_file() => {
            return Err(not_found(format!("there is no file {}", file.display())));
        }
        Some(file) => std::path::absolute(file)?,
        None => sample(&cx)?,
    };
    let bytes = std::fs::metadata(&file)?.len();
    if bytes == 0 || bytes > proof.data_bytes() {
        let text = format!(
            "{} has {bytes} bytes; a {} sector holds 1 to {}",
            file.display(),
            args.sector_size,
            proof.data_bytes()
        );
        return Err(CliError::new(Kind::Usage, text)
            .hint("choose another --file or a larger --sector-size")
            .into());
    }
    let digest = sha256(&file)?;
    if !args.json {
        output::note(&format!(
            "sealing {} ({bytes} bytes) into a {} sector in {}",
            file.display(),
            args.sector_size,
            cx.home.root().display()
        ));
    }
    let (network, cx) = Network::start(&cx).await?;
    let mut engine = Engine::start(&cx).await?;
    let handle = engine.handle.clone();
    let parts = engine.chain.as_ref().context("the demo has no chain")?;
    let (client, messager) = (parts.client.clone(), parts.messager.clone());
    let demo = Demo {
        cx: &cx,
        handle: &handle,
        network: &network,
        client: &client,
        messager: &messager,
        numbers: &Numbers::new(handle.clone(), Some(client.clone())),
    };
    let work = demo.seal_and_unseal(proof, &file, &digest);
    let report = tokio::select! {
        report = work => report,
        error = engine.failed() => return Err(error),
    };
    engine.stop().await?;
    network.stop().await?;
    let report = report?;
    if args.json {
        return output::json(&report);
    }
    tell(&cx, &report);
    Ok(())
}

/// What came of it, and where to look further.
fn tell(cx: &Context, report: &Report) {
    let choose = |holds: bool, yes: &'static str, no: &'static str| if holds { yes } else { no };
    output::data(&format!(
        "sealed    {}\nproof     {} bytes, {}\ncomm_d    {}\ncomm_r    {}\non chain  {}\n          pre-commit {}\n          proof      {}\nunsealed  {}\n",
        report.proof_type,
        report.proof_bytes,
        choose(report.verified, "verified", "NOT verified"),
        report.comm_d,
        report.comm_r,
        if report.on_chain {
            format!(
                "sector {} of {}, active from epoch {}, proved at deadline {}",
                report.sector, report.miner, report.activation_epoch, report.deadline
            )
        } else {
            "the chain does NOT show the sector".to_owned()
        },
        report.precommit_cid,
        report.commit_cid,
        choose(
            report.unsealed_matches_input,
            "byte for byte the same as the input",
            "DIFFERS from the input"
        ),
    ));
    let home = cx.home.root().display();
    output::note(&format!(
        "look at the run:   sealflow --home {home} run show {}",
        report.run
    ));
    output::note(&format!("at the network:    {} &", network::command(cx)));
    output::note(&format!(
        "and at its miner:  sealflow --home {home} miner info {}",
        report.miner
    ));
}

/// A text to seal, if the user brings none.
fn sample(cx: &Context) -> anyhow::Result<PathBuf> {
    let path = cx.home.root().join("sample.txt");
    if !path.exists() {
        let text: String = (1..=24)
            .map(|line| format!("line {line:2} of the sample that sealflow demo seals\n"))
            .collect();
        durable::write(&path, text.as_bytes())?;
    }
    Ok(path)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    std::io::copy(&mut open, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn by() -> By {
    By {
        who: who(),
        why: "demo".to_owned(),
    }
}

/// What a demo works with.
struct Demo<'a> {
    cx: &'a Context,
    handle: &'a Handle,
    network: &'a Network,
    client: &'a Client,
    messager: &'a Messager,
    numbers: &'a Numbers,
}

impl Demo<'_> {
    async fn seal_and_unseal(&self, proof: SealProof, file: &Path, digest: &str) -> anyhow::Result<Report> {
        let miner = self
            .network
            .miner(self.client, self.messager, proof.sector_bytes())
            .await?;
        let (key, resumed) = next_demo(self.handle, proof, digest).await?;
        // The sector is the miner's next.
        let params = json!({
            "miner": miner.to_string(), "proof_type": proof.to_string(), "pieces": [{ "path": file }],
        });
        let seal = self.start("seal", params, key.clone()).await?;
        let sealed = self.finish(&seal).await?;
        let sector = sealed.params["sector"]
            .as_u64()
            .context("the sector has no number")?;
        let output_path = self.cx.home.root().join(format!("{seal}.unsealed"));
        let params = json!({ "miner": miner.to_string(), "sector": sector, "output": output_path });
        let unseal = self.start("unseal", params, format!("{key}:unseal")).await?;
        let unsealed = self.finish(&unseal).await?;
        let steps = sealed.steps.iter().chain(&unsealed.steps).map(|step| StepReport {
            step: step.step.clone(),
            attempts: step.attempts,
            seconds: step.seconds,
        });
        let given = |step: &str, field: &str| -> Value {
            let step = sealed.steps.iter().find(|found| found.step == step);
            let output = step.and_then(|step| step.output.as_ref());
            output.map(|output| output[field].clone()).unwrap_or_default()
        };
        let text = |step: &str, field: &str| given(step, field).as_str().unwrap_or_default().to_owned();
        let comm_r = text("pc2", "comm_r");
        Ok(Report {
            run: seal.to_string(),
            miner: miner.to_string(),
            sector,
            proof_type: proof.to_string(),
            comm_d: text("tree_d", "comm_d"),
            proof_bytes: text("c2", "proof").len() / 2,
            verified: given("verify_seal", "verified") == true,
            unsealed_matches_input: sha256(&output_path)? == digest,
            precommit_cid: text("submit_precommit", "precommit_cid"),
            commit_cid: text("submit_commit", "commit_cid"),
            on_chain: self.on_chain(&miner, sector, &comm_r).await?,
            comm_r,
            activation_epoch: given("submit_commit", "activation_epoch")
                .as_i64()
                .unwrap_or_default(),
            expiration_epoch: given("submit_commit", "expiration_epoch")
                .as_i64()
                .unwrap_or_default(),
            deadline: given("submit_commit", "deadline").as_u64().unwrap_or_default(),
            partition: given("submit_commit", "partition").as_u64().unwrap_or_default(),
            steps: steps.collect(),
            resumed,
        })
    }

    /// Whether the chain has the sector, with this replica.
    async fn on_chain(&self, miner: &Address, sector: u64, comm_r: &str) -> anyhow::Result<bool> {
        let head = self.client.chain_head().await?;
        let Some(found) = self.client.sector(miner, sector, &head.key).await? else {
            return Ok(false);
        };
        Ok(hex::encode(commitment::comm_r(&found.sealed_cid)?) == comm_r)
    }

    async fn start(&self, workflow: &str, params: Value, key: String) -> anyhow::Result<RunId> {
        let (cx, handle) = (self.cx, self.handle);
        let found = builtin::find(workflow, &cx.home.workflows())?;
        let (graph, _) = builtin::graph(&found, handle.registry(), &cx.home.workflows())?;
        let run = self
            .numbers
            .start(NewRun {
                graph,
                source: found.text,
                params,
                key: Some(key),
                priority: None,
                by: by(),
            })
            .await?;
        let row = handle.journal().run(&run).await?;
        if row.is_some_and(|row| row.status == RunStatus::Paused) {
            // Whatever paused it, the user started the demo again to have it go on.
            handle.operate(&run, Verb::Resume, by()).await?;
        }
        Ok(run)
    }

    /// Waits for the end of a run, and shows how it goes. The chain's time stands while nothing of the run waits for it.
    async fn finish(&self, run: &RunId) -> anyhow::Result<RunDetail> {
        let mut screen = Screen::default();
        loop {
            let live = self.handle.live(run).await?;
            let detail = view::detail(&**self.handle.journal(), run, Some(&live)).await?;
            let detail = detail.with_context(|| format!("run {run} is gone"))?;
            screen.show(&detail);
            if detail.summary.status != "running" {
                verdict(&detail).map_err(|error| match error.downcast::<CliError>() {
                    Ok(error) => error
                        .hint("mend that and start the demo again: it goes on where it was")
                        .into(),
                    Err(error) => error,
                })?;
                return Ok(detail);
            }
            self.network.time(detail.steps.iter().any(needs_chain));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Whether a step waits for the chain to go on.
fn needs_chain(step: &StepView) -> bool {
    let on_chain = step
        .stage
        .as_deref()
        .is_some_and(|stage| ON_CHAIN.contains(&stage));
    on_chain && ["ready", "running", "waiting"].contains(&step.status.as_str())
}

/// The key of the demo that is under way for this file, or of a new one.
async fn next_demo(handle: &Handle, proof: SealProof, digest: &str) -> anyhow::Result<(String, bool)> {
    for count in 0_u64.. {
        let key = format!("demo:{proof}:{}:{count}", &digest[..16]);
        let open = |run: Option<RunId>| async move {
            match run {
                None => anyhow::Ok(None),
                Some(run) => Ok(handle.journal().run(&run).await?.map(|row| row.status)),
            }
        };
        let seal = open(handle.journal().find_key(&key).await?).await?;
        let unseal = open(handle.journal().find_key(&format!("{key}:unseal")).await?).await?;
        match (seal, unseal) {
            (None, _) => return Ok((key, false)),
            (Some(seal), _) if !seal.is_final() => return Ok((key, true)),
            (Some(RunStatus::Succeeded), None) => {
                return Ok((key, true));
            }
            (_, Some(unseal)) if !unseal.is_final() => return Ok((key, true)),
            _ => {}
        }
    }
    anyhow::bail!("no key is left for a demo")
}
