//! A vendor's program and a Damocles worker, as far as both are the `vc-processors` crate: `vc-peer consume` is a
//! child that computes `tree_d` by an algorithm of its own; `vc-peer produce BINARY HOME STAGED FOLDER` drives
//! `BINARY --home HOME processor tree_d`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vc_processors::core::ext::{BoxedFinalizeHook, BoxedPrepareHook, ProducerBuilder, run_consumer};
use vc_processors::core::{Processor, Task};

/// The task of `tree_d`, as the builtin tasks of the crate declare it.
#[derive(Debug, Serialize, Deserialize)]
struct TreeD {
    registered_proof: String,
    staged_file: PathBuf,
    cache_dir: PathBuf,
}

impl Task for TreeD {
    const STAGE: &'static str = "tree_d";
    type Output = bool;
}

#[derive(Clone, Copy, Default)]
struct Vendor;

impl Processor<TreeD> for Vendor {
    fn process(&self, task: TreeD) -> Result<bool> {
        let mut row = fs::read(&task.staged_file).context("read the staged file")?;
        let mut tree = row.clone();
        while row.len() > 32 {
            row = row.chunks(64).flat_map(parent).collect();
            tree.extend_from_slice(&row);
        }
        fs::write(task.cache_dir.join("sc-02-data-tree-d.dat"), tree).context("write the tree")?;
        Ok(true)
    }
}

fn parent(pair: &[u8]) -> [u8; 32] {
    let mut node: [u8; 32] = Sha256::digest(pair).into();
    node[31] &= 0x3f;
    node
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["consume"] => run_consumer::<TreeD, Vendor>(),
        ["produce", binary, home, staged, folder] => produce(binary, home, staged, folder),
        _ => bail!("vc-peer consume, or vc-peer produce BINARY HOME STAGED FOLDER"),
    }
}

fn produce(binary: &str, home: &str, staged: &str, folder: &str) -> Result<()> {
    let args = ["--home", home, "processor", "tree_d"]
        .map(str::to_owned)
        .to_vec();
    let producer = ProducerBuilder::<BoxedPrepareHook<TreeD>, BoxedFinalizeHook<TreeD>>::new(
        PathBuf::from(binary),
        args,
    )
    .stable_timeout(Duration::from_secs(30))
    .spawn::<TreeD>()
    .context("the child did not become ready")?;
    let task = |staged: &str| TreeD {
        registered_proof: "StackedDrg2KiBV1_1".to_owned(),
        staged_file: PathBuf::from(staged),
        cache_dir: PathBuf::from(folder),
    };
    let ours = PathBuf::from(folder).join("sc-02-data-tree-d.dat");
    ensure!(producer.process(task(staged))?, "the child says no");
    let by_child = fs::read(&ours)?;
    Vendor.process(task(staged))?;
    ensure!(by_child == fs::read(&ours)?, "the trees differ");
    let refused = producer
        .process(task("/no/such/file"))
        .err()
        .context("a missing file was no failure")?;
    ensure!(format!("{refused:?}").contains("path_missing"), "{refused:?}");
    println!("the tree is the same, and a failure is told");
    Ok(())
}
