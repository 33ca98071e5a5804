//! What this machine is made of, as far as it matters for where work runs.

use std::collections::BTreeMap;
use std::path::Path;

use sealflow_executors::processor::parse_cpus;

use super::memory_bytes;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// NUMA nodes; a machine without them is one node.
    pub(crate) nodes: Vec<Node>,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// GPUs, by index.
    pub(crate) gpus: Vec<u8>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) number: u32,
    /// Its processors in groups that share a last-level cache, each as the kernel numbers them. Two threads of a
    /// core are two processors.
    pub(crate) caches: Vec<Vec<usize>>,
}

impl Hardware {
    /// Looks at this machine.
    pub(crate) fn of_this_machine() -> Self {
        let gpus = nvidia(Path::new("/proc/driver/nvidia/gpus"));
        Self::read(Path::new("/sys/devices/system"), memory_bytes(), gpus)
    }

    fn read(system: &Path, memory: u64, gpus: Vec<u8>) -> Self {
        let cpus = |path: &Path| {
            let text = std::fs::read_to_string(path).ok()?;
            parse_cpus(text.trim()).ok()
        };
        let online = cpus(&system.join("cpu/online")).unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            (0..cores).collect()
        });
        let mut node_of: BTreeMap<usize, u32> = BTreeMap::new();
        for entry in std::fs::read_dir(system.join("node"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("node")?.parse().ok());
            if let (Some(number), Some(cpus)) = (number, cpus(&entry.path().join("cpulist"))) {
                node_of.extend(cpus.into_iter().map(|cpu| (cpu, number)));
            }
        }
        let mut nodes: BTreeMap<u32, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for cpu in online {
            let shared = cpus(&system.join(format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list")));
            let first = shared
                .and_then(|shared| shared.first().copied())
                .unwrap_or_default();
            let node = nodes
                .entry(node_of.get(&cpu).copied().unwrap_or_default())
                .or_default();
            node.entry(first).or_default().push(cpu);
        }
        let node = |(number, caches): (u32, BTreeMap<usize, Vec<usize>>)| Node {
            number,
            caches: caches.into_values().collect(),
        };
        Self {
            nodes: nodes.into_iter().map(node).collect(),
            memory,
            gpus,
        }
    }

    /// How many processors there are.
    pub(crate) fn cpus(&self) -> usize {
        self.nodes.iter().map(Node::cpus).sum()
    }
}

impl Node {
    /// How many processors it has.
    pub(crate) fn cpus(&self) -> usize {
        self.caches.iter().map(Vec::len).sum()
    }
}

/// The GPUs that NVIDIA's driver knows, in the order of their bus addresses, which is the order of
/// `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
fn nvidia(folder: &Path) -> Vec<u8> {
    let count = std::fs::read_dir(folder).map_or(0, Iterator::count);
    (0..u8::try_from(count.min(64)).unwrap_or_default()).collect()
}

/// Processors as the kernel writes them: `0-7,12`.
pub(crate) fn list(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = ranges.into_iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_caches_are_found() {
        let system = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = system.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("cpu/online", "0-7\n");
        write("node/node0/cpulist", "0-1,4-5\n");
        write("node/node1/cpulist", "2-3,6-7\n");
        for (cpu, shared) in [(0, "0,4"), (4, "0,4"), (1, "1,5"), (5, "1,5")] {
            write(&format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), shared);
        }
        for cpu in [2, 3, 6, 7] {
            write(&format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), "2-3,6-7\n");
        }
        let found = Hardware::read(system.path(), 1 << 30, vec![0]);
        assert_eq!(
            found.nodes,
            [
                Node {
                    number: 0,
                    caches: vec![vec![0, 4], vec![1, 5]]
                },
                Node {
                    number: 1,
                    caches: vec![vec![2, 3, 6, 7]]
                },
            ]
        );
        assert_eq!(found.cpus(), 8);
        // A system that tells nothing is one node with all there is.
        let nothing = Hardware::read(&system.path().join("none"), 1, Vec::new());
        assert_eq!(nothing.nodes.len(), 1);
        assert!(nothing.cpus() >= 1);
    }

    #[test]
    fn processors_are_written_as_the_kernel_does() {
        assert_eq!(list(&[4, 0, 1, 2, 7]), "0-2,4,7");
        assert_eq!(list(&[]), "");
    }
}
