//! The processes below a process, as `/proc` shows them. The guard of a child is a subreaper, so whatever the
//! child starts, however it hides, stays below the guard.

use std::collections::BTreeMap;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that is the same one as long as both numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) pid: i32,
    parent: i32,
    /// In ticks since the machine started.
    started: u64,
    /// Ticks of CPU time so far.
    pub(super) cpu: u64,
    /// It has ended, and waits for its parent to notice.
    zombie: bool,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            started: number(19)?,
            cpu: number(11)? + number(12)?,
            zombie: fields.first() == Some(&"Z"),
        })
    }

    /// Sends a signal, unless another process has the number by now.
    fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if Self::read(self.pid).is_some_and(|now| now.started == self.started)
            && let Err(error) = pidfd_send_signal(handle, signal)
        {
            tracing::debug!(pid = self.pid, %error, "not signalled");
        }
    }

    /// Bytes that it has read and written so far.
    pub(super) fn io(self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/io", self.pid)).unwrap_or_default();
        let value = |line: &str| line.split_once(": ")?.1.trim().parse::<u64>().ok();
        text.lines()
            .filter(|line| line.starts_with("rchar") || line.starts_with("wchar"))
            .filter_map(value)
            .sum()
    }
}

/// The processes below `root` that have not ended, without itself.
pub(super) fn below(root: i32) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(process) = pid.and_then(Process::read) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(pid) = open.pop() {
        for process in children.remove(&pid).unwrap_or_default() {
            open.push(process.pid);
            if !process.zombie {
                found.push(process);
            }
        }
    }
    found
}

/// Sends a signal to everything below `root`, and says how many there were.
pub(super) fn signal_below(root: i32, signal: Signal) -> usize {
    let found = below(root);
    found.iter().for_each(|process| process.signal(signal));
    found.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_children_are_found() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 100 & sleep 100 & wait"])
            .spawn()
            .unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let root = i32::try_from(child.id()).unwrap();
        while below(root).len() < 2 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(below(me).iter().any(|process| process.pid == root));
        while signal_below(root, Signal::KILL) > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(below(me).iter().all(|process| process.pid != root));
    }
}
