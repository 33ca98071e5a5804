//! Messages by which sectors come onto the chain: pre-commit, prove-commit, replica update, and the
//! non-interactive proof (chain.md §1.5).

use std::collections::HashSet;

use crate::address::MARKET_ACTOR;
use crate::commitment;
use crate::policy::{
    AGGREGATE_BYTES, AGGREGATED, AGGREGATED_NI, SECTOR_NUMBER_MAX, SealFlow, UPDATE_PROOF_BYTES, seal_flow,
};
use crate::types::{
    ActorID, ChainEpoch, PaddedPieceSize, RawBytes, RegisteredAggregateProof, RegisteredSealProof,
    RegisteredUpdateProof, SectorNumber, miner,
};

use super::call::Call;
use super::error::BuildError;

/// A sealed sector, as pre-commit registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precommit {
    /// Type of the proof that will follow; interactive or synthetic.
    pub proof: RegisteredSealProof,
    /// Its number, which no sector of the miner had before.
    pub number: SectorNumber,
    /// The replica.
    pub comm_r: [u8; 32],
    /// The data; nothing for committed capacity. The deals come with the proof, never here.
    pub comm_d: Option<[u8; 32]>,
    /// Epoch of the ticket with which it was sealed.
    pub ticket_epoch: ChainEpoch,
    /// When it ends; see [`crate::policy::check_expiration`].
    pub expiration: ChainEpoch,
}

/// Registers sealed sectors.
///
/// # Errors
/// There are none, a number comes twice or is too large, or a type cannot be pre-committed.
pub fn precommit(sectors: &[Precommit]) -> Result<Call, BuildError> {
    const METHOD: &str = "PreCommitSectorBatch2";
    distinct(METHOD, sectors.iter().map(|sector| sector.number))?;
    let sectors = sectors.iter().map(|sector| {
        if seal_flow(sector.proof) != Some(SealFlow::Interactive) {
            return Err(BuildError::new(
                METHOD,
                format!(
                    "sector {}: {:?} cannot be pre-committed",
                    sector.number, sector.proof
                ),
            ));
        }
        let cid = |e: commitment::CommitmentError| BuildError::new(METHOD, e.to_string());
        let unsealed = sector.comm_d.as_ref().map(commitment::unsealed_cid);
        Ok(miner::SectorPreCommitInfo {
            seal_proof: sector.proof,
            sector_number: sector.number,
            sealed_cid: commitment::sealed_cid(&sector.comm_r).map_err(cid)?,
            seal_rand_epoch: sector.ticket_epoch,
            deal_ids: Vec::new(),
            expiration: sector.expiration,
            unsealed_cid: miner::CompactCommD::new(unsealed.transpose().map_err(cid)?),
        })
    });
    Ok(Call::PreCommitSectorBatch2(miner::PreCommitSectorBatchParams2 {
        sectors: sectors.collect::<Result<_, _>>()?,
    }))
}

/// A piece of a sector, as its activation names it. `notify` are actors that learn of it, for example
/// [`market_notification`].
///
/// # Errors
/// The size is no power of two of at least 128 bytes.
pub fn piece(
    comm_p: &[u8; 32],
    size: PaddedPieceSize,
    notify: Vec<miner::DataActivationNotification>,
) -> Result<miner::PieceActivationManifest, BuildError> {
    let error = |reason: String| BuildError::new("piece", reason);
    size.validate()
        .map_err(|reason| error(format!("{} bytes: {reason}", size.0)))?;
    Ok(miner::PieceActivationManifest {
        cid: commitment::unsealed_cid(comm_p).map_err(|e| error(e.to_string()))?,
        size,
        verified_allocation_key: None,
        notify,
    })
}

/// Tells the built-in market that its deal's data is in a sector.
///
/// # Errors
/// Never for a number; the encoder can fail, so this can.
pub fn market_notification(deal: u64) -> Result<miner::DataActivationNotification, BuildError> {
    let payload = RawBytes::serialize(deal).map_err(|e| BuildError::new("piece", e.to_string()))?;
    Ok(miner::DataActivationNotification {
        address: MARKET_ACTOR,
        payload,
    })
}

