//! Removes a sector's working files once what must last is in a store: layers, trees, the data, and
//! what attempts left behind. Lotus calls it FinalizeSector.
//!
//! **Reads** the replica, the cache and the description in each store that keeps them, to be sure that they are whole.
//! A store that is not to be had is passed over if another keeps them too.
//!
//! **Writes** nothing; removes the sector's folder in the scratch store.
//!
//! **Costs** one core for checksums.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `artifact_damaged`, `artifact_missing` (permanent): a store does not have what was put there;
//!   nothing was removed; check the store, then retry from `persist`.
//! - `store_unavailable` (transient): no store that keeps it answers; tried again.

use schemars::JsonSchema;
use sealflow_engine::artifact::{Artifact, SCRATCH, StoreError};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
use crate::keep::Kept;
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The replica, in a store.
    pub sealed: Artifact,
    /// The last tree and the auxiliary files, in a store.
    pub cache: Artifact,
    /// The description of the sector, in a store.
    pub sector_info: Artifact,
    /// All stores that keep them; the one that they name if nothing is said.
    #[serde(default)]
    pub kept: Vec<Kept>,
}

/// What it gives: the working files that are gone.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Gone.
    pub unsealed: Option<Artifact>,
    /// Gone.
    pub c1_output: Option<Artifact>,
    /// Gone.
    pub snap_vanilla: Option<Artifact>,
}

/// See the module.
pub struct Finalize;

impl Stage for Finalize {
    const NAME: &'static str = "finalize";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("finalize.rs");
    const BOUND: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        for artifact in [&input.sealed, &input.cache, &input.sector_info] {
            if artifact.store == SCRATCH {
                let text = format!(
                    "{} is still in the scratch store; run persist before finalize",
                    artifact.key
                );
                return Err(Failure::permanent("not_persisted", text));
            }
            verify(cx, artifact, &input.kept).await?;
        }
        progress::phase(cx, "removing working files");
        let lock = CacheDir::lock(cx)?;
        cx.stores.get(SCRATCH)?.delete(&cx.subject.folder()).await?;
        drop(lock);
        Ok(Outcome::Done(Output {
            unsealed: None,
            c1_output: None,
            snap_vanilla: None,
        }))
    }
}

/// Reads an artifact in each store that keeps it. One store must have it whole, and none may have it damaged.
async fn verify(cx: &StageContext, artifact: &Artifact, kept: &[Kept]) -> Result<(), Failure> {
    let mut names: Vec<&str> = kept.iter().map(|one| one.store.as_str()).collect();
    if !names.contains(&artifact.store.as_str()) {
        names.insert(0, &artifact.store);
    }
    let (mut whole, mut passed) = (0, None);
    for name in names {
        progress::phase(cx, format!("verifying {} in `{name}`", artifact.key));
        let store = name.to_owned();
        let copy = Artifact {
            store,
            ..artifact.clone()
        };
        let verified = match cx.stores.get(name) {
            Ok(store) => store.verify(&copy).await,
            Err(error) => Err(error),
        };
        match verified {
            Ok(()) => whole += 1,
            Err(error @ (StoreError::Unavailable { .. } | StoreError::Unknown { .. })) => {
                tracing::warn!(store = name, key = artifact.key, %error, "a copy could not be verified");
                passed.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match passed {
        Some(error) if whole == 0 => Err(error.into()),
        _ => Ok(()),
    }
}
