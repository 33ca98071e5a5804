//! Black-box tests of the binary: one module for each promise to the user. They run real proofs of
//! 2 KiB sectors with generated parameters, which are made once and kept in the user's cache folder.
#![expect(clippy::unwrap_used, reason = "a broken expectation is a failed test")]

mod api;
mod archives;
mod backup;
mod bad_input;
mod cable;
mod chain;
mod conformance;
mod crash;
mod documentation;
mod env;
mod estimates;
mod events;
mod executors;
mod house;
mod http_pieces;
mod migrate;
mod object_storage;
mod offline_seal;
mod post;
mod processors;
mod reference;
mod remote;
mod s3_server;
mod snap;
mod standby;
mod stores;
mod together;
mod verbs;
mod verifier;
mod workflow_files;
