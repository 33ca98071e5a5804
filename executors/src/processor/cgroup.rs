//! Control groups, of version 1 or 2, where the host has them and we may write there: processors, memory, and
//! killing all of a group at once. What the host lacks is said, not passed over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where this host's hierarchies are, and where this process stands in them.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    /// Our folder in the unified hierarchy.
    unified: Option<PathBuf>,
    /// Our folders in those of version 1, by controller.
    single: BTreeMap<String, PathBuf>,
}

/// What is wanted of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A list of processors, as `0-7,12`.
    pub(super) cpus: Option<String>,
    /// A NUMA node.
    pub(super) node: Option<u32>,
    /// Bytes.
    pub(super) memory: Option<u64>,
}

/// The groups of one child.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    /// All that it joins.
    pub(super) dirs: Vec<PathBuf>,
    /// The one that limits memory.
    memory: Option<PathBuf>,
    /// What the host lacks of what was wanted.
    pub(super) missing: Vec<String>,
}

/// The folder of ours below which groups are made.
const OURS: &str = "sealflow";

impl Host {
    /// Looks at this host.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::read(&mounts, &own)
    }

    fn read(mounts: &str, own: &str) -> Self {
        let mut host = Self::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            let place = |path: &str| {
                let full = Path::new(mount).join(path.trim_start_matches('/'));
                // In a container the path is that of the host, and not to be seen.
                if full.is_dir() { full } else { PathBuf::from(mount) }
            };
            for entry in own.lines() {
                let mut parts = entry.splitn(3, ':').skip(1);
                let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                    continue;
                };
                match kind {
                    Some("cgroup2") if controllers.is_empty() => host.unified = Some(place(path)),
                    Some("cgroup") => {
                        for controller in controllers.split(',') {
                            if options.split(',').any(|option| option == controller) {
                                host.single.insert(controller.to_owned(), place(path));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        host
    }

    /// Removes what daemons left that were killed together with their guards. A group's name holds the number of
    /// the process that made it.
    pub(super) fn sweep(&self) {
        for above in self.unified.iter().chain(self.single.values()) {
            for entry in fs::read_dir(above.join(OURS)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let maker = name
                    .to_str()
                    .and_then(|name| name.rsplit('.').nth(1)?.parse::<u32>().ok());
                if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                    // One in which something runs stays by itself.
                    drop(fs::remove_dir(entry.path()));
                }
            }
        }
    }

    /// Makes groups with this name. What cannot be had is listed as missing.
    pub(super) fn make(&self, name: &str, wanted: &Wanted) -> Groups {
        let mut groups = Groups::default();
        // A group to kill by, which also limits where that controller is of this version.
        let unified = self.unified.as_ref().and_then(|above| {
            let dir = above.join(OURS).join(name);
            fs::create_dir_all(&dir).ok().map(|()| dir)
        });
        if let Some(dir) = &unified {
            groups.dirs.push(dir.clone());
        }
        if wanted.cpus.is_some() || wanted.node.is_some() {
            let set = |dir: &Path| -> io::Result<()> {
                if let Some(cpus) = &wanted.cpus {
                    fs::write(dir.join("cpuset.cpus"), cpus)?;
                }
                if let Some(node) = wanted.node {
                    fs::write(dir.join("cpuset.mems"), node.to_string())?;
                }
                Ok(())
            };
            if let Err(error) = self.place("cpuset", name, unified.as_deref(), &mut groups, &set) {
                groups.missing.push(format!("cgroup controller cpuset: {error}"));
            }
        }
        if let Some(bytes) = wanted.memory {
            let set = |dir: &Path| -> io::Result<()> {
                let single = dir.join("memory.limit_in_bytes");
                if single.exists() {
                    return fs::write(single, bytes.to_string());
                }
                fs::write(dir.join("memory.max"), bytes.to_string())
            };
            match self.place("memory", name, unified.as_deref(), &mut groups, &set) {
                Ok(dir) => groups.memory = Some(dir),
                Err(error) => groups.missing.push(format!("cgroup controller memory: {error}")),
            }
        }
        groups
    }

    /// Sets up one controller in the hierarchy that has it.
    fn place(
        &self,
        controller: &str,
        name: &str,
        unified: Option<&Path>,
        groups: &mut Groups,
        set: &dyn Fn(&Path) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        if let Some(above) = self.single.get(controller) {
            let dir = above.join(OURS).join(name);
            fs::create_dir_all(&dir)?;
            if controller == "cpuset" {
                inherit_cpuset(above, &[above.join(OURS), dir.clone()])?;
            }
            set(&dir)?;
            groups.dirs.push(dir.clone());
            return Ok(dir);
        }
        let (Some(above), Some(dir)) = (&self.unified, unified) else {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "the host has none that we may write to",
            ));
        };
        let known = fs::read_to_string(above.join("cgroup.controllers"))?;
        if !known.split_whitespace().any(|known| known == controller) {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "it is not delegated to this process",
            ));
        }
        for folder in [above.clone(), above.join(OURS)] {
            fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        set(dir)?;
        Ok(dir.to_owned())
    }
}

