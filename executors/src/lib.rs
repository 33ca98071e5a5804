//! Where attempts run. One module an executor kind.

mod in_process;
pub mod inputs;
pub mod log;
pub mod processor;
pub mod remote;

pub use in_process::InProcess;
pub use processor::ExtProcessor;
