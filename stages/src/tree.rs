//! The binary SHA-256 tree over a sector's data (tree D), in the layout that the proofs library reads:
//! the leaves, then each row above them, then the root, 32 bytes a node, nothing between.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Bytes of a node.
const NODE: usize = 32;

/// Bytes read at a time: enough work for all cores, little memory.
const CHUNK: usize = 4 << 20;

/// The length of the tree file of a sector of this size.
pub(crate) fn tree_bytes(sector_bytes: u64) -> u64 {
    2 * sector_bytes - NODE as u64
}

/// A parent: SHA-256 of its children with the two highest bits cleared, so that it is a field element.
fn hash_pair(pair: &[u8]) -> [u8; NODE] {
    let mut node: [u8; NODE] = Sha256::digest(pair).into();
    node[NODE - 1] &= 0x3f;
    node
}

/// The root of the tree over `bytes` zeros; `bytes` is a power of two of at least 32.
pub(crate) fn zeros_root(bytes: u64) -> [u8; NODE] {
    let rows = (bytes / NODE as u64).trailing_zeros();
    (0..rows).fold([0; NODE], |child, _| hash_pair(&[child, child].concat()))
}

/// Builds the tree of the `sector_bytes` bytes in `data` into the new file `tree` and gives its root.
/// `done` is told the bytes hashed so far, of twice the sector. The caller makes the file durable.
///
/// # Errors
/// Reading or writing fails, or `data` has another length.
pub(crate) fn build(
    data: &Path,
    tree: &Path,
    sector_bytes: u64,
    done: &dyn Fn(u64),
) -> std::io::Result<[u8; 32]> {
    let found = std::fs::metadata(data)?.len();
    if found != sector_bytes {
        let text = format!("it has {found} bytes instead of {sector_bytes}");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(tree)?);
    std::io::copy(&mut File::open(data)?, &mut out)?;
    let mut hashed = sector_bytes;
    done(hashed);
    // Each row is read back from where the row below it was written.
    let (mut offset, mut row) = (0, sector_bytes);
    let mut root = [0; NODE];
    let mut buffer = vec![0; CHUNK];
    while row > NODE as u64 {
        out.flush()?;
        let mut source = File::open(tree)?;
        std::io::Seek::seek(&mut source, std::io::SeekFrom::Start(offset))?;
        let mut source = BufReader::with_capacity(1 << 20, source).take(row);
        let mut left = row;
        while left > 0 {
            let take = usize::try_from(left.min(CHUNK as u64)).unwrap_or(CHUNK);
            source.read_exact(&mut buffer[..take])?;
            let parents: Vec<[u8; NODE]> = buffer[..take].par_chunks(2 * NODE).map(hash_pair).collect();
            for parent in &parents {
                out.write_all(parent)?;
            }
            if let Some(last) = parents.last() {
                root = *last;
            }
            left -= take as u64;
            hashed += take as u64 / 2;
            done(hashed);
        }
        offset += row;
        row /= 2;
    }
    out.flush()?;
    Ok(root)
}

/// Whether a file has the length of a tree and ends with this root.
pub(crate) fn ends_with_root(tree: &Path, sector_bytes: u64, root: &[u8; 32]) -> bool {
    let whole = std::fs::metadata(tree).is_ok_and(|meta| meta.len() == tree_bytes(sector_bytes));
    whole && self::root(tree).is_ok_and(|last| last == *root)
}

/// The last node of a tree file.
///
/// # Errors
/// It is not there, or is shorter than a node.
pub(crate) fn root(tree: &Path) -> std::io::Result<[u8; NODE]> {
    let mut file = File::open(tree)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(-(NODE as i64)))?;
    let mut last = [0; NODE];
    file.read_exact(&mut last)?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use filecoin_proofs::constants::{DefaultPieceDomain, DefaultPieceHasher};
    use storage_proofs_core::cache_key::CacheKey;
    use storage_proofs_core::merkle::{BinaryMerkleTree, create_base_merkle_tree};

    #[test]
    fn equals_the_librarys_tree() {
        for sector_bytes in [2048_u64, 1 << 16, 8 << 20] {
            let dir = tempfile::tempdir().unwrap();
            // Field elements: the highest two bits of every node are clear.
            let mut data: Vec<u8> = (0..sector_bytes).map(|at| (at * 31 % 251) as u8).collect();
            data.iter_mut()
                .skip(31)
                .step_by(32)
                .for_each(|byte| *byte &= 0x3f);
            std::fs::write(dir.path().join("data"), &data).unwrap();
            let ours = dir.path().join("tree");
            let root = build(&dir.path().join("data"), &ours, sector_bytes, &|_| {}).unwrap();

            let config = merkletree_config(dir.path());
            let leaves = data.len() / 32;
            let theirs: BinaryMerkleTree<DefaultPieceHasher> =
                create_base_merkle_tree(Some(config.clone()), leaves, &data).unwrap();
            let expected: DefaultPieceDomain = theirs.root();
            assert_eq!(root.as_slice(), AsRef::<[u8]>::as_ref(&expected));
            drop(theirs);
            let path = storage_path(dir.path());
            assert!(std::fs::read(path).unwrap() == std::fs::read(&ours).unwrap());
            assert!(ends_with_root(&ours, sector_bytes, &root));
            assert!(!ends_with_root(&ours, sector_bytes, &[1; 32]));
        }
    }

    fn merkletree_config(dir: &Path) -> filecoin_proofs::StoreConfig {
        filecoin_proofs::StoreConfig::new(dir, CacheKey::CommDTree.to_string(), 0)
    }

    fn storage_path(dir: &Path) -> std::path::PathBuf {
        filecoin_proofs::StoreConfig::data_path(dir, &CacheKey::CommDTree.to_string())
    }
}
