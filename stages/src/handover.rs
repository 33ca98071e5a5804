//! Values that one stage hands to another as a file, because they are large: written whole, known by their
//! digest, and read only as they were written.

use std::path::Path;

use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Writes a value as JSON into a file of the attempt.
pub(crate) fn write(cx: &StageContext, path: &Path, value: &impl Serialize) -> Result<Artifact, Failure> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Failure::permanent("bad_output", format!("{}: {error}", path.display())))?;
    durable::write(path, &bytes).map_err(|error| Failure::io("write", path, &error))?;
    cx.scratch_artifact(path, Some(digest(&bytes)))
}

/// Reads a value that the step `made_by` wrote.
pub(crate) fn read<T: DeserializeOwned>(
    cx: &StageContext,
    artifact: &Artifact,
    made_by: &str,
) -> Result<T, Failure> {
    let path = cx.local_path(artifact)?;
    let bytes = std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
    if artifact
        .digest
        .as_ref()
        .is_some_and(|recorded| *recorded != digest(&bytes))
    {
        let text = format!(
            "{} is not what {made_by} wrote; retry step {made_by}",
            path.display()
        );
        return Err(Failure::permanent("artifact_damaged", text));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::permanent("bad_input", format!("{}: {error}", path.display())))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
