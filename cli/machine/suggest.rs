//! A machine profile for the hardware that is here: what `sealflow doctor --suggest` prints.

use bytesize::ByteSize;
use sealflow_engine::id::StageName;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::StageRegistry;
use sealflow_stages::types::SealProof;
use serde_json::json;

use super::hardware::{Hardware, list};

/// How much of the memory attempts may hold, in tenths. The rest is for the system and its page cache.
const SHARE: u64 = 9;

/// The least time between two starts of PC1, so that not all sectors need the next thing at once: it is about
/// the time of PC2 with a GPU.
const STAGGER: &str = "20min";

/// Stages that use the GPUs of a build that can, and else every core.
const PROVING: &[&str] = &[
    "pc2",
    "c2",
    "snap_encode",
    "snap_prove",
    "window_post",
    "window_post_snark",
    "winning_post",
];

/// The text of a profile for sealing sectors of this type, with why each number is what it is.
pub(crate) fn profile(hardware: &Hardware, proof: SealProof, registry: &StageRegistry) -> String {
    let size = ByteSize(proof.sector_bytes());
    let memory = hardware.memory / 10 * SHARE;
    let (layers, proofs) = (need("pc1", proof, registry), need("c2", proof, registry));
    let mut text = format!(
        "# Suggested for {size} sectors on this machine: {} in {}, {} of memory, {}.\n\
         # Put it into machine.toml in the home, and see what `sealflow config check` says.\n",
        count(hardware.cpus(), "processor"),
        count(hardware.nodes.len(), "NUMA node"),
        ByteSize(hardware.memory),
        count(hardware.gpus.len(), "GPU"),
    );
    for (stage, need) in [("pc1", layers), ("c2", proofs)] {
        if need.memory > memory {
            let (has, needs) = (ByteSize(memory), ByteSize(need.memory));
            line(
                &mut text,
                &format!(
                    "# NOTE: {stage} of a {size} sector needs {needs}, and attempts may hold {has} here: it will wait for ever.\n\
                 # Give it to another machine (sealflow worker), or take it out of the lists below."
                ),
            );
        }
    }
    let gpus: Vec<String> = hardware.gpus.iter().map(u8::to_string).collect();
    line(
        &mut text,
        &format!(
            "\n[machine]\ncpu = {}\n# Nine tenths of what there is.\nmemory = \"{}\"",
            hardware.cpus(),
            memory_text(memory),
        ),
    );
    if !gpus.is_empty() {
        line(&mut text, &format!("gpus = [{}]", gpus.join(", ")));
    }
    pc1(&mut text, hardware, layers, memory);
    proving(&mut text, &gpus);
    let placed = |name: &StageName| name.as_str() == "pc1" || PROVING.contains(&name.as_str());
    let rest = registry
        .iter()
        .map(|info| &info.name)
        .filter(|name| !placed(name));
    let rest: Vec<String> = rest.map(|name| format!("\"{name}\"")).collect();
    line(
        &mut text,
        &format!(
            "\n# Everything else, in the daemon.\n[executors.rest]\nstages = [\n    {},\n]",
            rest.join(",\n    ")
        ),
    );
    text
}

/// What one attempt needs.
fn need(stage: &str, proof: SealProof, registry: &StageRegistry) -> Need {
    let input = json!({ "proof_type": proof.to_string() });
    let found = StageName::new(stage).ok();
    let found = found.and_then(|name| registry.stage(&name).map(|stage| stage.costs(&input)));
    found.unwrap_or_default()
}

/// PC1: one executor a NUMA node, because its memory must be near. A sector takes two processors that share a cache, if
/// the build has the multicore hasher (feature `multicore-sdr`); else one.
fn pc1(text: &mut String, hardware: &Hardware, need: Need, memory: u64) {
    let by_memory = memory / need.memory.max(1) / hardware.nodes.len().max(1) as u64;
    for node in &hardware.nodes {
        let (multicore, by_cores) = if node.cpus() >= 8 {
            (
                true,
                node.caches.iter().map(|cache| cache.len() / 2).sum::<usize>(),
            )
        } else {
            (false, node.cpus())
        };
        let sectors = by_memory.min(by_cores as u64).max(1);
        let all: Vec<usize> = node.caches.concat();
        let caches: Vec<String> = node.caches.iter().map(|cache| list(cache)).collect();
        line(
            text,
            &format!(
                "\n# PC1 on node {}: {} by memory ({} each), {by_cores} by cores. Processors that share a cache: {}.\n\
             [executors.layers{}]\nkind = \"ext-processor\"\nstages = [\"pc1\"]\nconcurrency = {sectors}\n\
             # One child for all: within a process the library gives each sector cores of its own.\nchildren = 1\n\
             cpuset = \"{}\"\nnuma_node = {}\nstagger = \"{STAGGER}\"\nready_timeout = \"1min\"\n\
             env = {{ FIL_PROOFS_USE_MULTICORE_SDR = \"{}\", FIL_PROOFS_MAXIMIZE_CACHING = \"1\" }}",
                node.number,
                by_memory,
                ByteSize(need.memory),
                caches.join(" | "),
                node.number,
                list(&all),
                node.number,
                u8::from(multicore),
            ),
        );
    }
}

