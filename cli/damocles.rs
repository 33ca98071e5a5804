//! A Damocles worker's configuration as a machine profile of ours, with a list of what has no counterpart and why.
//! The keys are those of damocles-worker 0.13; it ignores keys that it does not know, so they are named here.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::{Table, Value};

/// What becomes of a file.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Imported {
    /// The machine profile.
    pub(crate) machine: String,
    /// What goes into config.toml.
    pub(crate) config: String,
    /// Keys without a counterpart, and what to do instead.
    pub(crate) without: Vec<Without>,
}

/// A key without a counterpart.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Without {
    /// The key.
    pub(crate) key: String,
    /// What to do instead.
    pub(crate) why: String,
}

/// Keys whose meaning is elsewhere with us, by their beginning.
const ELSEWHERE: [(&str, &str); 24] = [
    (
        "worker.name",
        "the name is told on the command line: sealflow worker --name",
    ),
    (
        "worker.rpc_server",
        "a worker does not listen; it connects to the daemon (docs/workers.md)",
    ),
    ("worker.ping_interval", "signs of life have a fixed rhythm"),
    (
        "worker.local_pieces_dir",
        "pieces are named with their path or address in a run's parameters",
    ),
    (
        "worker.scan_persist_stores",
        "name each store in config.toml: [stores.NAME]",
    ),
    (
        "worker.ScanPersistStores",
        "name each store in config.toml: [stores.NAME]",
    ),
    ("metrics", "not yet"),
    (
        "sector_manager",
        "the daemon is told on the command line: sealflow worker --daemon",
    ),
    (
        "sealing.max_retries",
        "retries belong to a step: retry = { max_attempts = … } in the workflow file",
    ),
    (
        "sealing.recover_interval",
        "retries belong to a step: retry = { backoff = … } in the workflow file",
    ),
    (
        "sealing.verify_after_pc2",
        "every answer of PC2 is checked; a step after pc2 can do more",
    ),
    (
        "sealing",
        "what is sealed belongs to whoever starts runs, and to the workflow file",
    ),
    ("processors.static_tree_d", "not yet"),
    (
        "processors.ext_locks",
        "of all attempts that name a lock one runs at a time: use `concurrency` for more",
    ),
    (
        "processors.sealing_daemons",
        "write an executor with stages = [\"EMPTY\"] and its command (docs/executors.md)",
    ),
    (
        "processors.limit.",
        "damocles-worker reads it only without [processors.limitation.concurrent]",
    ),
    (
        "processors.limitation.concurrent.transfer",
        "see `concurrency` of the executor that runs persist and transfer",
    ),
    (
        "sealing_thread[].plan",
        "plans are workflow files: seal_offline.toml, snap_up_offline.toml, …",
    ),
    (
        "sealing_thread[].sealing",
        "what is sealed belongs to whoever starts runs, and to the workflow file",
    ),
    (
        "sealing_thread[].location",
        "a machine has one scratch folder; put these disks into one volume, or run a worker for each",
    ),
    ("attached[].readonly", "not yet"),
    ("remote_store", "damocles-worker ignores it too"),
    ("attached_selection", "damocles-worker ignores it too"),
    ("", "damocles-worker has no such key, or it has no counterpart"),
];

fn elsewhere(key: &str) -> &'static str {
    let found = ELSEWHERE.iter().find(|(start, _)| key.starts_with(start));
    found.map_or("", |(_, why)| why)
}

/// A table whose keys are taken out as they are used.
fn take(table: &mut Table, key: &str) -> Option<Value> {
    table.remove(key)
}

fn take_table(table: &mut Table, key: &str) -> Table {
    match table.remove(key) {
        Some(Value::Table(inner)) => inner,
        Some(other) => {
            table.insert(key.to_owned(), other);
            Table::new()
        }
        None => Table::new(),
    }
}

fn integer(value: Option<&Value>) -> Option<i64> {
    value.and_then(Value::as_integer)
}

