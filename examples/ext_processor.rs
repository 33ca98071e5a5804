//! A vendor's program as an ext-processor child, in Rust: the binary SHA-256 tree over a sector's data. It imports nothing
//! of sealflow but the crate for vendors, and any parent that speaks the protocol of `vc-processors` can drive it.
//!
//! ```sh
//! cargo build --release --example ext_processor
//! sealflow executor test --stage tree_d -- target/release/examples/ext_processor
//! ```
//!
//! and in machine.toml:
//!
//! ```toml
//! [executors.mine]
//! kind    = "ext-processor"
//! stages  = ["tree_d"]
//! command = ["/opt/mine/ext_processor"]
//! ```

use std::path::Path;
use std::sync::Arc;

use sealflow_executor::{Context, End, Failure, Handler, Job, run_child};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The task as the protocol has it.
#[derive(Deserialize)]
struct Task {
    staged_file: String,
    cache_dir: String,
}

/// Makes trees.
struct Trees;

impl Handler for Trees {
    async fn run(&self, job: Job, cx: Context) -> End {
        let task: Task = match serde_json::from_slice(&job.input) {
            Ok(task) => task,
            Err(error) => return failed("permanent", "bad_task", &error.to_string()),
        };
        cx.log(format!("a tree over {}\n", task.staged_file).as_bytes());
        // Computing must not hold up the runtime.
        let tree = tokio::task::spawn_blocking(move || tree(&task)).await;
        match tree {
            Ok(Ok(())) => End::Done(b"true".to_vec()),
            Ok(Err(error)) => failed("transient", "tree_failed", &error.to_string()),
            Err(panic) => failed("permanent", "panicked", &panic.to_string()),
        }
    }
}

/// The rows of the tree one behind the other, from the data to the root.
fn tree(task: &Task) -> std::io::Result<()> {
    let mut row = std::fs::read(&task.staged_file)?;
    let mut tree = row.clone();
    while row.len() > 32 {
        row = row.chunks_exact(64).flat_map(parent).collect();
        tree.extend_from_slice(&row);
    }
    std::fs::write(Path::new(&task.cache_dir).join("sc-02-data-tree-d.dat"), tree)
}

/// SHA-256 with the two highest bits cleared, so that it is an element of the field.
fn parent(pair: &[u8]) -> [u8; 32] {
    let mut node: [u8; 32] = Sha256::digest(pair).into();
    node[31] &= 0x3f;
    node
}

fn failed(class: &'static str, code: &str, message: &str) -> End {
    End::Failed(Failure {
        class,
        code: code.to_owned(),
        message: message.to_owned(),
    })
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    run_child("tree_d", Arc::new(Trees)).await
}
