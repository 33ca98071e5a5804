//! The law of journals.
/// Suite
pub async fn journal_suite() {}
