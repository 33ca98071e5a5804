//! Where attempts run. One module an executor kind.

mod in_process;

pub use in_process::InProcess;