/// Trees and SNARKs: one at a time on each GPU, or one in all.
fn proving(text: &mut String, gpus: &[String]) {
    let stages: Vec<String> = PROVING.iter().map(|stage| format!("\"{stage}\"")).collect();
    let stages = stages.join(", ");
    if gpus.is_empty() {
        line(
            text,
            &format!(
                "\n# Trees and proofs use every core: one at a time.\n[executors.proofs]\nstages = [{stages}]\nlocks = [\"all-cores\"]"
            ),
        );
        return;
    }
    line(
        text,
        &format!(
            "\n# Trees and proofs: one at a time on each GPU. Needs a build with the feature `cuda` or `opencl`.\n\
         [executors.proofs]\nkind = \"ext-processor\"\nstages = [{stages}]\nconcurrency = {}\n\
         claims = {{ gpus = 1 }}\ngpus = [{}]\nready_timeout = \"1min\"\n\
         env = {{ CUDA_DEVICE_ORDER = \"PCI_BUS_ID\", FIL_PROOFS_USE_GPU_COLUMN_BUILDER = \"1\", FIL_PROOFS_USE_GPU_TREE_BUILDER = \"1\" }}",
            gpus.len(),
            gpus.join(", "),
        ),
    );
}

/// A size without a fraction, as the file takes it.
fn memory_text(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn line(text: &mut String, what: &str) {
    text.push_str(what);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::super::hardware::Node;
    use super::*;
    use sealflow_stages::params::ParamsDir;

    #[test]
    fn suggestions_are_right_profiles_that_run_every_stage() {
        let registry = sealflow_stages::registry(&ParamsDir::generated(std::path::Path::new("/nowhere")));
        let node = |number, first: usize, caches: usize| Node {
            number,
            caches: (0..caches)
                .map(|at| (first + at * 8..first + at * 8 + 8).collect())
                .collect(),
        };
        let large = Hardware {
            nodes: vec![node(0, 0, 4), node(1, 32, 4)],
            memory: 1 << 40,
            gpus: vec![0, 1],
        };
        let small = Hardware {
            nodes: vec![Node {
                number: 0,
                caches: vec![vec![0]],
            }],
            memory: 8 << 30,
            gpus: Vec::new(),
        };
        for (hardware, proof) in [
            (&large, SealProof::for_size(32 << 30).unwrap()),
            (&small, SealProof::for_size(2048).unwrap()),
        ] {
            let text = profile(hardware, proof, &registry);
            let profile = Profile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            for info in registry.iter() {
                let runs = |executor: &super::super::Executor| {
                    executor
                        .stages
                        .iter()
                        .flatten()
                        .any(|stage| *stage == *info.name.as_str())
                };
                assert!(
                    profile.executors.values().any(runs),
                    "nobody runs {}\n{text}",
                    info.name
                );
            }
        }
        // 921 GiB for attempts, 460 on each node, 64 and a bit for each sector.
        let text = profile(&large, SealProof::for_size(32 << 30).unwrap(), &registry);
        let parsed = Profile::parse(&text).unwrap();
        let layers = &parsed.executors["layers1"];
        assert_eq!(
            (layers.concurrency, layers.cpuset.as_deref(), layers.numa_node),
            (7, Some("32-63"), Some(1))
        );
        assert_eq!(parsed.executors["proofs"].claims.gpus, Some(1));
        // What cannot be done here is said.
        let text = profile(&small, SealProof::for_size(32 << 30).unwrap(), &registry);
        assert!(text.contains("NOTE: pc1 of a 32.0 GiB sector needs"), "{text}");
        let problems = Profile::parse(&profile(&small, SealProof::for_size(2048).unwrap(), &registry))
            .unwrap()
            .executors(&registry);
        assert!(
            problems.is_ok(),
            "{:?}",
            problems.err().map(|error| error.to_string())
        );
    }
}
