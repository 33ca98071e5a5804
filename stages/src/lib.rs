//! Everything Filecoin computes or says: one file a stage, one registry. The only crate that names the
//! proofs library.

mod beacon;
mod cache;
pub mod chain;
pub mod comm_p;
#[cfg(test)]
mod golden;
mod handover;
mod keep;
pub mod library;
pub mod params;
mod piece;
pub mod post;
mod progress;
mod proofs;
mod remote;
mod replica;
pub mod seal;
mod sector_info;
pub mod sectors;
pub mod snap;
mod tree;
pub mod types;
pub mod unseal;
mod verifier;

pub use keep::Putting;
pub use sector_info::{SectorInfo, UpdateInfo};
pub use verifier::ProofsVerifier;

use sealflow_engine::stage::StageRegistry;

use params::ParamsDir;

/// All stages, and the types and subjects that workflow files can name. A new stage is one file and
/// one line here.
pub fn registry(params: &ParamsDir) -> StageRegistry {
    registry_on(params, &chain::Chain::default())
}

/// The same, with stages that reach a chain.
pub fn registry_on(params: &ParamsDir, chain: &chain::Chain) -> StageRegistry {
    StageRegistry::default()
        .with_subject(types::SECTOR)
        .with_subject(types::DEADLINE)
        .with_subject(types::MINER)
        .with_type::<types::ActorId>()
        .with_type::<types::SectorNumber>()
        .with_type::<types::SealProof>()
        .with_type::<types::Pieces>()
        .with_type::<types::LocalPath>()
        .with_type::<types::Deadline>()
        .with_type::<types::Sectors>()
        .with_type::<types::PostPartition>()
        .with_type::<types::CommD>()
        .with_type::<types::CommR>()
        .with_type::<types::Ticket>()
        .with_type::<types::Seed>()
        .with_type::<String>()
        .with_type::<u64>()
        .with_type::<bool>()
        .with_wire(seal::add_pieces::AddPieces)
        .with_wire(seal::tree_d::TreeD)
        .with(seal::ticket::Ticket)
        .with(chain::chain_ticket::ChainTicket { chain: chain.clone() })
        .with_wire(seal::pc1::Pc1)
        .with_wire(seal::pc2::Pc2)
        .with_wire(seal::synth_proof::SynthProof)
        .with(seal::seed::Seed)
        .with_batch(chain::submit_precommit::SubmitPrecommit { chain: chain.clone() })
        .with(chain::chain_seed::ChainSeed { chain: chain.clone() })
        .with_wire(seal::c1::C1)
        .with(seal::proof_parameters::ProofParameters {
            params: params.clone(),
        })
        .with_wire(seal::c2::C2 {
            params: params.clone(),
        })
        .with_batch(seal::verify_seal::VerifySeal)
        .with_batch(chain::submit_commit::SubmitCommit { chain: chain.clone() })
        .with_wire(seal::transfer::Transfer)
        .with(seal::persist::Persist)
        .with(seal::finalize::Finalize)
        .with_wire(unseal::Unseal)
        .with(snap::sector_key::SectorKey)
        .with_wire(snap::snap_encode::SnapEncode)
        .with_wire(snap::snap_partition_proofs::SnapPartitionProofs)
        .with_wire(snap::snap_prove::SnapProve {
            params: params.clone(),
        })
        .with(snap::verify_snap::VerifySnap)
        .with(snap::persist_update::PersistUpdate)
        .with(post::post_challenge::PostChallenge)
        .with_wire(post::window_post::WindowPost {
            params: params.clone(),
        })
        .with(post::window_post_vanilla::WindowPostVanilla)
        .with(post::window_post_snark::WindowPostSnark {
            params: params.clone(),
        })
        .with(post::winning_challenge::WinningChallenge)
        .with_wire(post::winning_post::WinningPost {
            params: params.clone(),
        })
        .with(post::verify_post::VerifyPost)
}
