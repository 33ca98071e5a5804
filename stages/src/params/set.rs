//! The parameter sets of the proofs library: their names for people, and the files the library looks up.

use std::fmt;
use std::str::FromStr;

use bellperson::Circuit;
use blstrs::Scalar;
use filecoin_proofs::constants::{
    DefaultPieceHasher, SectorShape2KiB, SectorShape8MiB, SectorShape32GiB, SectorShape64GiB,
    SectorShape512MiB,
};
use filecoin_proofs::parameters::{public_params, window_post_public_params, winning_post_public_params};
use filecoin_proofs_api::{RegisteredPoStProof, RegisteredSealProof};
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_core::merkle::MerkleTreeTrait;
use storage_proofs_core::parameter_cache::{
    CacheableParameters, PARAMETERS, ParameterData, parameter_id, verifying_key_id,
};
use storage_proofs_porep::stacked::{StackedCircuit, StackedCompound, StackedDrg};
use storage_proofs_post::fallback::{FallbackPoSt, FallbackPoStCircuit, FallbackPoStCompound};
use storage_proofs_update::circuit::EmptySectorUpdateCircuit;
use storage_proofs_update::compound::EmptySectorUpdateCompound;
use storage_proofs_update::constants::TreeRHasher;
use storage_proofs_update::{EmptySectorUpdate, PublicParams as UpdatePublicParams};

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
    pub const ALL: [Self; 4] = [
        Self::PoRep,
        Self::EmptySectorUpdate,
        Self::WinningPost,
        Self::WindowPost,
    ];

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
            Self::KiB2 => 1 << 11,
            Self::MiB8 => 8 << 20,
            Self::MiB512 => 512 << 20,
            Self::GiB32 => 32 << 30,
            Self::GiB64 => 64 << 30,
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
        SectorSize::ALL
            .into_iter()
            .flat_map(|size| ParamKind::ALL.map(|kind| Self { kind, size }))
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
        let id = self.visit(Identify)?;
        Ok(SetFiles {
            params: parameter_id(&id),
            verifying_key: verifying_key_id(&id),
        })
    }

    /// What the network published under the names of [`Self::files`], in the same order; `None` for a set that was
    /// never published.
    ///
    /// # Errors
    /// When the library cannot set up the proof.
    pub fn published(self) -> Result<Option<[&'static ParameterData; 2]>, ParamsError> {
        let files = self.files()?;
        let data = |name: &str| PARAMETERS.get(name);
        Ok(data(&files.params)
            .zip(data(&files.verifying_key))
            .map(|(params, key)| [params, key]))
    }

    /// Hands the set's circuit, as yet without an assignment, to `visitor`.
    ///
    /// # Errors
    /// When the library cannot set up the proof.
    pub(crate) fn visit<V: CircuitVisitor>(self, visitor: V) -> Result<V::Output, ParamsError> {
        match self.size {
            SectorSize::KiB2 => self.visit_shape::<SectorShape2KiB, V>(visitor),
            SectorSize::MiB8 => self.visit_shape::<SectorShape8MiB, V>(visitor),
            SectorSize::MiB512 => self.visit_shape::<SectorShape512MiB, V>(visitor),
            SectorSize::GiB32 => self.visit_shape::<SectorShape32GiB, V>(visitor),
            SectorSize::GiB64 => self.visit_shape::<SectorShape64GiB, V>(visitor),
        }
        .map_err(|source| ParamsError::Setup {
            set: self,
            reason: format!("{source:#}"),
        })
    }

    fn visit_shape<Tree, V>(self, visitor: V) -> anyhow::Result<V::Output>
    where
        Tree: 'static + MerkleTreeTrait<Hasher = TreeRHasher>,
        V: CircuitVisitor,
    {
        Ok(match self.kind {
            ParamKind::PoRep => {
                type Compound<Tree> = StackedCompound<Tree, DefaultPieceHasher>;
                type Stacked<Tree> = StackedCircuit<Tree, DefaultPieceHasher>;
                let params = public_params::<Tree>(&self.seal_proof().as_v1_config())?;
                let id = <Compound<Tree> as CacheableParameters<Stacked<Tree>, _>>::cache_identifier(&params);
                visitor.visit(id, || {
                    <Compound<Tree> as CompoundProof<StackedDrg<'_, Tree, DefaultPieceHasher>, _>>::blank_circuit(
                        &params,
                    )
                })
            }
            ParamKind::EmptySectorUpdate => {
                type Compound<Tree> = EmptySectorUpdateCompound<Tree>;
                type Update<Tree> = EmptySectorUpdateCircuit<Tree>;
                let params = UpdatePublicParams::from_sector_size(self.size.bytes());
                let id = <Compound<Tree> as CacheableParameters<Update<Tree>, _>>::cache_identifier(&params);
                visitor.visit(id, || {
                    <Compound<Tree> as CompoundProof<EmptySectorUpdate<Tree>, _>>::blank_circuit(&params)
                })
            }
            ParamKind::WinningPost | ParamKind::WindowPost => {
                type Compound<Tree> = FallbackPoStCompound<Tree>;
                let config = self.post_proof().as_v1_config();
                let params = match self.kind {
                    ParamKind::WinningPost => winning_post_public_params::<Tree>(&config)?,
                    _ => window_post_public_params::<Tree>(&config)?,
                };
                let id =
                    <Compound<Tree> as CacheableParameters<FallbackPoStCircuit<Tree>, _>>::cache_identifier(
                        &params,
                    );
                visitor.visit(id, || {
                    <Compound<Tree> as CompoundProof<FallbackPoSt<'_, Tree>, _>>::blank_circuit(&params)
                })
            }
        })
    }

    /// Any seal proof of this size will do: versions and features share their parameters.
    fn seal_proof(self) -> RegisteredSealProof {
        match self.size {
            SectorSize::KiB2 => RegisteredSealProof::StackedDrg2KiBV1_1,
            SectorSize::MiB8 => RegisteredSealProof::StackedDrg8MiBV1_1,
            SectorSize::MiB512 => RegisteredSealProof::StackedDrg512MiBV1_1,
            SectorSize::GiB32 => RegisteredSealProof::StackedDrg32GiBV1_1,
            SectorSize::GiB64 => RegisteredSealProof::StackedDrg64GiBV1_1,
        }
    }

    fn post_proof(self) -> RegisteredPoStProof {
        use RegisteredPoStProof as Proof;
        let winning = self.kind == ParamKind::WinningPost;
        match self.size {
            SectorSize::KiB2 if winning => Proof::StackedDrgWinning2KiBV1,
            SectorSize::MiB8 if winning => Proof::StackedDrgWinning8MiBV1,
            SectorSize::MiB512 if winning => Proof::StackedDrgWinning512MiBV1,
            SectorSize::GiB32 if winning => Proof::StackedDrgWinning32GiBV1,
            SectorSize::GiB64 if winning => Proof::StackedDrgWinning64GiBV1,
            SectorSize::KiB2 => Proof::StackedDrgWindow2KiBV1_2,
            SectorSize::MiB8 => Proof::StackedDrgWindow8MiBV1_2,
            SectorSize::MiB512 => Proof::StackedDrgWindow512MiBV1_2,
            SectorSize::GiB32 => Proof::StackedDrgWindow32GiBV1_2,
            SectorSize::GiB64 => Proof::StackedDrgWindow64GiBV1_2,
        }
    }
}

impl fmt::Display for ParamSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.kind.name(), self.size.name()))
    }
}

impl FromStr for ParamSet {
    type Err = ParamsError;

    fn from_str(name: &str) -> Result<Self, ParamsError> {
        Self::all()
            .find(|set| set.to_string().eq_ignore_ascii_case(name))
            .ok_or_else(|| ParamsError::UnknownSet {
                name: name.to_owned(),
            })
    }
}

/// Something to do with the circuit of a set.
pub(crate) trait CircuitVisitor {
    /// What comes of it.
    type Output;

    /// Called once, with the library's cache identifier and a way to make the circuit.
    fn visit<C: Circuit<Scalar>>(self, id: String, circuit: impl FnOnce() -> C) -> Self::Output;
}

/// Only asks for the identifier.
struct Identify;

impl CircuitVisitor for Identify {
    type Output = String;

    fn visit<C: Circuit<Scalar>>(self, id: String, _: impl FnOnce() -> C) -> String {
        id
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
