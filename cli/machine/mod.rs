//! The machine profile: `machine.toml` in the home. It says where work runs; what runs is in the workflow
//! files, and limits of the installation are in `config.toml`.

pub(crate) mod hardware;
mod processor;
pub(crate) mod suggest;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use sealflow_engine::executor::{Claims as EngineClaims, ExecutorSpec, Machine as EngineMachine};
use sealflow_engine::id::StageName;
use sealflow_engine::resource::{Gpus, Resources};
use sealflow_engine::stage::StageRegistry;
use sealflow_executors::processor::SIDE_DAEMON;
use serde::{Deserialize, Serialize};

use crate::exit::{CliError, Kind as ExitKind};

/// The commented default file.
pub(crate) const DEFAULT_TEXT: &str = include_str!("../machine.default.toml");

/// The name of the executor that there is without a profile, and of the machine that the daemon is on.
const LOCAL: &str = "local";
const CONCURRENCY: usize = 64;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) machine: Machine,
    pub(crate) executors: BTreeMap<String, Executor>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Machine {
    pub(crate) cpu: Option<u32>,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) disk: Option<ByteSize>,
    pub(crate) gpus: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Executor {
    pub(crate) stages: Option<Vec<String>>,
    pub(crate) concurrency: usize,
    pub(crate) claims: Claims,
    pub(crate) gpus: Option<Vec<u8>>,
    pub(crate) locks: Vec<String>,
    #[serde(with = "duration")]
    pub(crate) stagger: Duration,
    pub(crate) kind: Kind,
    pub(crate) command: Vec<String>,
    pub(crate) children: usize,
    #[serde(with = "duration")]
    pub(crate) ready_timeout: Duration,
    pub(crate) inherit_env: bool,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) working_dir: Option<PathBuf>,
    pub(crate) cpuset: Option<String>,
    pub(crate) numa_node: Option<u32>,
    pub(crate) memory_limit: Option<ByteSize>,
    pub(crate) on_missing: OnMissing,
    pub(crate) strict_stdout: bool,
    pub(crate) max_line: ByteSize,
    pub(crate) resume_layers: Option<bool>,
    #[serde(with = "duration")]
    pub(crate) silence: Duration,
}

/// Where an executor's attempts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// In the daemon.
    #[default]
    InProcess,
    /// In children that speak the ext-processor protocol.
    ExtProcessor,
}

/// What to do where the host cannot confine a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnMissing {
    #[default]
    Refuse,
    Degrade,
}

impl Default for Executor {
    fn default() -> Self {
        Self {
            stages: None,
            concurrency: CONCURRENCY,
            claims: Claims::default(),
            gpus: None,
            locks: Vec::new(),
            stagger: Duration::ZERO,
            kind: Kind::default(),
            command: Vec::new(),
            children: 1,
            ready_timeout: Duration::from_secs(5),
            inherit_env: true,
            env: BTreeMap::new(),
            working_dir: None,
            cpuset: None,
            numa_node: None,
            memory_limit: None,
            on_missing: OnMissing::default(),
            strict_stdout: false,
            max_line: ByteSize::mib(256),
            resume_layers: None,
            silence: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Claims {
    pub(crate) cpu: Option<u32>,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) disk: Option<ByteSize>,
    pub(crate) gpus: Option<u32>,
}

/// Durations as people write them: `10min`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&humantime::format_duration(*duration).to_string())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("`{text}` is not a duration like \"10min\": {error}")))
    }
}

