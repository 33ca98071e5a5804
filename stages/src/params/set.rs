//! The parameter sets of the proofs library: their names for people, and the files the library looks up.

use std::fmt;
use std::str::FromStr;

use bellpepper_core::{Circuit, ConstraintSystem};
use blstrs::Scalar;
use filecoin_proofs::constants::{
    DefaultPieceHasher, SECTOR_SIZE_2_KIB, SECTOR_SIZE_8_MIB, SECTOR_SIZE_32_GIB, SECTOR_SIZE_64_GIB,
    SECTOR_SIZE_512_MIB, WINDOW_POST_CHALLENGE_COUNT, WINDOW_POST_SECTOR_COUNT, WINNING_POST_CHALLENGE_COUNT,
    WINNING_POST_SECTOR_COUNT,
};
use filecoin_proofs::parameters::{public_params, window_post_public_params, winning_post_public_params};
use filecoin_proofs::{PoRepConfig, PoStConfig, PoStType, SectorSize as LibrarySectorSize, with_shape};
use storage_proofs_core::api_version::ApiVersion;
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_core::merkle::MerkleTreeTrait;
use storage_proofs_core::parameter_cache::{
    CacheableParameters, PARAMETERS, ParameterData, parameter_id, verifying_key_id,
};
use storage_proofs_core::proof::ProofScheme;
use storage_proofs_porep::stacked::{StackedCompound, StackedDrg};
use storage_proofs_post::fallback::{FallbackPoSt, FallbackPoStCompound};
use storage_proofs_update::EmptySectorUpdate;
use storage_proofs_update::compound::EmptySectorUpdateCompound;
use storage_proofs_update::constants::TreeRHasher;

use super::ParamsError;

/// What is proved with a parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParamKind {
    /// That a sector is sealed: plain, with synthetic challenges and non-interactive alike.
    PoRep,
    /// That data was put into a sealed sector (snap-up).
    EmptySectorUpdate,
    /// That the winner of a block holds a sector.
    WinningPost,
    /// That all sectors of a partition are still there.
    WindowPost,
}

impl ParamKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::PoRep, Self::EmptySectorUpdate, Self::WinningPost, Self::WindowPost];

    fn name(self) -> &'static str {
        match self {
            Self::PoRep => "porep",
            Self::EmptySectorUpdate => "empty-sector-update",
            Self::WinningPost => "winning-post",
            Self::WindowPost => "window-post",
        }
    }
}

/// A sector size that the Filecoin network knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SectorSize {
    /// 2,048 bytes, for devnets and tests.
    KiB2,
    /// 8 MiB, for devnets and tests.
    MiB8,
    /// 512 MiB, for devnets.
    MiB512,
    /// 32 GiB.
    GiB32,
    /// 64 GiB.
    GiB64,
}

impl SectorSize {
    /// All sizes, smallest first.
    pub const ALL: [Self; 5] = [Self::KiB2, Self::MiB8, Self::MiB512, Self::GiB32, Self::GiB64];

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::KiB2 => SECTOR_SIZE_2_KIB,
            Self::MiB8 => SECTOR_SIZE_8_MIB,
            Self::MiB512 => SECTOR_SIZE_512_MIB,
            Self::GiB32 => SECTOR_SIZE_32_GIB,
            Self::GiB64 => SECTOR_SIZE_64_GIB,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::KiB2 => "2KiB",
            Self::MiB8 => "8MiB",
            Self::MiB512 => "512MiB",
            Self::GiB32 => "32GiB",
            Self::GiB64 => "64GiB",
        }
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One parameter set: what is proved, for which sector size. Written `porep-2KiB`, `window-post-32GiB`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamSet {
    /// What is proved.
    pub kind: ParamKind,
    /// For which sector size.
    pub size: SectorSize,
}

/// The file names of a set, in the order in which they are put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFiles {
    /// The parameters that proving needs; they contain the verifying key as well.
    pub params: String,
    /// The verifying key, which is all that verifying needs.
    pub verifying_key: String,
}

impl SetFiles {
    /// Both names, parameters first.
    pub fn names(&self) -> [&str; 2] {
        [&self.params, &self.verifying_key]
    }
}

impl ParamSet {
    /// A set of that kind and size.
    pub const fn new(kind: ParamKind, size: SectorSize) -> Self {
        Self { kind, size }
    }

    /// All sets, by sector size.
    pub fn all() -> impl Iterator<Item = Self> {
        SectorSize::ALL.into_iter().flat_map(|size| ParamKind::ALL.map(|kind| Self { kind, size }))
    }

    /// The four sets that a network with this sector size uses.
    pub fn for_size(size: SectorSize) -> [Self; 4] {
        ParamKind::ALL.map(|kind| Self { kind, size })
    }

    /// The files that the proofs library looks up for this set. The library can also write a `.meta` file, but reads
    /// none of its own accord, so it is no part of the set.
    ///
    /// # Errors
    /// When the library cannot set up the proof.
    pub fn files(self) -> Result<SetFiles, ParamsError> {
        let id = self.library(|scheme| match scheme {
            Identify => Ok(()),
        });
        let _ = id;
        todo!()
    }
}
