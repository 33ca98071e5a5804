//! Makes sure that the Groth16 parameters of a proof type are there before a step needs them: devnet
//! sizes are generated on this machine while other steps run, published ones must have been fetched. Which
//! set it is follows from what it is given: for updates, for proofs of spacetime, or else for seals.
//!
//! **Reads** the parameter folder.
//!
//! **Writes** the parameter set into the generated folder, which all homes of the user share.
//!
//! **Costs** for 2 KiB some minutes of all cores, up to 5 GiB of memory and 1.2 GB on disk, once.
//!
//! **Fails**
//! - `parameters_missing` (permanent): published parameters must be fetched; the message says how.
//! - `bad_input` (permanent): it is given no proof type at all.
//! - `parameters_failed` (transient): generation failed, for example on a full disk; tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Progress, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::c2::parameter_set;
use crate::params::{Origin, ParamKind, ParamSet, ParamsDir, SectorSize, SetState, generate, status};
use crate::post::prove;
use crate::snap::snap_prove;
use crate::types::{PostProof, SealProof, UpdateProof};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type; counts if neither of the others is given.
    #[serde(default)]
    pub proof_type: Option<SealProof>,
    /// The update proof type.
    #[serde(default)]
    pub update_proof_type: Option<UpdateProof>,
    /// The proof-of-spacetime type.
    #[serde(default)]
    pub post_proof_type: Option<PostProof>,
}

impl Input {
    fn set(&self) -> Result<ParamSet, Failure> {
        match (self.update_proof_type, self.post_proof_type, self.proof_type) {
            (Some(update), ..) => snap_prove::parameter_set(update),
            (_, Some(post), _) => prove::parameter_set(post),
            (.., Some(seal)) => parameter_set(seal),
            (None, None, None) => Err(Failure::permanent(
                "bad_input",
                "no proof type is given: wire proof_type, update_proof_type or post_proof_type",
            )),
        }
    }
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The name of the set.
    pub parameter_set: String,
    /// Whether this step had to make it.
    pub generated: bool,
}

/// See the module.
pub struct ProofParameters {
    /// Where the parameters are.
    pub params: ParamsDir,
}

/// The code of the failure that parameters are not there: a prerequisite of every stage that proves.
pub(crate) const MISSING: &str = "parameters_missing";

/// The command that gets a set.
pub fn how_to_get(set: ParamSet) -> String {
    let verb = if set.size <= SectorSize::MiB8 {
        "generate"
    } else {
        "fetch"
    };
    format!("sealflow params {verb} {set}")
}

/// The set of a kind for sectors of a size.
pub(crate) fn set(kind: ParamKind, sector_bytes: u64) -> Result<ParamSet, Failure> {
    ParamSet::all()
        .find(|set| set.kind == kind && set.size.bytes() == sector_bytes)
        .ok_or_else(|| {
            let text = format!("no parameters for {sector_bytes} bytes");
            Failure::permanent(MISSING, text)
        })
}

/// Fails if a set is not there. The library would generate missing parameters on its own, for hours; so
/// they are looked for before each proof.
pub(crate) fn require(params: &ParamsDir, set: ParamSet) -> Result<(), Failure> {
    let found = status(params, set).map_err(|error| Failure::permanent(MISSING, error.to_string()))?;
    if found.state == SetState::Present {
        return Ok(());
    }
    Err(missing(params, set))
}

/// Whether the key is there with which proofs of a set are verified. Where proofs are made elsewhere it may not be.
pub(crate) fn can_verify(params: &ParamsDir, set: ParamSet) -> bool {
    set.files()
        .is_ok_and(|files| params.path().join(files.verifying_key).is_file())
}

fn missing(params: &ParamsDir, set: ParamSet) -> Failure {
    // Names are all that is lost where the library cannot tell them.
    let files = set.files().map(|files| files.names().join(" and "));
    let text = format!(
        "the parameter set {set} is not in {}{}; run `{}`, then `sealflow run retry`",
        params.path().display(),
        files.map_or_else(|_| String::new(), |names| format!(" ({names})")),
        how_to_get(set)
    );
    Failure::permanent(MISSING, text)
}

impl Stage for ProofParameters {
    const NAME: &'static str = "proof_parameters";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("proof_parameters.rs");
    const CLAIM: Claim = Claim::None;
    const PREREQUISITES: &'static [&'static str] = &[MISSING];
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        // One core, so that short steps run beside it; it uses the others while they are idle.
        Need {
            cpu: 1,
            memory: 5 << 30,
            ..Need::default()
        }
    }

    fn class(&self, input: &Value) -> String {
        crate::proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let set = input.set()?;
        let parameter_set = set.to_string();
        let broken =
            |error: crate::params::ParamsError| Failure::transient("parameters_failed", error.to_string());
        if status(&self.params, set).map_err(broken)?.state == SetState::Present {
            return Ok(Outcome::Done(Output {
                parameter_set,
                generated: false,
            }));
        }
        if self.params.origin() == Origin::Published || set.size > SectorSize::MiB8 {
            return Err(missing(&self.params, set));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopper = {
            let (stop, cancel) = (stop.clone(), cx.cancel.clone());
            tokio::spawn(async move {
                cancel.cancelled().await;
                stop.store(true, Ordering::Relaxed);
            })
        };
        let (cx2, params) = (cx.clone(), self.params.clone());
        let result = cx
            .blocking(move || {
                let tell = |progress: crate::params::Progress| {
                    cx2.progress(Progress {
                        phase: format!("generating {set}: {}", progress.phase.name()),
                        done: progress.total.map(|_| progress.done),
                        total: progress.total,
                        unit: progress.phase.unit().to_owned(),
                        estimate_seconds: progress.eta.map(|eta| eta.as_secs()),
                    });
                };
                generate(set, &params, tell, &stop).map_err(broken)
            })
            .await;
        stopper.abort();
        let report = result?;
        Ok(Outcome::Done(Output {
            parameter_set,
            generated: report.generated,
        }))
    }
}