impl Profile {
    /// Reads the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The executors with what the file says of them, or everything that is wrong with them.
    pub(crate) fn executors(
        &self,
        registry: &StageRegistry,
    ) -> anyhow::Result<Vec<(ExecutorSpec, Executor)>> {
        let machine = EngineMachine {
            name: LOCAL.to_owned(),
            capacity: self.capacity(),
        };
        let mut declared = self.executors.clone();
        if declared.is_empty() {
            declared.insert(LOCAL.to_owned(), Executor::default());
        }
        let (mut specs, mut wrong) = (Vec::new(), Vec::new());
        for (name, executor) in &declared {
            wrong.extend(executor.problems(name, registry, machine.capacity));
            specs.push((executor.spec(name, machine.clone(), registry), executor.clone()));
        }
        if wrong.is_empty() {
            return Ok(specs);
        }
        let text = format!("the machine profile is wrong:\n  {}", wrong.join("\n  "));
        Err(CliError::new(ExitKind::Config, text)
            .hint("see `sealflow config default --machine`")
            .into())
    }

    fn capacity(&self) -> Resources {
        let cores = std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        let machine = &self.machine;
        Resources {
            cpu: machine.cpu.unwrap_or(cores),
            memory: machine
                .memory
                .map_or_else(|| memory_bytes() / 10 * 9, |memory| memory.as_u64()),
            disk: machine.disk.map_or(u64::MAX, |disk| disk.as_u64()),
            gpus: machine.gpus.iter().copied().collect(),
        }
    }
}

impl Executor {
    fn spec(&self, name: &str, machine: EngineMachine, registry: &StageRegistry) -> ExecutorSpec {
        let bytes = |size: Option<ByteSize>| size.map(|size| size.as_u64());
        let stages = self.stages.as_ref();
        let stages = match (stages, self.kind) {
            // A side daemon runs no stage.
            (Some(names), _) => Some(
                names
                    .iter()
                    .filter(|name| *name != SIDE_DAEMON)
                    .filter_map(|name| StageName::new(name).ok())
                    .collect(),
            ),
            // Only those that a child can compute.
            (None, Kind::ExtProcessor) => Some(registry.wired().cloned().collect()),
            (None, Kind::InProcess) => None,
        };
        let spec = ExecutorSpec::new(name, machine, self.concurrency);
        ExecutorSpec {
            stages,
            claims: EngineClaims {
                cpu: self.claims.cpu,
                memory: bytes(self.claims.memory),
                disk: bytes(self.claims.disk),
                gpus: self.claims.gpus,
            },
            gpus: self
                .gpus
                .as_ref()
                .map_or(spec.gpus, |gpus| gpus.iter().copied().collect()),
            locks: self.locks.clone(),
            stagger_ms: u64::try_from(self.stagger.as_millis()).unwrap_or(u64::MAX),
            ..spec
        }
    }

    fn problems(&self, name: &str, registry: &StageRegistry, capacity: Resources) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut say = |what: String| wrong.push(format!("[executors.{name}] {what}"));
        if name.is_empty()
            || name.len() > 64
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        {
            say("a name has letters, digits, `_`, `-` and `.`".to_owned());
        }
        for stage in self.stages.iter().flatten() {
            if registry.info(stage).is_none() && !(stage == SIDE_DAEMON && self.kind == Kind::ExtProcessor) {
                say(format!(
                    "there is no stage `{stage}`; `sealflow stage list` shows all"
                ));
            }
        }
        if self.concurrency == 0 {
            say("`concurrency` is 0: it would never run anything".to_owned());
        }
        let own: Gpus = match &self.gpus {
            Some(gpus) => gpus.iter().copied().collect(),
            None => capacity.gpus,
        };
        for gpu in own.without(capacity.gpus).iter() {
            say(format!("GPU {gpu} is not one of [machine] gpus"));
        }
        let over = |what: &str, claim: Option<u64>, capacity: u64| {
            let claim = claim.filter(|claim| *claim > capacity)?;
            Some(format!(
                "an attempt claims {claim} of `{what}`, but there are {capacity}"
            ))
        };
        let claims = &self.claims;
        let bytes = |size: Option<ByteSize>| size.map(|size| size.as_u64());
        let over = [
            over("memory", bytes(claims.memory), capacity.memory),
            over("disk", bytes(claims.disk), capacity.disk),
            over("gpus", claims.gpus.map(u64::from), own.count().into()),
        ];
        over.into_iter().flatten().for_each(&mut say);
        self.processor_problems(registry).into_iter().for_each(say);
        wrong
    }
}

