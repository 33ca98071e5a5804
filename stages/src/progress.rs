//! Small helpers for telling how far a stage is.

use sealflow_engine::stage::{Progress, StageContext};

/// Reports bytes done of a total.
pub(crate) fn bytes(cx: &StageContext, phase: &str, done: u64, total: u64) {
    cx.progress(of_bytes(phase, done, total));
}

/// Bytes done of a total.
pub(crate) fn of_bytes(phase: &str, done: u64, total: u64) -> Progress {
    Progress {
        phase: phase.to_owned(),
        done: Some(done),
        total: Some(total),
        unit: "bytes".to_owned(),
        estimate_seconds: None,
    }
}

/// Reports a phase that says nothing more about itself.
pub(crate) fn phase(cx: &StageContext, phase: impl Into<String>) {
    cx.progress(of_phase(phase));
}

/// A phase that says nothing more about itself.
pub(crate) fn of_phase(phase: impl Into<String>) -> Progress {
    Progress {
        phase: phase.into(),
        ..Progress::default()
    }
}
