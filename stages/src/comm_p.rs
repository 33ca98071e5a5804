//! The commitment to a piece (comm_p): the data with two zero bits after every 254, and the root of the binary tree of
//! truncated SHA-256 over that. Chunks are hashed on all cores, with the SHA extensions of the processor where it has
//! them; what is only zeros is looked up.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use sha2::compress256;
use sha2::digest::generic_array::GenericArray;
use sha2::digest::typenum::U64;

use crate::tree::zeros_root;

/// Bytes of data in a group, and of the four nodes that it becomes.
const GROUP: usize = 127;
const PADDED_GROUP: usize = 128;
const NODE: usize = 32;

/// What one core pads and hashes at a time, with padding: it fits into a core's cache.
const CHUNK: usize = 256 << 10;

/// Chunks that are read before they are hashed, for each core.
const AHEAD: usize = 4;

/// The state that SHA-256 begins with (FIPS 180-4, 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The second block of every message of 64 bytes: a one bit, zeros, and the length in bits (FIPS 180-4, 5.1.1).
const END: [u8; 64] = {
    let mut block = [0; 64];
    block[0] = 0x80;
    block[62] = 2;
    block
};

/// Where the padded data goes, if anywhere.
pub(crate) struct Target<'a> {
    /// The file; it is zeros from `offset` on.
    pub(crate) file: &'a File,
    /// The first byte.
    pub(crate) offset: u64,
}

/// The commitment to the data of `source`, filled up with zeros to `padded_bytes` with padding, a power of two of at
/// least 128.
///
/// # Errors
/// Reading or writing fails, or there is more data than the piece holds.
pub fn comm_p(source: impl Read, padded_bytes: u64) -> io::Result<[u8; 32]> {
    write(source, padded_bytes, None)
}

