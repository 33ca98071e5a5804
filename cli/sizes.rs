//! Sector sizes as people name them.

use bytesize::ByteSize;
use sealflow_stages::types::SealProof;

use crate::exit::{CliError, Kind};

/// The seal proof type of sectors of a size.
pub(crate) fn seal_proof(size: ByteSize) -> Result<SealProof, CliError> {
    SealProof::for_size(size.as_u64()).ok_or_else(|| unknown(size))
}

/// What is said of a size that no sector has.
pub(crate) fn unknown(size: ByteSize) -> CliError {
    let text = format!("{size} is not a sector size; there are 2KiB, 8MiB, 512MiB, 32GiB, 64GiB");
    CliError::new(Kind::Usage, text)
}
