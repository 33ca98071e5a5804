//! A sector of a test: sealed by the library, and again with the tested executor for the stages that it claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sealflow_engine::dispatcher::{Handle, NewRun};
use sealflow_engine::event::By;
use sealflow_engine::executor::machine_of;
use sealflow_stages::types::SealProof;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::workflows::{PROVED, SAME, STORED, once};
use super::{Check, Program, Verdict};
use crate::builtin::{self, Found};
use crate::commands::Screen;
use crate::config::{Config, Workers as WorkersConfig};
use crate::credentials::Credentials;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::home::Home;
use crate::machine::{Executor, Kind as ExecutorKind, Profile};
use crate::view::{self, RunDetail, StepView};
use crate::wire::Engine;
use crate::{output, wire, workers};

/// The tested executor, and what its machine is called if it is on another.
const TESTED: &str = "tested";

/// Who runs what the tested executor does not claim.
const HERE: &str = "here";

/// The sector with data, and the one of committed capacity.
const SECTORS: (u64, u64) = (1, 2);

/// How long an executor may take to connect for the first time, and again.
const CONNECTS: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(60));

/// How long nothing may run before a run counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// A trial of one executor.
pub(super) struct Trial<'a> {
    cx: &'a Context,
    proof: SealProof,
    folder: tempfile::TempDir,
    data: PathBuf,
}

impl<'a> Trial<'a> {
    /// Makes the data of a sector.
    pub(super) fn new(cx: &'a Context, proof: SealProof) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the test")?;
        let data = folder.path().join("data.bin");
        let bytes = usize::try_from(proof.data_bytes() * 3 / 5)?;
        let pattern = |at: usize| at.wrapping_mul(2_654_435_761).to_le_bytes()[2];
        std::fs::write(&data, (0..bytes).map(pattern).collect::<Vec<u8>>())?;
        Ok(Self {
            cx,
            proof,
            folder,
            data,
        })
    }

    /// A home for one installation of the test.
    fn context(&self, name: &str) -> anyhow::Result<Context> {
        let home = Home::find(Some(&self.folder.path().join(name)))?;
        home.prepare()?;
        let config = Config {
            network: self.cx.config.network,
            ..Config::default()
        };
        Ok(Context {
            home,
            config,
            ..self.cx.clone()
        })
    }

    /// Holds a program against the library, for the stages that it claims.
    pub(super) async fn program(
        &self,
        program: &Program,
        claimed: &BTreeSet<String>,
    ) -> anyhow::Result<Vec<Check>> {
        let cx = self.context("program")?;
        let executor = Executor {
            kind: ExecutorKind::ExtProcessor,
            stages: Some(claimed.iter().cloned().collect()),
            command: program.command.clone(),
            env: program.env.clone(),
            ready_timeout: program.ready,
            ..Executor::default()
        };
        let others = others(&cx, claimed);
        write_profile(&cx, [(TESTED, executor), (HERE, others)])?;
        let mut engine = Engine::start(&cx).await?;
        let handle = engine.handle.clone();
        let checked = tokio::select! {
            checked = Box::pin(self.sectors(&handle, claimed)) => checked,
            error = engine.failed() => return Err(error),
        };
        drop(handle);
        engine.stop().await?;
        checked
    }

    /// Waits for an executor, and holds it against the library.
    pub(super) async fn remote(&self, address: SocketAddr, only: &[String]) -> anyhow::Result<Vec<Check>> {
        let mut cx = self.context("remote")?;
        cx.config.workers = WorkersConfig {
            listen: Some(address),
            ..WorkersConfig::default()
        };
        let mut credentials = Credentials::default();
        let token = self.folder.path().join("token");
        sealflow_engine::durable::write_secret(&token, credentials.token(TESTED, None).as_bytes())?;
        credentials.write(&cx.home.credentials())?;
        output::note(&format!(
            "waiting for an executor: it is to register as worker `{TESTED}` at http://{address}, with the token in {}",
            token.display()
        ));
        let (offered, _) = self
            .connected(&cx, CONNECTS.0, async |_, offered| Ok(offered))
            .await?;
        let mut checks = vec![Check::new(
            "",
            "registers",
            Verdict::Ok,
            offered.iter().cloned().collect::<Vec<_>>().join(", "),
        )];
        let claimed: BTreeSet<String> = offered
            .iter()
            .filter(|stage| only.is_empty() || only.contains(stage))
            .cloned()
            .collect();
        let registry = wire::registry(&cx);
        let bound: Vec<&String> = offered
            .iter()
            .filter(|stage| registry.info(stage).is_some_and(|info| info.bound))
            .collect();
        if !bound.is_empty() {
            for stage in bound {
                let why = "it works in the sector's folder, so all such stages must be on one machine with the data; test its \
                           program there, by `executor test -- COMMAND`, and offer the other stages alone here";
                checks.push(Check::new(stage, "result", Verdict::NotTested, why));
            }
            return Ok(checks);
        }
        write_profile(&cx, [(HERE, others(&cx, &claimed))])?;
        // The daemon was restarted: an executor comes back by itself.
        let work = async |handle: Handle, _| Box::pin(self.sectors(&handle, &claimed)).await;
        let (results, seconds) = self.connected(&cx, CONNECTS.1, work).await?;
        let again = format!("{seconds:.1} s after the daemon's restart");
        checks.push(Check::new("", "comes back", Verdict::Ok, again));
        checks.extend(results);
        Ok(checks)
    }