/// The memory of this machine, or of the group of processes that this one is confined to.
pub(crate) fn memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let confined = system
        .cgroup_limits()
        .map(|limits| limits.total_memory)
        .filter(|bytes| *bytes > 0);
    confined.map_or(system.total_memory(), |limit| limit.min(system.total_memory()))
}

#[cfg(test)]
mod tests {
    use sealflow_stages::params::ParamsDir;

    use super::*;

    #[test]
    fn the_default_file_says_the_defaults() {
        let shipped = Profile::parse(DEFAULT_TEXT).unwrap();
        let local = BTreeMap::from([(LOCAL.to_owned(), Executor::default())]);
        assert_eq!((shipped.machine, shipped.executors), (Machine::default(), local));
        let error = Executor::default().processor_problems(&StageRegistry::default());
        assert!(error.is_empty(), "{error:?}");
        // Every example can be used.
        let live: String = DEFAULT_TEXT
            .lines()
            .filter_map(|line| match line.strip_prefix("#: ") {
                Some(setting) => Some(format!("{setting}\n")),
                None if line.starts_with('[') => Some(format!("{line}\n")),
                None => None,
            })
            .collect();
        let profile = Profile::parse(&live).unwrap();
        assert_eq!(profile.executors[LOCAL].stagger, Duration::from_secs(600));
        assert_eq!(profile.machine.gpus, [0, 1]);
    }

    #[test]
    fn a_profile_is_held_against_the_machine_and_the_stages() {
        let registry = sealflow_stages::registry(&ParamsDir::generated(std::path::Path::new("/nowhere")));
        let text = "
            [machine]
            memory = \"8GiB\"
            gpus = [0]
            [executors.a]
            stages = [\"pc9\"]
            concurrency = 0
            claims = { memory = \"9GiB\", gpus = 2 }
            [executors.b]
            gpus = [0, 3]
        ";
        let error = Profile::parse(text)
            .unwrap()
            .executors(&registry)
            .unwrap_err()
            .to_string();
        for part in [
            "no stage `pc9`",
            "`concurrency` is 0",
            "claims 9663676416 of `memory`",
            "2 of `gpus`",
            "[executors.b] GPU 3",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let good = Profile::parse("[executors.a]\nstages = [\"pc1\"]\nstagger = \"90s\"\n").unwrap();
        let specs = good.executors(&registry).unwrap();
        assert_eq!((specs.len(), specs[0].0.stagger_ms), (1, 90_000));
        assert!(Profile::parse("[executors.a]\nstagger = \"soon\"\n").is_err());
        let text = "
            [executors.a]
            kind = \"ext-processor\"
            stages = [\"pc2\", \"ticket\"]
            command = [\"/no/such/program\", \"{stage}\"]
            cpuset = \"0,7000\"
            numa_node = 60
            children = 0
            working_dir = \"/no/such/folder\"
            [executors.b]
            kind = \"ext-processor\"
            stages = [\"pc2\"]
            command = [\"/etc/passwd\"]
            [executors.c]
            cpuset = \"0\"
            [executors.d]
            kind = \"ext-processor\"
            stages = [\"EMPTY\"]
        ";
        let error = Profile::parse(text)
            .unwrap()
            .executors(&registry)
            .unwrap_err()
            .to_string();
        for part in [
            "[executors.a] stage `ticket` has no wire form",
            "[executors.a] /no/such/program: it is not there",
            "no processor 7000",
            "no NUMA node 60",
            "[executors.a] `children` is 0",
            "[executors.a] `working_dir`: /no/such/folder is no folder",
            "[executors.b] /etc/passwd: it may not be run",
            "[executors.c] `cpuset` is for kind = \"ext-processor\"",
            "[executors.d] a side daemon needs a `command`",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Profile::parse("[machine]\ncpus = 1\n").is_err());
    }
}
