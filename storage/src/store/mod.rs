//! Stores of artifacts: where large files are kept.

mod copy;
mod filesystem;
#[cfg(test)]
mod tests;

pub use self::filesystem::FilesystemStore;
