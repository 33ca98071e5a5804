//! Takes data off an updated replica: the reverse of `snap_encode`, for any range.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use filecoin_proofs_api::fr32::write_unpadded;
use filecoin_proofs_api::update::empty_sector_update_decode_from_range;
use sealflow_engine::failure::Failure;

use crate::proofs;
use crate::sector_info::UpdateInfo;

/// Bytes of a group: 127 of data, in 128 with padding.
const GROUP: u64 = 127;

/// Groups decoded at a time: 4 MiB.
const STEP: u64 = 32 << 10;

/// Writes the bytes of a range of the sector's data; it begins and ends between groups.
pub(crate) fn decode(
    update: &Path,
    key: &Path,
    info: &UpdateInfo,
    range: Range<u64>,
    target: &Path,
) -> Result<(), Failure> {
    decode_by(STEP, update, key, info, range, target)
}

fn decode_by(
    step: u64,
    update: &Path,
    key: &Path,
    info: &UpdateInfo,
    range: Range<u64>,
    target: &Path,
) -> Result<(), Failure> {
    let open = |path: &Path| File::open(path).map_err(|error| Failure::io("open", path, &error));
    let (mut encoded, mut key_file) = (open(update)?, open(key)?);
    let failure = |error: io::Error| Failure::io("write", target, &error);
    let mut out = BufWriter::new(File::create(target).map_err(failure)?);
    let mut group = range.start / GROUP;
    let end = range.end / GROUP;
    while group < end {
        let count = step.min(end - group);
        let part = |file: &mut File, path: &Path| {
            let mut bytes = vec![0; usize::try_from(count * 128).unwrap_or(usize::MAX)];
            file.seek(SeekFrom::Start(group * 128))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|error| Failure::io("read", path, &error))?;
            Ok::<_, Failure>(bytes)
        };
        let (from, with) = (part(&mut encoded, update)?, part(&mut key_file, key)?);
        let mut padded = Vec::with_capacity(from.len());
        let node = |group: u64| usize::try_from(group * 4).unwrap_or(usize::MAX);
        empty_sector_update_decode_from_range(
            info.update_proof_type.0,
            info.comm_d_new.0,
            info.comm_r_old.0,
            from.as_slice(),
            with.as_slice(),
            &mut padded,
            node(group),
            node(count),
        )
        .map_err(|error| proofs::library_failure("decode the update", &error))?;
        let bytes = usize::try_from(count * GROUP).unwrap_or(usize::MAX);
        write_unpadded(&padded, &mut out, 0, bytes).map_err(failure)?;
        group += count;
    }
    out.flush().map_err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ActorId, CommD, CommR, SealProof, SectorNumber, UpdateProof};
    use ff::PrimeField;
    use filecoin_hashers::Domain;
    use filecoin_proofs_api::UnpaddedBytesAmount;
    use filecoin_proofs_api::fr32::bytes_into_fr;
    use filecoin_proofs_api::seal::add_piece;
    use storage_proofs_update::constants::{TreeDDomain, TreeRDomain, h_default};
    use storage_proofs_update::phi;
    use storage_proofs_update::vanilla::Rhos;

    #[test]
    fn any_range_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let data: Vec<u8> = (0..2032_u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let proof = SealProof::for_size(2048).unwrap();
        let mut staged = File::create(at("staged")).unwrap();
        add_piece(
            proof.0,
            data.as_slice(),
            &mut staged,
            UnpaddedBytesAmount(2032),
            &[],
        )
        .unwrap();
        // What an update is: each node of the key, plus that of the data times what the commitments give.
        let (old, new) = (CommR([1; 32]), CommD([2; 32]));
        let phi = phi(
            &TreeDDomain::try_from_bytes(&new.0).unwrap(),
            &TreeRDomain::try_from_bytes(&old.0).unwrap(),
        );
        let rhos = Rhos::new(&phi, h_default(64), 64);
        let padded = std::fs::read(at("staged")).unwrap();
        let key: Vec<u8> = (0..2048_u32).map(|at| (at % 61) as u8).collect();
        let nodes = padded.chunks(32).zip(key.chunks(32)).enumerate();
        let update: Vec<u8> = nodes
            .flat_map(|(node, (data, key))| {
                let sum = bytes_into_fr(key).unwrap() + bytes_into_fr(data).unwrap() * rhos.get(node);
                sum.to_repr()
            })
            .collect();
        std::fs::write(at("key"), key).unwrap();
        std::fs::write(at("update"), update).unwrap();
        let info = UpdateInfo {
            version: UpdateInfo::VERSION,
            miner: ActorId(1000),
            sector: SectorNumber(7),
            update_proof_type: UpdateProof::for_size(2048).unwrap(),
            comm_r_old: old,
            comm_r_new: old,
            comm_d_new: new,
            piece_infos: Vec::new(),
        };
        for (step, range) in [
            (STEP, 0..2032),
            (3, 0..2032),
            (1, 127..254),
            (5, 254..2032),
            (7, 127..127),
        ] {
            decode_by(step, &at("update"), &at("key"), &info, range.clone(), &at("out")).unwrap();
            let found = std::fs::read(at("out")).unwrap();
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            assert!(found == data[range.clone()], "{range:?} in steps of {step}");
        }
        let failure = decode(&at("none"), &at("key"), &info, 0..127, &at("out")).unwrap_err();
        assert_eq!(failure.code, "path_missing");
    }
}