/// A new group of version 1 has no processors and no memory nodes until somebody says which.
fn inherit_cpuset(from: &Path, to: &[PathBuf]) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(from.join(file))?;
        for dir in to {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                fs::write(dir.join(file), value.trim())?;
            }
        }
    }
    Ok(())
}

impl Groups {
    /// How often the kernel has killed a process of the group for its memory.
    pub(super) fn out_of_memory(&self) -> u64 {
        let Some(dir) = &self.memory else { return 0 };
        let read = |file| fs::read_to_string(dir.join(file)).ok();
        let text = read("memory.events")
            .or_else(|| read("memory.oom_control"))
            .unwrap_or_default();
        let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
        text.lines().find_map(count).unwrap_or(0)
    }
}

/// Puts this process into a group with this name and these processors, as children of a Damocles worker do that
/// are told so by `VC_CG_NAME` and `VC_CG_CPUSET`.
///
/// # Errors
/// The host has no such controller that we may write to, or the name leads elsewhere.
pub fn join_named(name: &str, cpus: &str) -> io::Result<()> {
    if name
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.'))
    {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("`{name}` is no name of a group"),
        ));
    }
    let host = Host::find();
    let above = host.single.get("cpuset").or(host.unified.as_ref());
    let above = above.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    let dir = above.join(name);
    fs::create_dir_all(&dir)?;
    if host.single.contains_key("cpuset") {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for part in name.split('/') {
            dirs.push(dirs.last().unwrap_or(above).join(part));
        }
        inherit_cpuset(above, &dirs)?;
    }
    fs::write(dir.join("cpuset.cpus"), cpus)?;
    join(&dir)
}

/// Puts this process into a group.
pub(super) fn join(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
}

/// Kills all of a group, where the kernel can.
pub(super) fn kill(dir: &Path) {
    let file = dir.join("cgroup.kill");
    if file.exists()
        && let Err(error) = fs::write(&file, "1")
    {
        tracing::debug!(group = %dir.display(), %error, "not killed as a group");
    }
}

/// Removes an empty group. Those that died a moment ago may still be counted.
pub(super) fn remove(dir: &Path) {
    for _ in 0..50 {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("unified/a.service")).unwrap();
        fs::create_dir_all(at("memory")).unwrap();
        let mounts = format!(
            "30 24 0:26 / {} rw shared:4 - cgroup2 cgroup2 rw\n31 24 0:27 / {} rw - cgroup cgroup rw,memory\n",
            at("unified").display(),
            at("memory").display()
        );
        let host = Host::read(&mounts, "4:memory:/not/here\n0::/a.service\n");
        assert_eq!(host.unified, Some(at("unified/a.service")));
        assert_eq!(host.single.get("memory"), Some(&at("memory")));
        // Nothing of it is real, so the controllers are missing, and that is said.
        let wanted = Wanted {
            cpus: Some("0".to_owned()),
            memory: Some(1 << 30),
            ..Wanted::default()
        };
        let groups = Host::default().make("x", &wanted);
        assert_eq!(groups.missing.len(), 2, "{groups:?}");
        assert!(groups.dirs.is_empty());
    }
}