/// The same, and the padded data goes to a file, but for zeros behind the end of the data.
pub(crate) fn write(
    mut source: impl Read,
    padded_bytes: u64,
    target: Option<&Target<'_>>,
) -> io::Result<[u8; 32]> {
    if !padded_bytes.is_power_of_two() || padded_bytes < PADDED_GROUP as u64 {
        let text = format!("a piece of {padded_bytes} bytes: it must be a power of two, and 128 or more");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let chunk = CHUNK.min(usize::try_from(padded_bytes).unwrap_or(CHUNK));
    let chunks = padded_bytes / chunk as u64;
    let data_of_chunk = chunk / PADDED_GROUP * GROUP;
    let ahead = rayon::current_num_threads().max(1) * AHEAD;
    let mut data = vec![0; data_of_chunk * ahead];
    let mut padded = vec![0; chunk * ahead];
    let mut tree = Tree::new(chunk as u64);
    let mut at = 0;
    while at < chunks {
        let count = usize::try_from(chunks - at).unwrap_or(ahead).min(ahead);
        let wanted = &mut data[..data_of_chunk * count];
        let read = fill(&mut source, wanted)?;
        if read == 0 {
            break;
        }
        wanted[read..].fill(0);
        // What is only zeros behind the data is not looked at.
        let used = read.div_ceil(data_of_chunk);
        let roots = (data.par_chunks(data_of_chunk), padded.par_chunks_mut(chunk))
            .into_par_iter()
            .take(used)
            .map_init(
                || vec![0; chunk / 2],
                |rows, (data, padded)| {
                    pad(data, padded);
                    root(padded, rows)
                },
            )
            .collect::<Vec<_>>();
        if let Some(target) = target {
            target
                .file
                .write_all_at(&padded[..chunk * used], target.offset + at * chunk as u64)?;
        }
        roots.into_iter().for_each(|root| tree.push(root));
        at += used as u64;
        if used < count {
            break;
        }
    }
    if at == chunks && source.read(&mut [0])? != 0 {
        let text = format!("there is more data than a piece of {padded_bytes} bytes holds");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(tree.finish(padded_bytes))
}

/// Reads until the buffer is full or there is no more.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Puts two zero bits after every 254, from the lowest bit of the first byte on.
fn pad(data: &[u8], padded: &mut [u8]) {
    for (group, nodes) in data
        .chunks_exact(GROUP)
        .zip(padded.chunks_exact_mut(PADDED_GROUP))
    {
        nodes[..NODE].copy_from_slice(&group[..NODE]);
        for at in 0..NODE {
            nodes[32 + at] = group[31 + at] >> 6 | group[32 + at] << 2;
            nodes[64 + at] = group[63 + at] >> 4 | group[64 + at] << 4;
        }
        for at in 0..NODE - 1 {
            nodes[96 + at] = group[95 + at] >> 2 | group[96 + at] << 6;
        }
        nodes[127] = group[126] >> 2;
        for last in [31, 63, 95] {
            nodes[last] &= 0x3f;
        }
    }
}

/// The parent of two nodes.
fn parent(children: &[u8; 64]) -> [u8; NODE] {
    let blocks: [GenericArray<u8, U64>; 2] = [(*children).into(), END.into()];
    let mut state = START;
    compress256(&mut state, &blocks);
    let mut node = [0; NODE];
    for (bytes, word) in node.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    node[NODE - 1] &= 0x3f;
    node
}

/// The root over nodes, at least two; `rows` is room for half of them.
fn root(nodes: &[u8], rows: &mut [u8]) -> [u8; NODE] {
    let above = |row: &[u8], at: usize| {
        let mut children = [0; 64];
        children.copy_from_slice(&row[at * 64..(at + 1) * 64]);
        parent(&children)
    };
    let mut length = nodes.len() / 2;
    for at in 0..length / NODE {
        rows[at * NODE..(at + 1) * NODE].copy_from_slice(&above(nodes, at));
    }
    while length > NODE {
        length /= 2;
        for at in 0..length / NODE {
            let node = above(rows, at);
            rows[at * NODE..(at + 1) * NODE].copy_from_slice(&node);
        }
    }
    let mut root = [0; NODE];
    root.copy_from_slice(&rows[..NODE]);
    root
}

/// The tree above chunks: of each row the node that waits for its neighbor.
struct Tree {
    /// Bytes below a node of the lowest row.
    chunk: u64,
    waiting: Vec<Option<[u8; NODE]>>,
}

impl Tree {
    fn new(chunk: u64) -> Self {
        Self {
            chunk,
            waiting: Vec::new(),
        }
    }

    fn push(&mut self, node: [u8; NODE]) {
        self.push_at(0, node);
    }

    fn push_at(&mut self, mut row: usize, mut node: [u8; NODE]) {
        loop {
            if self.waiting.len() <= row {
                self.waiting.resize(row + 1, None);
            }
            match self.waiting[row].take() {
                None => return self.waiting[row] = Some(node),
                Some(left) => {
                    let mut children = [0; 64];
                    children[..NODE].copy_from_slice(&left);
                    children[NODE..].copy_from_slice(&node);
                    node = parent(&children);
                    row += 1;
                }
            }
        }
    }

    /// The root, with zeros behind what came.
    fn finish(mut self, bytes: u64) -> [u8; NODE] {
        let rows = usize::try_from((bytes / self.chunk).trailing_zeros()).unwrap_or(0);
        for row in 0..rows {
            if self.waiting.get(row).is_some_and(Option::is_some) {
                self.push_at(row, zeros_root(self.chunk << row));
            }
        }
        let root = self.waiting.get(rows).copied().flatten();
        root.unwrap_or_else(|| zeros_root(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filecoin_proofs_api::UnpaddedBytesAmount;
    use filecoin_proofs_api::seal::{add_piece, generate_piece_commitment};
    use rand::{Rng, RngCore, SeedableRng};

    fn librarys(data: &[u8], padded: u64) -> [u8; 32] {
        let unpadded = padded / 128 * 127;
        let source = data.chain(io::repeat(0)).take(unpadded);
        let proof = filecoin_proofs_api::RegisteredSealProof::StackedDrg2KiBV1_1;
        let made = generate_piece_commitment(proof, source, UnpaddedBytesAmount(unpadded));
        made.unwrap().commitment
    }

    #[test]
    fn equals_the_librarys_on_random_data_of_every_size() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for bits in 7..=25 {
            let padded = 1_u64 << bits;
            let most = padded / 128 * 127;
            // Full, a little less, and one that ends anywhere.
            let lengths = [most, most - 1, random.gen_range(1..=most), 1];
            let lengths = if bits > 22 { &lengths[2..3] } else { &lengths[..] };
            for length in lengths {
                let mut data = vec![0; usize::try_from(*length).unwrap()];
                random.fill_bytes(&mut data);
                assert_eq!(
                    comm_p(data.as_slice(), padded).unwrap(),
                    librarys(&data, padded),
                    "{length} of {padded}"
                );
            }
        }
        assert_eq!(comm_p(io::empty(), 1 << 35).unwrap(), zeros_root(1 << 35));
    }

    #[test]
    fn writes_what_the_library_writes() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(8);
        for padded in [128_u64, 2048, 4 << 20] {
            let unpadded = padded / 128 * 127;
            let mut data = vec![0; usize::try_from(unpadded - 77).unwrap()];
            random.fill_bytes(&mut data);
            let file = tempfile::tempfile().unwrap();
            let target = Target {
                file: &file,
                offset: 4096,
            };
            let found = write(data.as_slice(), padded, Some(&target)).unwrap();
            file.set_len(4096 + padded).unwrap();
            let mut ours = vec![0; usize::try_from(padded).unwrap()];
            file.read_exact_at(&mut ours, 4096).unwrap();
            let proof = filecoin_proofs_api::RegisteredSealProof::StackedDrg2KiBV1_1;
            let source = data.chain(io::repeat(0)).take(unpadded);
            let mut staged = tempfile::tempfile().unwrap();
            let (info, _) =
                add_piece(proof, source, &mut staged, UnpaddedBytesAmount(unpadded), &[]).unwrap();
            let mut theirs = vec![0; ours.len()];
            staged.read_exact_at(&mut theirs, 0).unwrap();
            assert!(ours == theirs && found == info.commitment, "{padded}");
        }
    }

    #[test]
    fn too_much_data_is_noticed() {
        let data = vec![1; 128];
        assert!(comm_p(data.as_slice(), 128).is_err());
        assert!(comm_p(&data[..127], 128).is_ok());
        assert!(comm_p(io::empty(), 100).is_err());
    }
}
