//! The workflows that a sector of a test goes through: those that come with us, tried once instead of until they work.

use anyhow::Context as _;

use crate::builtin;

/// Sealing up to C1, and the copy of a replica into a store: all that is the same whenever it is done.
pub(super) const SAME: &str = r#"
[workflow]
name    = "conformance"
subject = "sector"

[params]
miner      = "actor_id"
sector     = "sector_number"
proof_type = "registered_seal_proof"
pieces     = "pieces"
to_store   = { type = "string", default = "store" }
to_key     = { type = "string", default = "copies/replica" }

[defaults]
retry = { max_attempts = 1 }

[steps.add_pieces]
[steps.ticket]
[steps.tree_d]
needs = ["add_pieces"]
[steps.pc1]
needs = ["tree_d", "ticket"]
[steps.pc2]
needs = ["pc1"]
[steps.transfer]
needs = ["pc2"]
with  = { artifact = "pc2.sealed" }
[steps.synth_proof]
needs = ["pc2"]
[steps.seed]
needs = ["pc2"]
[steps.c1]
needs = ["synth_proof", "seed"]
"#;

/// The last steps of [`SAME`] where no proof is made.
pub(super) const STORED: &str = r#"
[steps.persist]
needs = ["transfer", "c1"]
[steps.finalize]
needs = ["persist"]
"#;

/// The last steps where one is.
pub(super) const PROVED: &str = r#"
[steps.proof_parameters]
[steps.c2]
needs = ["c1", "proof_parameters"]
[steps.verify_seal]
needs = ["c2"]
[steps.persist]
needs = ["transfer", "verify_seal"]
[steps.finalize]
needs = ["persist"]
"#;

/// A workflow that comes with us, whose steps are tried once: a program that fails has failed.
pub(super) fn once(name: &str) -> anyhow::Result<String> {
    let found = builtin::find(name, std::path::Path::new(""))?;
    let mut file: toml::Table = toml::from_str(&found.text).context("a workflow that comes with us")?;
    let once: toml::Table = toml::from_str("retry = { max_attempts = 1 }")?;
    file.insert("defaults".to_owned(), once.into());
    // A rewind is a second try.
    file.remove("rewind");
    Ok(toml::to_string(&file)?)
}