/// What makes a batch fail as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Require {
    /// One bad sector fails all. Without it the batch's return says which failed.
    pub activation: bool,
    /// One notification that is refused fails all.
    pub notification: bool,
}

/// A sector with its own proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation<M> {
    /// What is activated.
    pub manifest: M,
    /// The proof, 192 or 1920 bytes for a seal.
    pub proof: Vec<u8>,
}

/// Proves pre-committed sectors, each by its own proof.
///
/// # Errors
/// There are none, a number comes twice, or a proof is empty.
pub fn prove_commit(
    sectors: Vec<Activation<miner::SectorActivationManifest>>,
    require: Require,
) -> Result<Call, BuildError> {
    const METHOD: &str = "ProveCommitSectors3";
    distinct(METHOD, sectors.iter().map(|sector| sector.manifest.sector_number))?;
    let (sector_activations, sector_proofs) = split(METHOD, sectors)?;
    Ok(Call::ProveCommitSectors3(miner::ProveCommitSectors3Params {
        sector_activations,
        sector_proofs,
        aggregate_proof: RawBytes::default(),
        aggregate_proof_type: None,
        require_activation_success: require.activation,
        require_notification_success: require.notification,
    }))
}

/// Sectors that one aggregated proof covers, in the order in which they were aggregated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// What is activated.
    pub sectors: Vec<miner::SectorActivationManifest>,
    /// The proof (SnarkPack version 2, the only one that is taken).
    pub proof: Vec<u8>,
}

/// Proves pre-committed sectors by one aggregated proof.
///
/// # Errors
/// Too few or too many sectors, a number twice, or a proof that is empty or too large.
pub fn prove_commit_aggregate(aggregate: Aggregate, require: Require) -> Result<Call, BuildError> {
    const METHOD: &str = "ProveCommitSectors3";
    let Aggregate { sectors, proof } = aggregate;
    distinct(METHOD, sectors.iter().map(|sector| sector.sector_number))?;
    aggregated(METHOD, &AGGREGATED, sectors.len(), &proof)?;
    Ok(Call::ProveCommitSectors3(miner::ProveCommitSectors3Params {
        sector_activations: sectors,
        sector_proofs: Vec::new(),
        aggregate_proof: RawBytes::new(proof),
        aggregate_proof_type: Some(RegisteredAggregateProof::SnarkPackV2),
        require_activation_success: require.activation,
        require_notification_success: require.notification,
    }))
}

/// Replaces committed capacity by data. Deadline and partition of each sector come from the chain
/// (`StateSectorPartition`).
///
/// # Errors
/// There are none, a number comes twice, or a proof is empty or too large.
pub fn prove_update(
    sectors: Vec<Activation<miner::SectorUpdateManifest>>,
    proof: RegisteredUpdateProof,
    require: Require,
) -> Result<Call, BuildError> {
    const METHOD: &str = "ProveReplicaUpdates3";
    distinct(METHOD, sectors.iter().map(|sector| sector.manifest.sector))?;
    if let Some(large) = sectors.iter().find(|s| s.proof.len() > UPDATE_PROOF_BYTES) {
        let (number, size) = (large.manifest.sector, large.proof.len());
        return Err(BuildError::new(
            METHOD,
            format!("sector {number}: a proof of {size} bytes; at most {UPDATE_PROOF_BYTES} are taken"),
        ));
    }
    let (sector_updates, sector_proofs) = split(METHOD, sectors)?;
    Ok(Call::ProveReplicaUpdates3(miner::ProveReplicaUpdates3Params {
        sector_updates,
        sector_proofs,
        aggregate_proof: RawBytes::default(),
        update_proofs_type: proof,
        aggregate_proof_type: None,
        require_activation_success: require.activation,
        require_notification_success: require.notification,
    }))
}

