//! The community SurrealDB server as the tests start it: `start --user root --pass root --bind ADDRESS memory`.

// The futures of the query language nest deeply.
#![recursion_limit = "256"]

fn main() -> std::process::ExitCode {
    surrealdb_server::init(surrealdb_core::CommunityComposer())
}
