//! Between our types and those of the proofs library: conversions, errors, and what its work costs.

use filecoin_proofs_api::{PieceInfo as LibraryPiece, ProverId, SectorId, UnpaddedBytesAmount};
use sealflow_engine::failure::{Failure, FailureClass};
use sealflow_engine::resource::Need;
use serde_json::Value;

use crate::tree;
use crate::types::{ActorId, PieceInfo, PostProof, SealProof, SectorNumber, UpdateProof};

/// The library's name of a miner: the payload of its ID address (the number as unsigned LEB128),
/// filled up with zeros.
pub(crate) fn prover_id(miner: ActorId) -> ProverId {
    let mut id = [0_u8; 32];
    let mut rest = miner.0;
    for byte in &mut id {
        *byte = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    id
}

pub(crate) fn sector_id(sector: SectorNumber) -> SectorId {
    SectorId::from(sector.0)
}

/// Pieces as the library takes them: sizes without padding, and behind the last one pieces of zeros up
/// to the end of the sector, without which it would take their tree for the whole. (Zeros between
/// pieces it adds itself; a sector without any piece it knows as committed capacity.)
pub(crate) fn library_pieces(
    pieces: &[PieceInfo],
    proof_type: SealProof,
) -> Result<Vec<LibraryPiece>, Failure> {
    let convert = |comm_p: [u8; 32], padded: u64| {
        LibraryPiece::new(comm_p, UnpaddedBytesAmount(padded / 128 * 127))
            .map_err(|error| Failure::permanent("bad_piece", format!("{error:#}")))
    };
    let mut all: Vec<LibraryPiece> = pieces
        .iter()
        .map(|piece| convert(piece.comm_p.0, piece.padded_bytes))
        .collect::<Result<_, _>>()?;
    let mut end = pieces.last().map_or(0, |piece| piece.offset + piece.padded_bytes);
    while end > 0 && end < proof_type.sector_bytes() {
        // The largest piece that may begin here.
        let size = 1 << end.trailing_zeros();
        all.push(convert(tree::zeros_root(size), size)?);
        end += size;
    }
    Ok(all)
}

/// The failure of a library call. Disk trouble keeps its own code; the rest is tried again a few
/// times, because a bit flip or a busy GPU looks the same from here as a real defect.
pub(crate) fn library_failure(what: &str, error: &anyhow::Error) -> Failure {
    for cause in error.chain() {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull
                    | std::io::ErrorKind::QuotaExceeded
                    | std::io::ErrorKind::PermissionDenied
                    | std::io::ErrorKind::ReadOnlyFilesystem
            )
        {
            let mut failure = Failure::io(what, std::path::Path::new(""), io);
            failure.message = format!("{what}: {error:#}");
            return failure;
        }
    }
    Failure::new(
        FailureClass::Transient,
        "proofs_library",
        format!("{what}: {error:#}"),
    )
}

/// The sector size that an input is about; 64 GiB, the largest, if it does not say.
pub(crate) fn sector_bytes(input: &Value) -> u64 {
    fn parse<T: std::str::FromStr>(value: &Value) -> Option<T> {
        value.as_str()?.parse().ok()
    }
    let seal = || parse(&input["proof_type"]).map(SealProof::sector_bytes);
    let update = || parse(&input["update_proof_type"]).map(UpdateProof::sector_bytes);
    let post = || parse(&input["post_proof_type"]).map(PostProof::sector_bytes);
    seal().or_else(update).or_else(post).unwrap_or(64 << 30)
}

/// The class of work about sectors: their proof type, which gives their size. Empty if the input does not
/// say.
pub(crate) fn class(input: &Value) -> String {
    let names = ["proof_type", "update_proof_type", "post_proof_type"];
    let named = names.iter().find_map(|name| input[*name].as_str());
    named.unwrap_or_default().to_owned()
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Light work: it mostly waits for disks or networks.
pub(crate) fn light() -> Need {
    Need {
        cpu: 0,
        memory: 64 * MIB,
        ..Need::default()
    }
}

/// Work on one core with buffers.
pub(crate) fn one_core() -> Need {
    Need {
        cpu: 1,
        memory: 128 * MIB,
        ..Need::default()
    }
}

/// PC1 keeps two layers and the parent cache in memory.
pub(crate) fn pc1(sector_bytes: u64) -> Need {
    Need {
        cpu: 1,
        memory: 2 * sector_bytes + 128 * MIB,
        ..Need::default()
    }
}

/// PC2 uses every core; its memory grows with the sector up to what the column hasher batches.
pub(crate) fn pc2(sector_bytes: u64) -> Need {
    Need {
        cpu: u32::MAX,
        memory: (3 * sector_bytes).min(100 * GIB) + 512 * MIB,
        ..Need::default()
    }
}

/// C2 uses every core. At 2 KiB and 8 MiB the parameters and the witness take some 4 GiB (measured);
/// production sizes need the 190 GiB that operators provide for them.
pub(crate) fn groth(sector_bytes: u64) -> Need {
    let memory = if sector_bytes <= 8 * MIB {
        4 * GIB
    } else if sector_bytes <= GIB {
        16 * GIB
    } else {
        190 * GIB
    };
    Need {
        cpu: u32::MAX,
        memory,
        ..Need::default()
    }
}

/// A proof of spacetime uses every core. Measured at 2 KiB; what production sizes need is an estimate from
/// the size of their circuits.
pub(crate) fn post(sector_bytes: u64) -> Need {
    let memory = if sector_bytes <= 8 * MIB {
        GIB
    } else if sector_bytes <= GIB {
        4 * GIB
    } else {
        64 * GIB
    };
    Need {
        cpu: u32::MAX,
        memory,
        ..Need::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_leaves_zeros_behind_it() {
        use crate::types::CommP;
        use filecoin_proofs_api::seal::compute_comm_d;
        let proof = SealProof::for_size(2048).unwrap();
        let mut data = vec![0_u8; 2048];
        data[300..310].fill(7);
        let dir = tempfile::tempdir().unwrap();
        let root_of = |bytes: &[u8]| {
            std::fs::write(dir.path().join("data"), bytes).unwrap();
            tree::build(
                &dir.path().join("data"),
                &dir.path().join("tree"),
                bytes.len() as u64,
                &|_| {},
            )
            .unwrap()
        };
        let comm_p = CommP(root_of(&data[256..512]));
        assert_eq!(root_of(&[0; 512]), tree::zeros_root(512));
        let piece = PieceInfo {
            comm_p,
            padded_bytes: 256,
            offset: 256,
            data_bytes: 10,
        };
        let first = PieceInfo {
            comm_p: CommP(tree::zeros_root(128)),
            padded_bytes: 128,
            offset: 0,
            data_bytes: 1,
        };
        let pieces = library_pieces(&[first, piece], proof).unwrap();
        assert_eq!(compute_comm_d(proof.0, &pieces).unwrap(), root_of(&data));
        assert!(library_pieces(&[], proof).unwrap().is_empty());
    }

    #[test]
    fn prover_ids_are_address_payloads() {
        assert_eq!(prover_id(ActorId(1000))[..3], [0xe8, 0x07, 0]);
        assert_eq!(prover_id(ActorId(0))[..2], [0, 0]);
        assert_eq!(prover_id(ActorId(u64::MAX))[9], 1);
    }
}