/// Non-interactive sectors of one miner, in the order in which they were aggregated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NiAggregate {
    /// The miner, who is also the sealer.
    pub miner: ActorID,
    /// Type of each seal.
    pub proof_type: RegisteredSealProof,
    /// Number, comm_r, ticket epoch, expiration. They hold no data.
    pub sectors: Vec<(SectorNumber, [u8; 32], ChainEpoch, ChainEpoch)>,
    /// The proof (SnarkPack version 2).
    pub proof: Vec<u8>,
    /// The deadline to put them into; neither the open one nor the next.
    pub deadline: u64,
}

/// Registers and proves non-interactive sectors.
///
/// # Errors
/// Too few or too many sectors, a number twice, a deadline that is none, another proof type, or a proof
/// that is empty or too large.
pub fn prove_commit_ni(ni: NiAggregate, require_activation: bool) -> Result<Call, BuildError> {
    const METHOD: &str = "ProveCommitSectorsNI";
    distinct(METHOD, ni.sectors.iter().map(|sector| sector.0))?;
    aggregated(METHOD, &AGGREGATED_NI, ni.sectors.len(), &ni.proof)?;
    super::declare::check_deadline(METHOD, ni.deadline)?;
    if seal_flow(ni.proof_type) != Some(SealFlow::NonInteractive) {
        return Err(BuildError::new(
            METHOD,
            format!("{:?} is not a non-interactive type", ni.proof_type),
        ));
    }
    let sectors = ni.sectors.iter().map(|(number, comm_r, ticket, expiration)| {
        Ok(miner::SectorNIActivationInfo {
            sealing_number: *number,
            sealer_id: ni.miner,
            sealed_cid: commitment::sealed_cid(comm_r).map_err(|e| BuildError::new(METHOD, e.to_string()))?,
            sector_number: *number,
            seal_rand_epoch: *ticket,
            expiration: *expiration,
        })
    });
    Ok(Call::ProveCommitSectorsNI(miner::ProveCommitSectorsNIParams {
        sectors: sectors.collect::<Result<_, _>>()?,
        aggregate_proof: RawBytes::new(ni.proof),
        seal_proof_type: ni.proof_type,
        aggregate_proof_type: RegisteredAggregateProof::SnarkPackV2,
        proving_deadline: ni.deadline,
        require_activation_success: require_activation,
    }))
}

/// Numbers that are there, within range, and each once.
fn distinct(
    method: &'static str,
    numbers: impl ExactSizeIterator<Item = SectorNumber>,
) -> Result<(), BuildError> {
    if numbers.len() == 0 {
        return Err(BuildError::new(method, "it names no sectors"));
    }
    let mut seen = HashSet::new();
    for number in numbers {
        if number > SECTOR_NUMBER_MAX {
            return Err(BuildError::new(
                method,
                format!("sector number {number} is more than {SECTOR_NUMBER_MAX}"),
            ));
        }
        if !seen.insert(number) {
            return Err(BuildError::new(method, format!("sector {number} comes twice")));
        }
    }
    Ok(())
}

fn split<M>(
    method: &'static str,
    sectors: Vec<Activation<M>>,
) -> Result<(Vec<M>, Vec<RawBytes>), BuildError> {
    if let Some(at) = sectors.iter().position(|sector| sector.proof.is_empty()) {
        return Err(BuildError::new(
            method,
            format!("the proof of sector {} of the batch is empty", at + 1),
        ));
    }
    Ok(sectors
        .into_iter()
        .map(|sector| (sector.manifest, RawBytes::new(sector.proof)))
        .unzip())
}

