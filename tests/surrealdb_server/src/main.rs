//! The community SurrealDB server as the tests start it: `start --user root --pass root --bind ADDRESS memory`.

fn main() -> std::process::ExitCode {
    surrealdb_server::init(surrealdb_core::CommunityComposer())
}