/// Converts the text of a file. `stages` are those that an executor can be given, `wired` those of them that children
/// can compute.
///
/// # Errors
/// The text is not TOML.
pub(crate) fn import(text: &str, stages: &[String], wired: &[String]) -> Result<Imported, toml::de::Error> {
    let mut file: Table = toml::from_str(text)?;
    let mut without = Vec::new();
    let mut say = |key: String, why: &str| {
        without.push(Without {
            key,
            why: why.to_owned(),
        });
    };
    let mut processors = take_table(&mut file, "processors");
    let mut limitation = take_table(&mut processors, "limitation");
    let mut concurrent = take_table(&mut limitation, "concurrent");
    let mut staggered = take_table(&mut limitation, "staggered");
    let counts = take_table(&mut processors, "ext_locks");
    for (name, count) in counts {
        if count.as_integer() != Some(1) {
            let key = format!("processors.ext_locks.{name}");
            say(key.clone(), elsewhere(&key));
        }
    }
    let mut executors: BTreeMap<String, Table> = BTreeMap::new();
    let mut given: Vec<&String> = Vec::new();
    for stage in stages {
        let children = match processors.remove(stage) {
            Some(Value::Array(children)) if wired.contains(stage) => children,
            Some(other) => {
                processors.insert(stage.clone(), other);
                Vec::new()
            }
            None => Vec::new(),
        };
        let limit = integer(concurrent.get(stage)).filter(|limit| *limit > 0);
        let stagger = staggered.get(stage).and_then(Value::as_str).map(str::to_owned);
        if children.is_empty() && limit.is_none() && stagger.is_none() {
            continue;
        }
        given.push(stage);
        concurrent.remove(stage);
        staggered.remove(stage);
        let count = children.len().max(1);
        let mut made = Vec::new();
        for (number, child) in children.into_iter().enumerate() {
            let Value::Table(child) = child else { continue };
            made.push(one_child(stage, number, child, &mut say));
        }
        if made.is_empty() {
            made.push(Table::new());
        }
        if let Some(limit) = limit.filter(|_| count > 1) {
            let key = format!("processors.limitation.concurrent.{stage} = {limit}");
            say(
                key,
                "several executors have this stage: set `concurrency` of each so that they add up to it",
            );
        }
        for (number, mut executor) in made.into_iter().enumerate() {
            executor.insert(
                "stages".to_owned(),
                Value::Array(vec![Value::String(stage.clone())]),
            );
            if let Some(limit) = limit.filter(|_| count == 1) {
                let own = integer(executor.get("concurrency")).unwrap_or(limit);
                executor.insert("concurrency".to_owned(), Value::Integer(own.min(limit)));
            }
            if let Some(stagger) = &stagger {
                executor.insert("stagger".to_owned(), Value::String(stagger.clone()));
            }
            let name = if count == 1 {
                stage.clone()
            } else {
                format!("{stage}_{number}")
            };
            executors.insert(name, executor);
        }
    }
    let rest: Vec<Value> = stages
        .iter()
        .filter(|stage| !given.contains(stage))
        .map(|stage| Value::String(stage.clone()))
        .collect();
    if !given.is_empty() && !rest.is_empty() {
        let rest = Table::from_iter([("stages".to_owned(), Value::Array(rest))]);
        executors.insert("rest".to_owned(), rest);
    }
    let config = stores_and_scratch(&mut file, &mut say);
    for (prefix, table) in [
        ("processors.limitation.concurrent", concurrent),
        ("processors.limitation.staggered", staggered),
        ("processors.limitation", limitation),
        ("processors", processors),
        ("", file),
    ] {
        leaves(prefix, &Value::Table(table), &mut |key| {
            say(key.clone(), elsewhere(&key))
        });
    }
    without.sort_by(|a, b| a.key.cmp(&b.key));
    without.dedup();
    let executors = executors.into_iter().map(|(name, one)| (name, Value::Table(one)));
    let machine = Table::from_iter([("executors".to_owned(), Value::Table(executors.collect()))]);
    Ok(Imported {
        machine: toml::to_string(&machine).unwrap_or_default(),
        config: toml::to_string(&config).unwrap_or_default(),
        without,
    })
}

