//! What can be seen of a replica without proving anything: whether its files are there, have the right sizes
//! and belong to the commitment. The library must not find that out by itself: it makes a tree that is
//! missing, in the operator's store.

use std::path::{Path, PathBuf};

use filecoin_hashers::{Domain, HashFunction, Hasher};
use filecoin_proofs_api::fr32::bytes_into_fr;
use storage_proofs_update::constants::TreeRHasher;

use crate::types::CommR;

/// Says what is wrong with a replica, if anything is.
pub(crate) fn wrong(sealed: &Path, cache: &Path, comm_r: CommR, sector_bytes: u64) -> Option<String> {
    check(sealed, cache, comm_r, sector_bytes).err()
}

fn check(sealed: &Path, cache: &Path, comm_r: CommR, sector_bytes: u64) -> Result<(), String> {
    let found = size(sealed)?;
    if found != sector_bytes {
        return Err(format!(
            "{} has {found} bytes instead of {sector_bytes}",
            sealed.display()
        ));
    }
    for tree in last_trees(cache, sector_bytes) {
        size(&tree)?;
    }
    let found = comm_r_of(cache)?;
    if found != comm_r {
        return Err(format!(
            "{} belongs to the replica {found}, not to {comm_r}",
            cache.display()
        ));
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64, String> {
    std::fs::metadata(path)
        .map(|meta| meta.len())
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// The auxiliary file.
pub(crate) const P_AUX: &str = "p_aux";

/// The files that proofs of spacetime need of a sector's cache: the auxiliary file, then the files of the last tree.
pub(crate) fn kept_names(sector_bytes: u64) -> Vec<String> {
    let trees = last_trees(Path::new(""), sector_bytes);
    let names = trees.into_iter().map(|path| path.to_string_lossy().into_owned());
    std::iter::once(P_AUX.to_owned()).chain(names).collect()
}

/// The files of the last tree: one for each of the trees that a large sector is made of.
fn last_trees(cache: &Path, sector_bytes: u64) -> Vec<PathBuf> {
    let count = match sector_bytes >> 30 {
        0..32 => return vec![cache.join("sc-02-data-tree-r-last.dat")],
        32..64 => 8,
        _ => 16,
    };
    (0..count)
        .map(|at| cache.join(format!("sc-02-data-tree-r-last-{at}.dat")))
        .collect()
}

/// The commitment that the auxiliary file in a cache folder stands for: the hash of comm_c and comm_r_last,
/// which are all that it holds.
fn comm_r_of(cache: &Path) -> Result<CommR, String> {
    let path = cache.join(P_AUX);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    comm_r_of_aux(&bytes).ok_or_else(|| format!("{} is damaged", path.display()))
}

/// The commitment that the content of an auxiliary file stands for; nothing if it is damaged.
pub(crate) fn comm_r_of_aux(bytes: &[u8]) -> Option<CommR> {
    if bytes.len() != 64 {
        return None;
    }
    type Node = <TreeRHasher as Hasher>::Domain;
    // The hash function panics on bytes that are no element of the field.
    let node = |bytes: &[u8]| bytes_into_fr(bytes).map(Node::from).ok();
    let (comm_c, comm_r_last) = (node(&bytes[..32])?, node(&bytes[32..])?);
    let comm_r = <TreeRHasher as Hasher>::Function::hash2(&comm_c, &comm_r_last);
    comm_r.into_bytes().try_into().ok().map(CommR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (sealed, cache) = (dir.path().join("sealed"), dir.path().join("cache"));
        let says = |text: &str| {
            let wrong = wrong(&sealed, &cache, CommR([0; 32]), 2048).unwrap_or_default();
            assert!(wrong.contains(text), "{wrong}, not {text}");
        };
        says("sealed: No such file");
        std::fs::write(&sealed, [0; 100]).unwrap();
        says("has 100 bytes instead of 2048");
        std::fs::write(&sealed, [0; 2048]).unwrap();
        says("tree-r-last.dat: No such file");
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join("sc-02-data-tree-r-last.dat"), []).unwrap();
        says("p_aux: No such file");
        std::fs::write(cache.join("p_aux"), [0; 10]).unwrap();
        says("is damaged");
        std::fs::write(cache.join("p_aux"), [255; 64]).unwrap();
        says("is damaged");
        std::fs::write(cache.join("p_aux"), [1; 64]).unwrap();
        says("belongs to the replica");
        let comm_r = comm_r_of(&cache).unwrap();
        assert_eq!(wrong(&sealed, &cache, comm_r, 2048), None);
    }

    #[test]
    fn large_sectors_have_several_trees() {
        for (bytes, count) in [(2 << 10, 1), (512 << 20, 1), (32 << 30, 8), (64 << 30, 16)] {
            assert_eq!(last_trees(Path::new("cache"), bytes).len(), count);
        }
    }
}
