//! Compiles the contract. `protox` reads it, so that no `protoc` needs to be installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "proto";
    let file = "sealflow/executor/v1/executor.proto";
    println!("cargo::rerun-if-changed={root}");
    let descriptors = protox::compile([file], [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // For reflection.
    std::fs::write(
        out.join("executor.bin"),
        protox::prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".sealflow.executor.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
