//! Faults that a test asks for: calls that fail, wait or break, and notifications that come twice, late or not.

use std::time::Duration;

use serde::Deserialize;

/// The most faults at a time.
const FAULTS: usize = 1000;
/// The longest delay.
const DELAY_MAX: Duration = Duration::from_secs(600);

/// A fault of calls of one method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallFault {
    /// The method, without its namespace.
    pub(super) method: String,
    /// How many calls it hits; 1 unless given.
    #[serde(default = "one")]
    pub(super) times: u32,
    /// The answer's error.
    #[serde(default)]
    pub(super) error: Option<FaultError>,
    /// Milliseconds before the answer.
    #[serde(default)]
    pub(super) delay_ms: u64,
    /// An HTTP status with a page instead of an answer.
    #[serde(default)]
    pub(super) status: Option<u16>,
    /// The call takes effect, and then its answer is lost (HTTP 502). This is how messages are sent twice.
    #[serde(default)]
    pub(super) lose_answer: bool,
}

/// An error of the method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultError {
    pub(super) code: i64,
    pub(super) message: String,
}

/// What is wrong with notifications of the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyFault {
    /// Each comes twice.
    #[serde(default)]
    pub(super) twice: bool,
    /// Milliseconds by which each is late.
    #[serde(default)]
    pub(super) delay_ms: u64,
    /// The connection ends after so many; 0 for never.
    #[serde(default)]
    pub(super) close_after: u32,
}

fn one() -> u32 {
    1
}

/// All faults that are wanted now.
#[derive(Debug, Default)]
pub(super) struct Faults {
    calls: Vec<CallFault>,
    pub(super) notify: NotifyFault,
}

impl Faults {
    /// Adds a fault of calls.
    pub(super) fn inject(&mut self, fault: CallFault) -> Result<(), String> {
        if self.calls.len() >= FAULTS {
            return Err(format!(
                "there are {FAULTS} faults already; Devnet.ClearFaults removes them"
            ));
        }
        if Duration::from_millis(fault.delay_ms) > DELAY_MAX {
            return Err("a delay of more than ten minutes".into());
        }
        self.calls.push(fault);
        Ok(())
    }

    /// The fault that hits this call.
    pub(super) fn hit(&mut self, method: &str) -> Option<CallFault> {
        let at = self.calls.iter().position(|fault| fault.method == method)?;
        let fault = self.calls.get_mut(at)?;
        fault.times = fault.times.saturating_sub(1);
        let hit = fault.clone();
        if fault.times == 0 {
            self.calls.remove(at);
        }
        Some(hit)
    }

    /// Ends all faults.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
