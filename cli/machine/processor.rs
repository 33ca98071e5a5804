//! Executors whose attempts run in children: what the profile says of them, held against this host, and handed on.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sealflow_engine::stage::StageRegistry;
use sealflow_executors::processor::{self, Placement, SIDE_DAEMON, STAGE, Settings};

use super::{Executor, Kind, OnMissing};

impl Executor {
    /// How its children are run. `logs` is the folder of logs, `home` the data directory.
    pub(crate) fn settings(&self, home: &Path, logs: PathBuf) -> anyhow::Result<Settings> {
        let own = std::env::current_exe()?;
        let command = match self.command.is_empty() {
            false => self.command.clone(),
            true => {
                let parts = [own.as_path(), Path::new("--home"), home, Path::new("processor")];
                let parts = parts.iter().map(|part| part.display().to_string());
                parts.chain([STAGE.to_owned()]).collect()
            }
        };
        let launcher = vec![
            own.into_os_string(),
            OsString::from("processor"),
            OsString::from("--launch"),
        ];
        Ok(Settings {
            children: self.children,
            inherit_env: self.inherit_env,
            env: self.env.clone(),
            working_dir: self.working_dir.clone(),
            placement: self.placement(),
            on_missing: match self.on_missing {
                OnMissing::Refuse => processor::OnMissing::Refuse,
                OnMissing::Degrade => processor::OnMissing::Degrade,
            },
            ready_timeout: self.ready_timeout,
            max_line: usize::try_from(self.max_line.as_u64()).unwrap_or(usize::MAX),
            strict_stdout: self.strict_stdout,
            // Our own child uses the library, which gives a layer its name when it is whole.
            resume_layers: self.resume_layers.unwrap_or(self.command.is_empty()),
            silence: Some(self.silence).filter(|silence| !silence.is_zero()),
            gpus: self.gpus.clone(),
            side_daemon: self.is_side_daemon(),
            ..Settings::new(command, launcher, logs)
        })
    }

    fn placement(&self) -> Placement {
        Placement {
            cpuset: self.cpuset.clone(),
            numa_node: self.numa_node,
            memory_limit: self.memory_limit.map(|limit| limit.as_u64()),
        }
    }

    fn is_side_daemon(&self) -> bool {
        self.stages.iter().flatten().any(|stage| stage == SIDE_DAEMON)
    }

    /// What is wrong with what it says about children.
    pub(super) fn processor_problems(&self, registry: &StageRegistry) -> Vec<String> {
        match self.kind {
            Kind::InProcess => self.foreign_keys(),
            Kind::ExtProcessor => self.own_problems(registry),
        }
    }

    /// Keys that only make sense for children.
    fn foreign_keys(&self) -> Vec<String> {
        let default = Self::default();
        let keys = [
            ("command", self.command != default.command),
            ("children", self.children != default.children),
            ("ready_timeout", self.ready_timeout != default.ready_timeout),
            ("inherit_env", self.inherit_env != default.inherit_env),
            ("env", self.env != default.env),
            ("working_dir", self.working_dir != default.working_dir),
            ("cpuset", self.cpuset != default.cpuset),
            ("numa_node", self.numa_node != default.numa_node),
            ("memory_limit", self.memory_limit != default.memory_limit),
            ("on_missing", self.on_missing != default.on_missing),
            ("strict_stdout", self.strict_stdout != default.strict_stdout),
            ("max_line", self.max_line != default.max_line),
            ("resume_layers", self.resume_layers != default.resume_layers),
            ("silence", self.silence != default.silence),
        ];
        let used = keys.into_iter().filter(|(_, used)| *used);
        used.map(|(key, _)| format!("`{key}` is for kind = \"ext-processor\""))
            .collect()
    }

    fn own_problems(&self, registry: &StageRegistry) -> Vec<String> {
        let mut wrong = self.placement().problems();
        for stage in self.stages.iter().flatten() {
            if registry.info(stage).is_some() && registry.wire(stage).is_none() {
                let known: Vec<&str> = registry.wired().map(|name| name.as_str()).collect();
                wrong.push(format!(
                    "stage `{stage}` has no wire form that a child could compute; these have: {}",
                    known.join(", ")
                ));
            }
        }
        if self.children == 0 {
            wrong.push("`children` is 0: it would never run anything".to_owned());
        }
        if self.is_side_daemon() {
            if self.command.is_empty() {
                wrong.push("a side daemon needs a `command`".to_owned());
            }
            if self.stages.as_ref().is_some_and(|stages| stages.len() > 1) {
                wrong.push(format!("`{SIDE_DAEMON}` is a side daemon, which runs no stages"));
            }
        }
        if let Some(dir) = self.working_dir.as_ref().filter(|dir| !dir.is_dir()) {
            wrong.push(format!("`working_dir`: {} is no folder", dir.display()));
        }
        if self.max_line.as_u64() < 4096 {
            wrong.push("`max_line` is less than 4KiB: hardly an answer fits".to_owned());
        }
        wrong.extend(self.command.first().and_then(|program| unusable(program)));
        wrong
    }
}

/// Why a program cannot be started.
fn unusable(program: &str) -> Option<String> {
    let runs = |path: &Path| {
        std::fs::metadata(path).map(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return match runs(Path::new(program)) {
            Ok(true) => None,
            Ok(false) => Some(format!("{program}: it may not be run; chmod +x {program}")),
            Err(_) => Some(format!("{program}: it is not there")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| runs(&folder.join(program)).unwrap_or(false));
    (!found).then(|| format!("{program}: it is in no folder of PATH"))
}
