//! Stores of artifacts: where large files are kept.

mod copy;
mod filesystem;
#[cfg(test)]
mod tests;

pub(crate) use self::copy::size;
pub use self::filesystem::FilesystemStore;
