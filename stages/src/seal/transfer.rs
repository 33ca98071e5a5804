//! Copies one file or folder from where it is to a store, and verifies it there.
//!
//! **Reads** the artifact.
//!
//! **Writes** it into the store under the given key, or the key it has: under a temporary name,
//! checksummed and made durable before it gets its own. A copy that was broken off goes on.
//!
//! **Costs** one core for checksums; the artifact's size in the store.
//!
//! **Fails**
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `artifact_missing` (permanent): the artifact is not where it was.
//! - `no_space` (transient): free space in the store; it is tried again.
//! - `no_permission` (permanent): let sealflow write to the store, then retry.

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// What to copy.
    pub artifact: Artifact,
    /// The store to copy to.
    pub to_store: String,
    /// The key to store it under; if nothing is said, the one it has.
    #[serde(default)]
    pub to_key: Option<String>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The copy.
    pub transferred: Artifact,
}

/// See the module.
pub struct Transfer;

impl Stage for Transfer {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("transfer.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let to = cx.stores.get(&input.to_store)?.clone();
        let key = input.to_key.as_deref().unwrap_or(&input.artifact.key);
        let total = input.artifact.bytes;
        let done = |bytes: u64| progress::bytes(cx, "copying", bytes, total);
        let from = cx.stores.get(&input.artifact.store)?.clone();
        let path = match from.local_path(&input.artifact.key)? {
            Some(path) => path,
            None => {
                let path = cx.attempt_dir()?.join("fetched");
                from.get(&input.artifact, &path, &done).await?;
                path
            }
        };
        let transferred = to.put(key, &path, &done).await?;
        to.verify(&transferred).await?;
        Ok(Outcome::Done(Output { transferred }))
    }
}