/// An entry of `[[processors.STAGE]]`.
fn one_child(stage: &str, number: usize, mut child: Table, say: &mut impl FnMut(String, &str)) -> Table {
    let mut made = Table::from_iter([("kind".to_owned(), Value::String("ext-processor".to_owned()))]);
    let at = |key: &str| format!("processors.{stage}[{number}].{key}");
    let args = match take(&mut child, "args") {
        Some(Value::Array(args)) => args,
        _ => ["processor", stage]
            .map(|arg| Value::String(arg.to_owned()))
            .to_vec(),
    };
    match take(&mut child, "bin") {
        Some(bin) => {
            let command = std::iter::once(bin).chain(args).collect();
            made.insert("command".to_owned(), Value::Array(command));
        }
        None => say(
            at("bin"),
            "without it damocles-worker starts itself; here sealflow computes the stage",
        ),
    }
    let mut group = take_table(&mut child, "cgroup");
    for (theirs, ours) in [
        ("stable_wait", "ready_timeout"),
        ("envs", "env"),
        ("inherit_envs", "inherit_env"),
        ("concurrent", "concurrency"),
        ("locks", "locks"),
        ("numa_preferred", "numa_node"),
    ] {
        if let Some(value) = take(&mut child, theirs) {
            made.insert(ours.to_owned(), value);
        }
    }
    if let Some(cpuset) = take(&mut group, "cpuset") {
        made.insert("cpuset".to_owned(), cpuset);
    }
    if take(&mut group, "group_name").is_some() {
        say(at("cgroup.group_name"), "groups are below the daemon's own");
    }
    if take(&mut child, "auto_restart").and_then(|value| value.as_bool()) == Some(false) {
        say(
            at("auto_restart"),
            "a child that dies is started again; one that keeps dying is refused",
        );
    }
    if take(&mut child, "weight").is_some() {
        say(at("weight"), "damocles-worker ignores it too");
    }
    for key in child.keys() {
        say(at(key), "damocles-worker has no such key");
    }
    made
}

/// What config.toml gets: stores, and the scratch folder if there is one.
fn stores_and_scratch(file: &mut Table, say: &mut impl FnMut(String, &str)) -> Table {
    let mut config = Table::new();
    let mut stores = Table::new();
    if let Some(Value::Array(attached)) = take(file, "attached") {
        for one in attached {
            let Value::Table(mut one) = one else { continue };
            let Some(Value::String(location)) = take(&mut one, "location") else {
                continue;
            };
            let name = match take(&mut one, "name") {
                Some(Value::String(name)) => name,
                _ => location.clone(),
            };
            let name: String = name
                .trim_matches('/')
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() || "_-".contains(c) {
                        c
                    } else {
                        '_'
                    }
                })
                .collect();
            let path = Table::from_iter([("path".to_owned(), Value::String(location))]);
            stores.insert(name.clone(), Value::Table(path));
            for (key, value) in one {
                if value.as_bool() != Some(false) {
                    let why = elsewhere(&format!("attached[].{key}"));
                    say(format!("attached.{name}.{key}"), why);
                }
            }
        }
    }
    if let Some(Value::Array(threads)) = take(file, "sealing_thread") {
        let mut locations: Vec<String> = Vec::new();
        for (number, thread) in threads.into_iter().enumerate() {
            let Value::Table(mut thread) = thread else {
                continue;
            };
            if let Some(Value::String(location)) = take(&mut thread, "location")
                && !locations.contains(&location)
            {
                locations.push(location);
            }
            for (key, value) in thread {
                leaves(&format!("sealing_thread[{number}].{key}"), &value, &mut |leaf| {
                    say(leaf, elsewhere(&format!("sealing_thread[].{key}")));
                });
            }
        }
        if let Some(first) = locations.first() {
            let scratch = Table::from_iter([("path".to_owned(), Value::String(first.clone()))]);
            config.insert("scratch".to_owned(), Value::Table(scratch));
        }
        for other in locations.iter().skip(1) {
            say(
                format!("sealing_thread.location = \"{other}\""),
                elsewhere("sealing_thread[].location"),
            );
        }
    }
    if !stores.is_empty() {
        config.insert("stores".to_owned(), Value::Table(stores));
    }
    config
}

