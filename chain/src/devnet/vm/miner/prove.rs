//! What seals and updates have in common: the form of their proofs, and pieces as the verifier takes them.

use crate::commitment;
use crate::types::state::ActorError;
use crate::types::{
    BatchReturn, Cid, ExitCode, RawBytes, RegisteredAggregateProof, RegisteredSealProof, miner,
};

use super::super::super::verifier::Piece;
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

    /// Tells those whom pieces name. There are no contracts and no deals, so nobody takes a notification.
    pub(super) fn notify<'p>(
        &self,
        pieces: impl IntoIterator<Item = &'p miner::PieceActivationManifest>,
        required: bool,
    ) -> Result<(), ActorError> {
        let mut targets = pieces.into_iter().flat_map(|piece| &piece.notify);
        let Some(target) = targets.next().filter(|_| required) else {
            return Ok(());
        };
        let (code, text) = if target.address == crate::address::MARKET_ACTOR {
            (miner::ERR_NOTIFICATION_REJECTED, "the market knows no such deal")
        } else {
            (
                miner::ERR_NOTIFICATION_SEND_FAILED,
                "nobody is there to be notified",
            )
        };
        Err(ActorError::unchecked(code, format!("{}: {text}", target.address)))
    }
}

/// Space and time of pieces.
pub(super) fn space_time(pieces: &[miner::PieceActivationManifest], duration: i64) -> crate::types::BigInt {
    let bytes: u64 = pieces.iter().map(|piece| piece.size.0).sum();
    crate::types::BigInt::from(bytes) * duration
}
