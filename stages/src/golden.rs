//! For tests of wire forms: a message of the reference is read and written again without a change.

use sealflow_engine::wire::WireStage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The task and the answer are read and come out as they were.
pub(crate) fn both_ways<S: WireStage>(task: &str, answer: &str) {
    self::task::<S>(task);
    same::<S::Answer>(answer);
}

/// The task is read and comes out as it was.
pub(crate) fn task<S: WireStage>(task: &str) {
    same::<S::Task>(task);
}

fn same<T: Serialize + DeserializeOwned>(text: &str) {
    let read: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let wanted: Value = serde_json::from_str(text).unwrap();
    // By value: in what order the fields come says nothing.
    assert_eq!(serde_json::to_value(&read).unwrap(), wanted);
}
