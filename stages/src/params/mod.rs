//! Proof parameters: which sets there are, where they lie, how to check, fetch and generate them.
//!
//! Production sector sizes use the sets the network published, which [`fetch()`] brings here. Devnets use sets that
//! [`generate()`] makes on this machine. The two have the same file names and keep to separate folders
//! ([`ParamsDir`]); a process uses one of the folders, named in `FIL_PROOFS_PARAMETER_CACHE` before the proofs
//! library is first called. Proving needs the whole set, verifying only its `.vk` file.

mod check;
mod comb;
mod dir;
mod error;
mod fetch;
mod generate;
mod http;
mod key;
mod partial;
mod progress;
mod qap;
mod set;

pub use check::{CheckReport, FileCheck, Verdict, check, check_with};
pub use dir::{FileRecord, Origin, ParamsDir, SetState, SetStatus, list, status};
pub use error::ParamsError;
pub use fetch::{FetchReport, Source, fetch};
pub use generate::{GenerateReport, generate};
pub use progress::{Phase, Progress};
pub use set::{ParamKind, ParamSet, SectorSize, SetFiles};