/// The keys below a value, whole.
fn leaves(prefix: &str, value: &Value, tell: &mut impl FnMut(String)) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                leaves(&key, value, tell);
            }
        }
        _ => tell(prefix.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use sealflow_stages::params::ParamsDir;

    use super::*;
    use crate::machine::Profile;

    const WORKER: &str = r#"
[worker]
name = "w1"
scan_persist_stores = ["/mnt/store*"]
[sector_manager]
rpc_client.addr = "/ip4/10.0.0.2/tcp/1789"
[sealing]
enable_deals = true
max_retries = 3
[[sealing_thread]]
location = "/mnt/nvme1/store"
[[sealing_thread]]
location = "/mnt/nvme2/store"
plan = "snapup"
[[attached]]
name = "persist"
location = "/mnt/persist"
[processors.limitation.concurrent]
pc1 = 3
pc2 = 2
[processors.limitation.staggered]
pc1 = "5min"
[processors.ext_locks]
gpu = 1
disks = 2
[[processors.pc1]]
bin = "/opt/vendor/pc1"
args = ["run", "--fast"]
concurrent = 5
numa_preferred = 1
cgroup.cpuset = "0-7"
envs = { FIL_PROOFS_MAXIMIZE_CACHING = "1" }
weight = 2
[[processors.c2]]
bin = "/opt/vendor/c2"
locks = ["gpu"]
stable_wait = "30s"
[[processors.c2]]
inherit_envs = false
colour = "blue"
"#;

    #[test]
    fn a_workers_file_becomes_a_profile_and_nothing_is_left_out_in_silence() {
        let registry = sealflow_stages::registry(&ParamsDir::generated(std::path::Path::new("/nowhere")));
        let stages: Vec<String> = registry.iter().map(|info| info.name.to_string()).collect();
        let wired = ["pc1", "pc2", "c2"].map(str::to_owned);
        let imported = import(WORKER, &stages, &wired).unwrap();
        let profile = Profile::parse(&imported.machine).unwrap();
        let pc1 = &profile.executors["pc1"];
        assert_eq!(pc1.command, ["/opt/vendor/pc1", "run", "--fast"]);
        assert_eq!(
            (pc1.concurrency, pc1.numa_node, pc1.cpuset.as_deref()),
            (3, Some(1), Some("0-7"))
        );
        assert_eq!(
            (pc1.stagger.as_secs(), &*pc1.env["FIL_PROOFS_MAXIMIZE_CACHING"]),
            (300, "1")
        );
        assert_eq!(profile.executors["pc2"].concurrency, 2);
        assert_eq!(
            profile.executors["c2_0"].command,
            ["/opt/vendor/c2", "processor", "c2"]
        );
        assert_eq!(profile.executors["c2_0"].locks, ["gpu"]);
        assert!(!profile.executors["c2_1"].inherit_env);
        let rest = profile.executors["rest"].stages.as_ref().unwrap();
        assert!(
            rest.contains(&"c1".to_owned()) && !rest.contains(&"pc2".to_owned()),
            "{rest:?}"
        );
        assert!(imported.config.contains("/mnt/persist") && imported.config.contains("/mnt/nvme1/store"));
        let told: Vec<&str> = imported.without.iter().map(|one| one.key.as_str()).collect();
        for key in [
            "worker.name",
            "worker.scan_persist_stores",
            "sector_manager.rpc_client.addr",
            "sealing.enable_deals",
            "sealing.max_retries",
            "sealing_thread.location = \"/mnt/nvme2/store\"",
            "sealing_thread[1].plan",
            "processors.ext_locks.disks",
            "processors.pc1[0].weight",
            "processors.c2[1].bin",
            "processors.c2[1].colour",
        ] {
            assert!(told.contains(&key), "{key}: {told:?}");
        }
        assert!(imported.without.iter().all(|one| !one.why.is_empty()));
        assert!(import("[worker", &stages, &wired).is_err());
    }
}
