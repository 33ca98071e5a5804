//! What seals and updates have in common: the form of their proofs, and pieces as the verifier takes them.

use crate::address::MARKET_ACTOR;
use crate::commitment;
use crate::types::state::ActorError;
use crate::types::{
    Address, BatchReturn, ChainEpoch, Cid, ExitCode, RawBytes, RegisteredAggregateProof, RegisteredSealProof,
    SectorNumber, miner,
};

use super::super::super::verifier::Piece;
use super::super::market::Added;
use super::{MinerCall, illegal, require};

/// Checks that there is exactly one form of proofs. Tells whether it is the aggregated one.
pub(super) fn proof_form(
    sectors: usize,
    proofs: &[RawBytes],
    aggregate: &RawBytes,
    aggregate_type: Option<RegisteredAggregateProof>,
) -> Result<bool, ActorError> {
    let no_aggregate = aggregate.bytes().is_empty();
    require(proofs.is_empty() != no_aggregate, || {
        "exactly one of sector proofs or aggregate proof must be non-empty".into()
    })?;
    if no_aggregate {
        require(aggregate_type.is_none(), || {
            "aggregate proof type must be null with sector proofs batched".into()
        })?;
        require(sectors == proofs.len(), || {
            format!("mismatched lengths: {sectors} sectors, {} proofs", proofs.len())
        })?;
    }
    Ok(!no_aggregate)
}

/// The 32 bytes of a sealed CID.
pub(super) fn comm_r(cid: &Cid) -> Result<[u8; 32], ActorError> {
    commitment::comm_r(cid).map_err(|e| illegal(e.to_string()))
}

/// The 32 bytes of an unsealed CID.
pub(super) fn comm_d(cid: &Cid) -> Result<[u8; 32], ActorError> {
    commitment::comm_d(cid).map_err(|e| illegal(e.to_string()))
}

/// Failures in several stages as failures of the inputs: each stage saw what the one before left.
pub(super) struct Survivors {
    codes: Vec<ExitCode>,
}

impl Survivors {
    pub(super) fn new(inputs: usize) -> Self {
        Self {
            codes: vec![ExitCode::OK; inputs],
        }
    }

    pub(super) fn fail(&mut self, input: usize) {
        if let Some(code) = self.codes.get_mut(input) {
            *code = ExitCode::USR_ILLEGAL_ARGUMENT;
        }
    }

    pub(super) fn lives(&self, input: usize) -> bool {
        self.codes.get(input) == Some(&ExitCode::OK)
    }

    pub(super) fn none(&self) -> bool {
        self.codes.iter().all(|code| *code != ExitCode::OK)
    }

    pub(super) fn batch_return(&self) -> BatchReturn {
        BatchReturn::of(&self.codes)
    }
}

impl MinerCall<'_, '_> {
    /// The commitment to pieces as a CID, computed as the actor does.
    pub(super) fn unsealed_cid(
        &self,
        seal: RegisteredSealProof,
        pieces: &[miner::PieceActivationManifest],
    ) -> Result<miner::CompactCommD, ActorError> {
        if pieces.is_empty() {
            return Ok(miner::CompactCommD::empty());
        }
        let sector = self.info.sector_size as u64;
        let mut listed = Vec::with_capacity(pieces.len());
        for piece in pieces {
            piece
                .size
                .validate()
                .map_err(|e| illegal(format!("invalid piece size: {e}")))?;
            require(piece.size.0 <= sector, || {
                format!("piece of {} bytes is larger than the sector", piece.size.0)
            })?;
            listed.push(Piece {
                comm_p: comm_d(&piece.cid)?,
                size: piece.size,
            });
        }
        let computed = self.vm.net.verifier.comm_d(seal, &listed);
        let computed = computed.ok_or_else(|| illegal("failed to compute unsealed sector CID".into()))?;
        let cid = commitment::unsealed_cid(&computed).map_err(|e| illegal(e.to_string()))?;
        Ok(miner::CompactCommD::of(cid))
    }

    /// Tells those whom pieces name: the built-in market of its deals. There are no contracts, so nobody else takes a
    /// notification.
    pub(super) fn notify(&mut self, contents: &[Content<'_>], required: bool) -> Result<(), ActorError> {
        let refused = |address: Address, (code, text): (ExitCode, &str)| {
            Err(ActorError::unchecked(code, format!("{address}: {text}")))
        };
        let mut told = Vec::new();
        for content in contents {
            for piece in content.pieces {
                for target in &piece.notify {
                    if target.address == MARKET_ACTOR {
                        told.push(Added {
                            sector: content.sector,
                            expiration: content.expiration,
                            cid: piece.cid,
                            size: piece.size,
                            payload: target.payload.clone(),
                        });
                    } else if required {
                        let why = "nobody is there to be notified";
                        return refused(target.address, (miner::ERR_NOTIFICATION_SEND_FAILED, why));
                    }
                }
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        match self.vm.sector_content_changed(self.id, &told) {
            Err(error) if required => refused(
                MARKET_ACTOR,
                (miner::ERR_NOTIFICATION_RECEIVER_ABORTED, error.msg()),
            ),
            Ok(accepted) if required && accepted.contains(&false) => refused(
                MARKET_ACTOR,
                (
                    miner::ERR_NOTIFICATION_REJECTED,
                    "the market does not take a piece for its deal",
                ),
            ),
            // What nobody requires changes nothing.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// What a sector holds from now on.
pub(super) struct Content<'p> {
    pub(super) sector: SectorNumber,
    pub(super) expiration: ChainEpoch,
    pub(super) pieces: &'p [miner::PieceActivationManifest],
}

/// Space and time of pieces.
pub(super) fn space_time(pieces: &[miner::PieceActivationManifest], duration: i64) -> crate::types::BigInt {
    let bytes: u64 = pieces.iter().map(|piece| piece.size.0).sum();
    crate::types::BigInt::from(bytes) * duration
}
