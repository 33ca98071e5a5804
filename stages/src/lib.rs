//! Everything Filecoin computes or says: one file a stage, one registry.
pub mod params;
