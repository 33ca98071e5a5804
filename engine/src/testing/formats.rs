//! What is stored must stay readable: `tests/data/formats/v1` holds one example of everything that the
//! journal keeps. Files are added there, never edited.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Entry, Event};
use crate::journal::{ArtifactRow, StoredGraph};
use crate::rows::{RunRow, StepRow};
use crate::workflow::{Graph, GraphData};

/// The files of a kind, with their texts.
fn files(kind: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/formats/v1");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.split('.').next() == Some(kind) {
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(
        !files.is_empty(),
        "{} has no example of `{kind}`",
        folder.display()
    );
    files.sort();
    files
}

/// Reads and writes again: nothing is lost, nothing is added.
#[track_caller]
fn stays<T: Serialize + DeserializeOwned>(kind: &str) -> Vec<T> {
    let read = |(name, text): (String, String)| {
        let value: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = serde_json::to_string(&value).unwrap();
        assert_eq!(again, text.trim_end(), "{name} is written differently now");
        value
    };
    files(kind).into_iter().map(read).collect()
}

#[test]
fn every_event_is_still_read() {
    let events: Vec<Event> = stays("event");
    let tag = |event: &Event| {
        serde_json::to_value(event).unwrap()["event"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let seen: BTreeSet<String> = events.iter().map(tag).collect();
    let all = [
        "run_started",
        "attempt_started",
        "attempt_succeeded",
        "attempt_failed",
        "attempt_lost",
        "attempt_released",
        "attempt_preempted",
        "step_waiting",
        "step_woken",
        "step_passed",
        "rewound",
        "step_judged",
        "items_listed",
        "step_expired",
        "step_skipped",
        "step_given_up",
        "run_closing",
        "step_overridden",
        "step_adopted",
        "step_approved",
        "run_migrated",
        "run_prioritized",
        "signal_received",
        "run_paused",
        "run_resumed",
        "step_redone",
        "step_retried",
        "cancel_requested",
        "run_finished",
    ];
    assert_eq!(seen, all.map(str::to_owned).into());
    // A new kind of event needs a line here, in the list above, and an example.
    for event in events {
        match event {
            Event::RunStarted { .. }
            | Event::AttemptStarted { .. }
            | Event::AttemptSucceeded { .. }
            | Event::AttemptFailed { .. }
            | Event::AttemptLost { .. }
            | Event::AttemptReleased { .. }
            | Event::AttemptPreempted { .. }
            | Event::StepWaiting { .. }
            | Event::StepWoken { .. }
            | Event::StepPassed { .. }
            | Event::Rewound { .. }
            | Event::StepJudged { .. }
            | Event::ItemsListed { .. }
            | Event::StepExpired { .. }
            | Event::StepSkipped { .. }
            | Event::StepGivenUp { .. }
            | Event::RunClosing
            | Event::StepOverridden { .. }
            | Event::StepAdopted { .. }
            | Event::StepApproved { .. }
            | Event::RunMigrated { .. }
            | Event::RunPrioritized { .. }
            | Event::SignalReceived { .. }
            | Event::RunPaused { .. }
            | Event::RunResumed { .. }
            | Event::StepRedone { .. }
            | Event::StepRetried { .. }
            | Event::CancelRequested { .. }
            | Event::RunFinished { .. } => {}
        }
    }
}

#[test]
fn entries_and_rows_are_still_read() {
    stays::<Entry>("entry");
    stays::<RunRow>("run_row");
    stays::<StepRow>("step_row");
    stays::<ArtifactRow>("artifact_row");
    stays::<StoredGraph>("stored_graph");
}

/// A run is pinned to the hash of its graph, so not even the order of a graph's fields may change.
#[test]
fn graphs_keep_their_hash() {
    let graphs: Vec<GraphData> = stays("graph");
    let hashes: Vec<String> = graphs
        .into_iter()
        .map(|data| Graph::new(data).unwrap().hash().to_string())
        .collect();
    let wanted: Vec<String> = files("graph_hash")
        .into_iter()
        .map(|(_, text)| text.trim_end().to_owned())
        .collect();
    assert_eq!(hashes, wanted);
}
