//! Makes sure that the Groth16 parameters of a proof type are there before a step needs them: devnet
//! sizes are generated on this machine while other steps run, published ones must have been fetched.
//!
//! **Reads** the parameter folder.
//!
//! **Writes** the parameter set into the generated folder, which all homes of the user share.
//!
//! **Costs** for 2 KiB some minutes of all cores, up to 5 GiB of memory and 1.2 GB on disk, once.
//!
//! **Fails**
//! - `parameters_missing` (permanent): published parameters must be fetched; the message says how.
//! - `parameters_failed` (transient): generation failed, for example on a full disk; tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Resources;
use sealflow_engine::stage::{Claim, Outcome, Progress, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::c2::parameter_set;
use crate::params::{Origin, ParamSet, ParamsDir, SectorSize, SetState, generate, status};
use crate::types::SealProof;

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
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

/// The command that gets a set.
pub fn how_to_get(set: ParamSet) -> String {
    let verb = if set.size <= SectorSize::MiB8 {
        "generate"
    } else {
        "fetch"
    };
    format!("sealflow params {verb} {set}")
}

impl Stage for ProofParameters {
    const NAME: &'static str = "proof_parameters";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("proof_parameters.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Resources {
        // One core, so that short steps run beside it; it uses the others while they are idle.
        Resources {
            cpu: 1,
            memory: 5 << 30,
        }
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let set = parameter_set(input.proof_type)?;
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
            let text = format!(
                "the parameter set {set} is not in {}; run `{}`, then `sealflow run retry`",
                self.params.path().display(),
                how_to_get(set)
            );
            return Err(Failure::permanent("parameters_missing", text));
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
