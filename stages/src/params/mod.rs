//! Groth16 proof parameters: published sets that are fetched, devnet sets that are generated.
