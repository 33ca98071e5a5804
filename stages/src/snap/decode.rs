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
    let open = |path: &Path| File::open(path).map_err(|error| Failure::io("open", path, &error));
    let (mut encoded, mut key_file) = (open(update)?, open(key)?);
    let failure = |error: io::Error| Failure::io("write", target, &error);
    let mut out = BufWriter::new(File::create(target).map_err(failure)?);
    let mut group = range.start / GROUP;
    let end = range.end / GROUP;
    while group < end {
        let count = STEP.min(end - group);
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
