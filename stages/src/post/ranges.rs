//! What a proof of spacetime reads of a sector: a few ranges of the replica and of its last tree, by the challenges.
//!
//! The replica is the leaves (32 bytes each) of trees of arity 8: one, or 8 or 16 of them in large sectors, each with a
//! file of its own. The lowest rows of a tree are not kept. The library makes them again for a challenge, from the leaves
//! under one node of the lowest row that is kept; above that it reads the node's siblings row by row, and of every tree
//! the root (`merkletree`: `gen_cached_proof`, `LevelCacheStore`).

use std::ops::Range;

use merkletree::merkle::{get_merkle_tree_cache_size, get_merkle_tree_len};
use sealflow_engine::failure::Failure;
use storage_proofs_core::util::default_rows_to_discard;

/// Bytes of a node.
const NODE: u64 = 32;
/// Children of a node.
const ARITY: u64 = 8;
/// Ranges that are nearer to each other than this are read as one: a request costs more than these bytes.
const GAP: u64 = 32 << 10;

/// Ranges of a sector's files, in order and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    /// Of the replica.
    pub(super) sealed: Vec<Range<u64>>,
    /// Of each file of the last tree.
    pub(super) trees: Vec<Vec<Range<u64>>>,
    /// The size of each file of the last tree.
    pub(super) tree_bytes: u64,
}

impl Needed {
    /// For challenged leaves of a sector of this size, whose last tree is in so many files.
    ///
    /// # Errors
    /// The library knows no such tree.
    pub(super) fn of(sector_bytes: u64, files: usize, challenges: &[u64]) -> Result<Self, Failure> {
        let shape = Shape::of(sector_bytes, files)?;
        let mut sealed = Vec::new();
        let last = shape.bytes - NODE;
        let mut trees = vec![vec![last..shape.bytes]; files];
        for leaf in challenges {
            let tree = usize::try_from(leaf / shape.leaves).unwrap_or(usize::MAX);
            let Some(rows) = trees.get_mut(tree) else {
                let text = format!("leaf {leaf} is not in a sector of {sector_bytes} bytes");
                return Err(Failure::permanent("bad_input", text));
            };
            let start = leaf / shape.segment * shape.segment * NODE;
            sealed.push(start..start + shape.segment * NODE);
            shape.siblings(leaf % shape.leaves, rows);
        }
        Ok(Self {
            sealed: joined(sealed),
            trees: trees.into_iter().map(joined).collect(),
            tree_bytes: shape.bytes,
        })
    }

    /// The bytes of all ranges, and their number.
    #[cfg(test)]
    pub(super) fn totals(&self) -> (u64, usize) {
        let all = || self.trees.iter().flatten().chain(&self.sealed);
        (all().map(|range| range.end - range.start).sum(), all().count())
    }
}

/// One of the trees of a sector.
struct Shape {
    leaves: u64,
    /// Leaves under one node of the lowest row that is kept.
    segment: u64,
    /// Bytes of the rows that are kept.
    bytes: u64,
}

impl Shape {
    fn of(sector_bytes: u64, files: usize) -> Result<Self, Failure> {
        let unknown = |error: anyhow::Error| {
            let text = format!("no tree over {sector_bytes} bytes in {files} files: {error:#}");
            Failure::permanent("bad_input", text)
        };
        let leaves = sector_bytes / NODE / files as u64;
        let (width, arity) = (usize::try_from(leaves).unwrap_or(usize::MAX), 8);
        let dropped = default_rows_to_discard(width, arity);
        get_merkle_tree_len(width, arity).map_err(unknown)?;
        let kept = get_merkle_tree_cache_size(width, arity, dropped).map_err(unknown)?;
        let segment = (0..=dropped).fold(1, |segment, _| segment * ARITY);
        Ok(Self {
            leaves,
            segment,
            bytes: kept as u64 * NODE,
        })
    }

    /// The nodes above a leaf with their siblings, of each row that is kept but the root.
    fn siblings(&self, leaf: u64, ranges: &mut Vec<Range<u64>>) {
        let (mut at, mut width, mut offset) = (leaf / self.segment, self.leaves / self.segment, 0);
        while width > 1 {
            let start = (offset + at / ARITY * ARITY) * NODE;
            ranges.push(start..start + ARITY * NODE);
            offset += width;
            width /= ARITY;
            at /= ARITY;
        }
    }
}

/// The same ranges in order, those that touch or nearly do as one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_one() {
        assert_eq!(
            joined(vec![100_000..100_001, 0..10, 5..20]),
            [0..20, 100_000..100_001]
        );
        let near = joined(vec![0..10, 10 + GAP..11 + GAP]);
        assert_eq!(near.first(), Some(&(0..11 + GAP)));
        assert!(joined(Vec::new()).is_empty());
    }

    #[test]
    fn shapes_are_the_librarys() {
        // Sizes of files that the library wrote: 2 KiB keeps the root alone.
        for (sector, files, bytes, segment) in [
            (2 << 10, 1, 32, 64),
            (8 << 20, 1, 18_720, 512),
            (512 << 20, 1, 1_198_368, 512),
            (32 << 30, 8, 9_586_976, 512),
            (64 << 30, 16, 9_586_976, 512),
        ] {
            let shape = Shape::of(sector, files).unwrap();
            assert_eq!((shape.bytes, shape.segment), (bytes, segment), "{sector}");
        }
        assert!(Needed::of(2048, 1, &[64]).is_err());
    }

    #[test]
    fn a_sector_of_32_gib_is_read_for_a_hundred_thousandth_of_it() {
        let sector = 32_u64 << 30;
        // Spread over all trees, as challenges are.
        let challenges: Vec<u64> = (0..10)
            .map(|n| (n * 104_729 * 1_000_003) % (sector / 32))
            .collect();
        let (bytes, ranges) = Needed::of(sector, 8, &challenges).unwrap().totals();
        assert!(
            bytes < sector / 50_000 && ranges <= 10 * 4 + 8,
            "{bytes} bytes in {ranges} ranges"
        );
    }
}
