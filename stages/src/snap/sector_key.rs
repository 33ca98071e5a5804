//! Looks up the committed-capacity sector that is to take data (the sector key of the update), and refuses
//! one that cannot, before anything is computed.
//!
//! **Reads** the description of the sector, the sizes of its files, and the auxiliary file.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing.
//!
//! **Fails**
//! - `not_committed_capacity` (permanent): the sector holds data.
//! - `already_updated` (permanent): the sector has taken data before.
//! - `replica_damaged` (permanent): a file is missing, has another size, or belongs to another replica.
//! - `artifact_damaged` (permanent): the description is not whole.

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sector_info::{SectorInfo, missing};
use crate::types::{CommR, SealProof, UpdateProof};
use crate::{proofs, replica, tree};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The replica.
    pub sealed: Artifact,
    /// The last tree and the auxiliary files.
    pub cache: Artifact,
    /// The description of the sector.
    pub sector_info: Artifact,
    /// The description of an earlier update.
    #[serde(default)]
    pub update_info: Option<Artifact>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The seal proof type, which gives the sector's size.
    pub proof_type: SealProof,
    /// The update proof type for sectors of this size.
    pub update_proof_type: UpdateProof,
    /// The commitment to the replica.
    pub comm_r_old: CommR,
}

/// See the module.
pub struct SectorKey;

impl Stage for SectorKey {
    const NAME: &'static str = "sector_key";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("sector_key.rs");
    const CLAIM: Claim = Claim::Read;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let (sealed, cache) = (cx.local_path(&input.sealed)?, cx.local_path(&input.cache)?);
        let described = &cx.stores.find(&input.sector_info).await?;
        let info = SectorInfo::read(&cx.stores, &described.store, &described.key).await?;
        let info = info.ok_or_else(|| missing(described))?;
        let subject = cx.subject.clone();
        cx.blocking(move || {
            if let Some(update) = input.update_info {
                let text = format!("{subject} has taken data before: {} tells of it", update.key);
                return Err(Failure::permanent("already_updated", text));
            }
            let bytes = info.proof_type.sector_bytes();
            if info.comm_d.map(|comm_d| comm_d.0) != Some(tree::zeros_root(bytes)) {
                let text = format!(
                    "{subject} holds data ({} pieces) or was imported without its data commitment, and only a sector of \
                     zeros can take any",
                    info.piece_infos.len()
                );
                return Err(Failure::permanent("not_committed_capacity", text));
            }
            if let Some(why) = replica::wrong(&sealed, &cache, info.comm_r, bytes) {
                return Err(Failure::permanent("replica_damaged", why));
            }
            let update_proof_type = UpdateProof::for_size(bytes)
                .ok_or_else(|| Failure::permanent("bad_input", format!("no update of {bytes} bytes")))?;
            Ok(Outcome::Done(Output {
                proof_type: info.proof_type,
                update_proof_type,
                comm_r_old: info.comm_r,
            }))
        })
        .await
    }
}