    /// Runs an engine that workers connect to, until the tested one has and the work is done. Says how long it took to
    /// connect.
    async fn connected<T>(
        &self,
        cx: &Context,
        within: Duration,
        work: impl AsyncFnOnce(Handle, BTreeSet<String>) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, f64)> {
        let mut engine = Engine::start(cx).await?;
        let stop = CancellationToken::new();
        let server = workers::start(cx, &engine, &stop).await?;
        let handle = engine.handle.clone();
        let begun = Instant::now();
        let done = async {
            let offered = loop {
                let all = handle.engine().await?.executors.into_iter();
                let tested = all.filter(|view| machine_of(&view.spec.name) == Some(TESTED));
                let offered: BTreeSet<String> = tested
                    .flat_map(|view| view.spec.stages.unwrap_or_default())
                    .map(|stage| stage.to_string())
                    .collect();
                if !offered.is_empty() {
                    break offered;
                }
                if begun.elapsed() > within {
                    let text = format!("no executor registered within {} s", within.as_secs());
                    return Err(CliError::new(Kind::CheckFailed, text).into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            let seconds = begun.elapsed().as_secs_f64();
            Ok((work(handle.clone(), offered).await?, seconds))
        };
        let done = tokio::select! {
            done = done => done,
            error = engine.failed() => return Err(error),
        };
        stop.cancel();
        if let Some(server) = server {
            server.end().await;
        }
        drop(handle);
        engine.stop().await?;
        done
    }

    /// Sends sectors through all workflows that have a claimed stage, and judges each of those.
    async fn sectors(&self, handle: &Handle, claimed: &BTreeSet<String>) -> anyhow::Result<Vec<Check>> {
        let has = |stages: &[&str]| stages.iter().any(|stage| claimed.contains(*stage));
        let reference = Box::pin(self.reference()).await?;
        let end = if has(&["c2"]) { PROVED } else { STORED };
        let (first, second) = SECTORS;
        let round = Round { handle, claimed };
        let seal = |sector, pieces: Value| json!({ "miner": "f01000", "sector": sector, "proof_type": self.proof.to_string(), "pieces": pieces });
        let sealed = round
            .run(
                &format!("{SAME}{end}"),
                seal(first, json!([{ "path": self.data }])),
            )
            .await?;
        let mut checks = round.judge(&sealed, Some(&reference));
        if sealed.summary.status != "succeeded" {
            return Ok(round.unreached(checks));
        }
        if has(&["unseal"]) {
            let back = self.folder.path().join("unsealed");
            let params = json!({ "miner": "f01000", "sector": first, "output": back });
            let run = round.run(&once("unseal")?, params).await?;
            let mut judged = round.judge(&run, None);
            if run.summary.status == "succeeded" && std::fs::read(&back)? != std::fs::read(&self.data)? {
                for check in &mut judged {
                    check.verdict = Verdict::Failed;
                    "what it gave back is not what was sealed".clone_into(&mut check.found);
                }
            }
            checks.extend(judged);
        }
        if has(&["window_post", "window_post_vanilla", "window_post_snark"]) {
            let params = json!({ "miner": "f01000", "deadline": 3, "sectors": [first] });
            checks.extend(round.judge(&round.run(&once("window_post_offline")?, params).await?, None));
        }
        if has(&["winning_post"]) {
            let params = json!({ "miner": "f01000", "sectors": [first] });
            checks.extend(round.judge(&round.run(&once("winning_post_offline")?, params).await?, None));
        }
        if has(&["snap_encode", "snap_partition_proofs", "snap_prove"]) {
            let empty = round
                .run(&format!("{SAME}{STORED}"), seal(second, json!(["pledge"])))
                .await?;
            if empty.summary.status == "succeeded" {
                let params =
                    json!({ "miner": "f01000", "sector": second, "pieces": [{ "path": self.data }] });
                checks.extend(round.judge(&round.run(&once("snap_up_offline")?, params).await?, None));
            }
        }
        Ok(round.unreached(checks))
    }

    /// What the library makes of the same sector.
    async fn reference(&self) -> anyhow::Result<RunDetail> {
        output::note("the library's own results");
        let cx = self.context("library")?;
        let mut engine = Engine::start(&cx).await?;
        let handle = engine.handle.clone();
        let none = BTreeSet::new();
        let round = Round {
            handle: &handle,
            claimed: &none,
        };
        let params = json!({
            "miner": "f01000", "sector": SECTORS.0, "proof_type": self.proof.to_string(), "pieces": [{ "path": self.data }],
        });
        let run = tokio::select! {
            run = async { round.run(&format!("{SAME}{STORED}"), params).await } => run?,
            error = engine.failed() => return Err(error),
        };
        drop(handle);
        engine.stop().await?;
        anyhow::ensure!(
            run.summary.status == "succeeded",
            "the library cannot seal here: {}; see `sealflow doctor`",
            run.steps.iter().find_map(told).unwrap_or_default()
        );
        Ok(run)
    }
}

/// An executor in this process for every stage that is not claimed.
fn others(cx: &Context, claimed: &BTreeSet<String>) -> Executor {
    let registry = wire::registry(cx);
    let names = registry.iter().map(|info| info.name.to_string());
    Executor {
        stages: Some(names.filter(|name| !claimed.contains(name)).collect()),
        ..Executor::default()
    }
}

fn write_profile<const N: usize>(cx: &Context, executors: [(&str, Executor); N]) -> anyhow::Result<()> {
    let named = executors.into_iter().map(|(name, one)| (name.to_owned(), one));
    let profile = Profile {
        executors: named.collect::<BTreeMap<_, _>>(),
        ..Profile::default()
    };
    let text = toml::to_string(&profile)?;
    std::fs::write(cx.home.machine(), text).context("the machine profile of the test")
}

/// Runs on one engine.
struct Round<'a> {
    handle: &'a Handle,
    claimed: &'a BTreeSet<String>,
}

impl Round<'_> {
    /// Runs a workflow until it has ended, has failed, or goes no further.
    async fn run(&self, source: &str, params: Value) -> anyhow::Result<RunDetail> {
        let found = Found {
            label: "a workflow of the test".to_owned(),
            path: None,
            text: source.to_owned(),
        };
        let (graph, _) = builtin::graph(&found, self.handle.registry(), Path::new(""))?;
        let new = NewRun {
            graph,
            source: found.text,
            params,
            key: None,
            priority: None,
            by: By::default(),
        };
        let run = self.handle.start_run(new).await?;
        let mut screen = Screen::default();
        let (mut active, mut before) = (Instant::now(), Vec::new());
        loop {
            let live = self.handle.live(&run).await?;
            let journal: &Arc<_> = self.handle.journal();
            let detail = view::detail(&**journal, &run, Some(&live)).await?;
            let detail = detail.with_context(|| format!("run {run} is gone"))?;
            screen.show(&detail);
            let states: Vec<String> = detail.steps.iter().map(|step| step.status.clone()).collect();
            if states != before || states.iter().any(|state| state == "running") {
                (active, before) = (Instant::now(), states);
            }
            if detail.summary.status != "running" || active.elapsed() > STUCK {
                return Ok(detail);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What became of the claimed stages of a run; with a reference their outputs must be the same.
    fn judge(&self, run: &RunDetail, reference: Option<&RunDetail>) -> Vec<Check> {
        let of_tested = |step: &&StepView| {
            step.stage
                .as_ref()
                .is_some_and(|stage| self.claimed.contains(stage))
        };
        let is_item = |step: &StepView| step.step.contains('[');
        // Of a step with items the items are what ran.
        let has_items = |step: &StepView| {
            let items = format!("{}[", step.step);
            run.steps.iter().any(|other| other.step.starts_with(&items))
        };
        let tested = run.steps.iter().filter(of_tested);
        let tested = tested.filter(|step| is_item(step) || !has_items(step));
        tested
            .filter(|step| step.status != "pending")
            .map(|step| {
                let stage = step.stage.as_deref().unwrap_or_default();
                let (verdict, found) = match self.verdict(run, step, reference) {
                    Ok(found) => (Verdict::Ok, found),
                    Err(why) => (Verdict::Failed, why),
                };
                Check::new(stage, "result", verdict, found)
            })
            .collect()
    }

    fn verdict(
        &self,
        run: &RunDetail,
        step: &StepView,
        reference: Option<&RunDetail>,
    ) -> Result<String, String> {
        if step.status != "succeeded" {
            return Err(told(step).unwrap_or_else(|| format!("it is {}", step.status)));
        }
        let on = step.executor.as_deref().unwrap_or_default();
        if on != TESTED && machine_of(on) != Some(TESTED) {
            return Err(format!("it ran on {on}"));
        }
        let same = reference.and_then(|run| run.steps.iter().find(|other| other.step == step.step));
        if let Some(same) = same {
            let none = Value::Null;
            let (ours, theirs) = (
                same.output.as_ref().unwrap_or(&none),
                step.output.as_ref().unwrap_or(&none),
            );
            return match difference("", ours, theirs) {
                None => Ok(format!(
                    "the same as the library's, {:.1} s for its {:.1}",
                    step.seconds, same.seconds
                )),
                Some(what) => Err(format!("not the library's: {what}")),
            };
        }
        match run.steps.iter().find(|step| step.step.starts_with("verify_")) {
            Some(verified) if verified.status != "succeeded" => {
                let why = told(verified).unwrap_or_else(|| format!("it is {}", verified.status));
                Err(format!("{}: {why}", verified.step))
            }
            Some(verified) => Ok(format!("{} verified it, {:.1} s", verified.step, step.seconds)),
            None => Ok(format!("right, {:.1} s", step.seconds)),
        }
    }

    /// Adds the claimed stages of which nothing was seen.
    fn unreached(&self, mut checks: Vec<Check>) -> Vec<Check> {
        for stage in self.claimed {
            if !checks
                .iter()
                .any(|check| check.stage == *stage && check.check == "result")
            {
                let why = "no run came so far, or no workflow of the test has it";
                checks.push(Check::new(stage, "result", Verdict::NotTested, why));
            }
        }
        checks
    }
}

/// Why a step is not further.
fn told(step: &StepView) -> Option<String> {
    let failure = step.failure.as_ref();
    let failure = failure.map(|failure| format!("{} ({}): {}", failure.code, failure.class, failure.message));
    failure.or_else(|| step.blocked.clone())
}

/// Where two outputs differ. The places of files differ always, and why a store was chosen tells of its free space.
fn difference(at: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let is_artifact = ours.contains_key("store") && ours.contains_key("key");
            let is_choice = ours.contains_key("store") && ours.contains_key("why");
            let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            names
                .into_iter()
                .filter(|name| !(is_artifact && (*name == "store" || *name == "key")))
                .filter(|name| !(is_choice && *name == "why"))
                .find_map(|name| {
                    let part = format!("{at}.{name}");
                    difference(
                        &part,
                        ours.get(name).unwrap_or(&Value::Null),
                        theirs.get(name).unwrap_or(&Value::Null),
                    )
                })
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let pairs = ours.iter().zip(theirs).enumerate();
            pairs
                .into_iter()
                .find_map(|(ix, (ours, theirs))| difference(&format!("{at}[{ix}]"), ours, theirs))
        }
        // Absolute paths are places too.
        (Value::String(ours), Value::String(theirs)) if ours.starts_with('/') && theirs.starts_with('/') => {
            None
        }
        _ if ours == theirs => None,
        _ => {
            let short = |value: &Value| value.to_string().chars().take(80).collect::<String>();
            Some(format!(
                "`{}` is {}, and the library's is {}",
                at.trim_start_matches('.'),
                short(theirs),
                short(ours)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_compared_but_for_the_places_of_files() {
        let artifact = |key: &str, digest: &str| json!({ "file": { "store": "scratch", "key": key, "bytes": 3, "digest": digest } });
        assert_eq!(difference("", &artifact("a", "x"), &artifact("b", "x")), None);
        assert_eq!(
            difference("", &artifact("a", "x"), &artifact("a", "y")).unwrap(),
            "`file.digest` is \"y\", and the library's is \"x\""
        );
        assert!(difference("", &json!({ "store": 1 }), &json!({ "store": 2 })).is_some());
        assert!(difference("", &json!([1]), &json!([1, 2])).is_some());
        assert_eq!(
            difference("", &json!({ "path": "/a/x" }), &json!({ "path": "/b/x" })),
            None
        );
    }
}
