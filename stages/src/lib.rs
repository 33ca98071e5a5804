//! Everything Filecoin computes or says: one file a stage, one registry. The only crate that names the
//! proofs library.

mod beacon;
mod cache;
pub mod params;
mod piece;
mod progress;
mod proofs;
pub mod seal;
mod sector_info;
mod tree;
pub mod types;
pub mod unseal;

pub use sector_info::SectorInfo;

use sealflow_engine::stage::StageRegistry;

use params::ParamsDir;

/// All stages, and the types and subjects that workflow files can name. A new stage is one file and
/// one line here.
pub fn registry(params: &ParamsDir) -> StageRegistry {
    StageRegistry::default()
        .with_subject(types::SECTOR)
        .with_type::<types::ActorId>()
        .with_type::<types::SectorNumber>()
        .with_type::<types::SealProof>()
        .with_type::<types::Pieces>()
        .with_type::<types::LocalPath>()
        .with_type::<String>()
        .with_type::<u64>()
        .with_type::<bool>()
        .with(seal::add_pieces::AddPieces)
        .with(seal::tree_d::TreeD)
        .with(seal::ticket::Ticket)
        .with(seal::pc1::Pc1)
        .with(seal::pc2::Pc2)
        .with(seal::synth_proof::SynthProof)
        .with(seal::seed::Seed)
        .with(seal::c1::C1)
        .with(seal::proof_parameters::ProofParameters {
            params: params.clone(),
        })
        .with(seal::c2::C2 {
            params: params.clone(),
        })
        .with(seal::verify_seal::VerifySeal)
        .with(seal::transfer::Transfer)
        .with(seal::persist::Persist)
        .with(seal::finalize::Finalize)
        .with(unseal::Unseal)
}
