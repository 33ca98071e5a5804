//! The lives of the simulator on this journal: what it is given at random must come back as the model has it, over
//! restarts and beside a daemon that took over.

use sealflow_engine::testing::{Next, installation_suite};
use tempfile::TempDir;

use super::*;

/// So many seeds with `SEALFLOW_CASES`, from `SEALFLOW_SEED` on.
fn given(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Lives some lives, each on a journal of its own.
fn lives(memory: bool, count: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first = given("SEALFLOW_SEED", 0);
    for seed in first..first + given("SEALFLOW_CASES", count) {
        let folder = TempDir::new().unwrap();
        let place = folder.path().to_owned();
        let handle = runtime.handle().clone();
        let again = async move || {
            if memory {
                SurrealJournal::open("memory", OpenOptions::new(place.join("payloads")))
                    .await
                    .unwrap()
            } else {
                open(&place).await
            }
        };
        let begun = runtime.block_on(again());
        let mut restarts = 0;
        let next = move |before: SurrealJournal, how| {
            handle.block_on(async {
                restarts += 1;
                if how == Next::Beside {
                    return (successor(&before).await, Some(before));
                }
                // What is in memory is gone when it is closed.
                if memory || restarts % 4 != 0 {
                    return (successor(&before).await, None);
                }
                before.close().await.unwrap();
                drop(before);
                (again().await, None)
            })
        };
        if let Err(why) = installation_suite(seed, runtime.handle(), begun, next) {
            panic!("{why}");
        }
    }
}

#[test]
fn lives_are_the_same_in_memory() {
    lives(true, 12);
}

#[test]
fn lives_are_the_same_on_disk() {
    lives(false, 6);
}
