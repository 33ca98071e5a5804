//! Where a child may run: processors, the memory of a NUMA node, an amount of memory. Held against this host.

use std::collections::BTreeSet;
use std::path::Path;

use super::cgroup::Wanted;

/// Where the children of an executor may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Processors, as `0-7,12`.
    pub cpuset: Option<String>,
    /// The NUMA node whose memory is preferred; without a cpuset its processors are the ones that are used.
    pub numa_node: Option<u32>,
    /// The most memory that a child and all it starts may have, in bytes.
    pub memory_limit: Option<u64>,
}

impl Placement {
    /// What is wrong with it on this host.
    pub fn problems(&self) -> Vec<String> {
        self.problems_on(Path::new("/sys/devices/system"))
    }

    fn problems_on(&self, system: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(text) = &self.cpuset {
            let online = std::fs::read_to_string(system.join("cpu/online")).unwrap_or_default();
            match (parse(text), parse(online.trim())) {
                (Err(why), _) => wrong.push(format!("`cpuset`: {why}")),
                (Ok(wanted), Ok(online)) => {
                    let none: Vec<_> = wanted.difference(&online).map(usize::to_string).collect();
                    if !none.is_empty() {
                        let text = none.join(", ");
                        wrong.push(format!("`cpuset`: this machine has no processor {text}"));
                    }
                }
                _ => {}
            }
        }
        if let Some(node) = self.numa_node
            && node_cpus(system, node).is_none()
        {
            wrong.push(format!("`numa_node`: this machine has no NUMA node {node}"));
        }
        wrong
    }

    /// The processors that a child may use; any if there are none.
    pub(super) fn cpus(&self) -> Vec<usize> {
        let set = self.cpuset.as_ref().and_then(|text| parse(text).ok());
        let of_node = || node_cpus(Path::new("/sys/devices/system"), self.numa_node?);
        set.or_else(of_node).unwrap_or_default().into_iter().collect()
    }

    /// What is wanted of control groups.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            cpus: self.cpuset.clone(),
            // Only preferred, so not a matter of groups, which would forbid the others.
            node: None,
            memory: self.memory_limit,
        }
    }

    /// Whether a host without control groups cannot give all of it.
    pub(super) fn needs_groups(&self) -> bool {
        self.memory_limit.is_some()
    }
}

fn node_cpus(system: &Path, node: u32) -> Option<BTreeSet<usize>> {
    let text = std::fs::read_to_string(system.join(format!("node/node{node}/cpulist"))).ok()?;
    parse(text.trim()).ok()
}

/// A list of processors, as the kernel writes them: `0-7,12`.
pub fn parse(text: &str) -> Result<BTreeSet<usize>, String> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < 8192);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => set.extend(first..=last),
            _ => return Err(format!("`{text}` is not a list of processors like 0-7,12")),
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse("0-2,7").unwrap(), BTreeSet::from([0, 1, 2, 7]));
        for bad in ["", "a", "3-1", "1-", "99999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_host_has_not_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("cpu")).unwrap();
        std::fs::create_dir_all(dir.path().join("node/node0")).unwrap();
        std::fs::write(dir.path().join("cpu/online"), "0-3\n").unwrap();
        std::fs::write(dir.path().join("node/node0/cpulist"), "0-3\n").unwrap();
        let placement = Placement {
            cpuset: Some("2-5".to_owned()),
            numa_node: Some(1),
            memory_limit: None,
        };
        let wrong = placement.problems_on(dir.path()).join("; ");
        assert!(
            wrong.contains("no processor 4, 5") && wrong.contains("no NUMA node 1"),
            "{wrong}"
        );
        let good = Placement {
            cpuset: Some("0-3".to_owned()),
            numa_node: Some(0),
            memory_limit: None,
        };
        assert!(good.problems_on(dir.path()).is_empty());
    }
}