fn aggregated(
    method: &'static str,
    allowed: &std::ops::RangeInclusive<usize>,
    sectors: usize,
    proof: &[u8],
) -> Result<(), BuildError> {
    if !allowed.contains(&sectors) {
        return Err(BuildError::new(
            method,
            format!(
                "an aggregate has {} to {} sectors, this one {sectors}",
                allowed.start(),
                allowed.end()
            ),
        ));
    }
    if proof.is_empty() || proof.len() > AGGREGATE_BYTES {
        return Err(BuildError::new(
            method,
            format!(
                "an aggregate of {} bytes; 1 to {AGGREGATE_BYTES} are taken",
                proof.len()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(number: SectorNumber) -> Precommit {
        Precommit {
            proof: RegisteredSealProof::from(8),
            number,
            comm_r: [0x11; 32],
            comm_d: None,
            ticket_epoch: 1000,
            expiration: 2_000_000,
        }
    }

    fn activation(number: SectorNumber, proof: &[u8]) -> Activation<miner::SectorActivationManifest> {
        Activation {
            manifest: miner::SectorActivationManifest {
                sector_number: number,
                pieces: Vec::new(),
            },
            proof: proof.to_vec(),
        }
    }

    fn reason(result: Result<Call, BuildError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn precommits_that_the_actor_would_refuse() {
        assert!(reason(precommit(&[])).contains("no sectors"));
        assert!(reason(precommit(&[sector(7), sector(7)])).contains("sector 7 comes twice"));
        assert!(reason(precommit(&[sector(1 << 63)])).contains("is more than"));
        for proof in [3, 18, 20] {
            let mut bad = sector(7);
            bad.proof = RegisteredSealProof::from(proof);
            assert!(reason(precommit(&[bad])).contains("cannot be pre-committed"));
        }
    }

    #[test]
    fn proofs_that_the_actor_would_refuse() {
        assert!(reason(prove_commit(vec![], Require::default())).contains("no sectors"));
        let empty = vec![activation(1, &[1]), activation(2, &[])];
        assert!(reason(prove_commit(empty, Require::default())).contains("sector 2 of the batch is empty"));
        let few = Aggregate {
            sectors: vec![activation(1, &[]).manifest],
            proof: vec![1],
        };
        assert!(reason(prove_commit_aggregate(few, Require::default())).contains("4 to 819"));
        let update = Activation {
            manifest: miner::SectorUpdateManifest {
                sector: 7,
                deadline: 3,
                partition: 0,
                new_sealed_cid: commitment::sealed_cid(&[1; 32]).unwrap(),
                pieces: Vec::new(),
            },
            proof: vec![0; UPDATE_PROOF_BYTES + 1],
        };
        let proof = RegisteredUpdateProof::from(3);
        assert!(reason(prove_update(vec![update], proof, Require::default())).contains("at most 4096"));
    }

    #[test]
    fn non_interactive_sectors_that_the_actor_would_refuse() {
        let good = NiAggregate {
            miner: 1001,
            proof_type: RegisteredSealProof::from(18),
            sectors: vec![(7, [0x11; 32], 1000, 2_000_000)],
            proof: vec![1],
            deadline: 5,
        };
        assert!(prove_commit_ni(good.clone(), true).is_ok());
        let late = NiAggregate {
            deadline: 48,
            ..good.clone()
        };
        assert!(reason(prove_commit_ni(late, true)).contains("deadline 48"));
        let other = NiAggregate {
            proof_type: RegisteredSealProof::from(8),
            ..good.clone()
        };
        assert!(reason(prove_commit_ni(other, true)).contains("not a non-interactive type"));
        let large = NiAggregate {
            proof: vec![0; AGGREGATE_BYTES + 1],
            ..good
        };
        assert!(reason(prove_commit_ni(large, true)).contains("81961 bytes"));
    }

    #[test]
    fn pieces_have_the_size_of_a_power_of_two() {
        for bad in [0, 64, 127, 129, 2047] {
            assert!(piece(&[0; 32], PaddedPieceSize(bad), vec![]).is_err(), "{bad}");
        }
        assert!(piece(&[0; 32], PaddedPieceSize(128), vec![]).is_ok());
    }
}
