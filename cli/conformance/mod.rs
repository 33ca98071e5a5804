//! Whether a vendor's program is a good executor: `sealflow executor test`. It is held against the protocol, and what it
//! computes against what the library computes of the same sector.

mod protocol;
mod sector;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use sealflow_engine::stage::StageRegistry;
use sealflow_stages::types::SealProof;
use serde::Serialize;

use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::{output, wire};

/// What is tested.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// A program that speaks the ext-processor protocol.
    Program(Program),
    /// An executor that will connect here.
    Remote(SocketAddr),
}

/// A program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// How long it has until it is ready.
    pub(crate) ready: Duration,
}

impl Program {
    /// Its command for one stage.
    fn command(&self, stage: &str) -> Vec<String> {
        let parts = self.command.iter();
        parts
            .map(|part| part.replace(sealflow_executors::processor::STAGE, stage))
            .collect()
    }

    /// Whether it says for which stage it is started.
    fn is_for_many(&self) -> bool {
        let stage = sealflow_executors::processor::STAGE;
        self.command.iter().any(|part| part.contains(stage))
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    /// It works, but look at it.
    Warning,
    Failed,
    /// Why is in `found`.
    NotTested,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) stage: String,
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) found: String,
}

impl Check {
    fn new(stage: &str, check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            stage: stage.to_owned(),
            check,
            verdict,
            found: found.into(),
        }
    }
}

/// Tests it, for these stages or all that it claims, on a sector of this type.
pub(crate) async fn test(
    cx: &Context,
    subject: &Subject,
    stages: &[String],
    proof: SealProof,
) -> anyhow::Result<Vec<Check>> {
    let registry = wire::registry(cx);
    let mut checks = Vec::new();
    let claimed = match subject {
        Subject::Remote(_) => BTreeSet::new(),
        Subject::Program(program) => {
            let named = asked(program, stages, &registry)?;
            let mut claimed = BTreeSet::new();
            for stage in named {
                output::note(&format!("{stage}: the protocol"));
                let (program, of) = (program.clone(), stage.clone());
                let seen = tokio::task::spawn_blocking(move || protocol::check(&program, &of)).await?;
                let is_ready = seen.iter().all(|check| check.verdict != Verdict::Failed);
                if is_ready {
                    claimed.insert(stage.clone());
                }
                // One that was not named is not claimed if the program does not start for it.
                if is_ready || !stages.is_empty() || seen.len() > 1 {
                    checks.extend(seen);
                }
            }
            claimed
        }
    };
    if claimed.is_empty() && matches!(subject, Subject::Program(_)) {
        if checks.is_empty() {
            let text = "the program got ready for no stage that a child can compute";
            return Err(CliError::new(Kind::CheckFailed, text)
                .hint("name one with --stage to see what was wrong")
                .into());
        }
        return Ok(checks);
    }
    let trial = sector::Trial::new(cx, proof)?;
    checks.extend(match subject {
        Subject::Program(program) => Box::pin(trial.program(program, &claimed)).await?,
        Subject::Remote(address) => Box::pin(trial.remote(*address, stages)).await?,
    });
    Ok(checks)
}

/// The stages that a program is to be tested for.
fn asked(program: &Program, stages: &[String], registry: &StageRegistry) -> anyhow::Result<Vec<String>> {
    let known: Vec<String> = registry.wired().map(ToString::to_string).collect();
    if let Some(unknown) = stages.iter().find(|stage| !known.contains(stage)) {
        let text = format!(
            "no child can compute `{unknown}`; these can be: {}",
            known.join(", ")
        );
        return Err(CliError::new(Kind::NotFound, text).into());
    }
    if stages.len() != 1 && !program.is_for_many() {
        let text = "the command is the same for every stage";
        let hint = "name its stage with --stage, or write {stage} where the command names it";
        return Err(CliError::new(Kind::Usage, text).hint(hint).into());
    }
    Ok(if stages.is_empty() { known } else { stages.to_vec() })
}
