//! Between the contract and the engine. Everything that arrives is checked here; nothing of it is believed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sealflow_engine::artifact::{Artifact, SCRATCH};
use sealflow_engine::executor::{Claims, ExecutorSpec, Machine};
use sealflow_engine::failure::{Failure, FailureClass};
use sealflow_engine::id::{AttemptKey, RunId, StageName, StepName, Token};
use sealflow_engine::resource::{Gpus, Resources};
use sealflow_engine::stage::{Outcome, Progress, StageRegistry, Wake};
use sealflow_executor::v1;
use serde_json::Value;

use super::{DAEMON_SCRATCH, scratch_of};

/// The most executors that a machine may offer, and the most names in any list.
const MOST: usize = 1000;
const NAME: usize = 64;

/// Whether a machine or an executor may be called so.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > NAME || !name.chars().all(letter) {
        let shown: String = name.chars().take(NAME).collect();
        return Err(format!(
            "{what} `{shown}`: a name has 1 to 64 letters, digits, `_`, `-` and `.`"
        ));
    }
    Ok(())
}

/// Which attempt.
pub(super) fn key(attempt: Option<&v1::Attempt>) -> Result<(AttemptKey, Token), String> {
    let attempt = attempt.ok_or("it names no attempt")?;
    let bad = |what: String| format!("an attempt is named wrongly: {what}");
    let run: RunId = attempt.run.parse().map_err(|error| bad(format!("{error}")))?;
    let step: StepName = attempt.step.parse().map_err(|error| bad(format!("{error}")))?;
    let token = serde_json::from_value(Value::String(attempt.token.clone()));
    let key = AttemptKey {
        run,
        step,
        visit: attempt.visit,
        attempt: attempt.attempt,
    };
    Ok((key, token.map_err(|error| bad(error.to_string()))?))
}

pub(super) fn attempt(key: &AttemptKey, token: &Token) -> v1::Attempt {
    v1::Attempt {
        run: key.run.to_string(),
        step: key.step.to_string(),
        visit: key.visit,
        attempt: key.attempt,
        token: match serde_json::to_value(token) {
            Ok(Value::String(text)) => text,
            _ => String::new(),
        },
    }
}

fn gpus(list: &[u32]) -> Result<Gpus, String> {
    let small = list
        .iter()
        .map(|gpu| u8::try_from(*gpu).ok().filter(|gpu| *gpu < Gpus::MAX));
    let all: Option<Vec<u8>> = small.collect();
    Ok(all.ok_or("GPUs are numbered from 0 to 63")?.into_iter().collect())
}

/// The machine and the executors on it, or what is wrong with them.
pub(super) fn offers(
    request: &v1::RegisterRequest,
    registry: &StageRegistry,
) -> Result<(Machine, Vec<ExecutorSpec>), String> {
    check_name("worker", &request.worker)?;
    let capacity = request.capacity.clone().unwrap_or_default();
    let capacity = Resources {
        cpu: capacity.cpu,
        memory: capacity.memory,
        disk: capacity.disk.unwrap_or(u64::MAX),
        gpus: gpus(&capacity.gpus)?,
    };
    let machine = Machine {
        name: request.worker.clone(),
        capacity,
    };
    if request.offers.len() > MOST || request.stores.len() > MOST {
        return Err(format!("a machine offers at most {MOST} executors and stores"));
    }
    let mut stores = vec![scratch_of(&request.worker)];
    for store in &request.stores {
        check_name("store", store)?;
        stores.push(store.clone());
    }
    let mut specs: Vec<ExecutorSpec> = Vec::new();
    for offer in &request.offers {
        let spec = spec(offer, &machine, &stores, registry)?;
        if specs.iter().any(|other| other.name == spec.name) {
            return Err(format!("executor `{}` is offered twice", offer.name));
        }
        specs.push(spec);
    }
    Ok((machine, specs))
}

fn spec(
    offer: &v1::Offer,
    machine: &Machine,
    stores: &[String],
    registry: &StageRegistry,
) -> Result<ExecutorSpec, String> {
    check_name("executor", &offer.name)?;
    let name = format!("{}@{}", offer.name, machine.name);
    let (mut stages, mut versions) = (Vec::new(), BTreeMap::new());
    for one in offer.stages.iter().take(MOST) {
        let Some(info) = registry.info(&one.stage) else {
            let all: Vec<&str> = registry.iter().map(|info| info.name.as_str()).collect();
            let shown: String = one.stage.chars().take(NAME).collect();
            return Err(format!(
                "executor `{}` offers stage `{shown}`, which this daemon does not have; it has: {}",
                offer.name,
                all.join(", ")
            ));
        };
        stages.push(info.name.clone());
        versions.insert(info.name.clone(), one.version);
    }
    if stages.is_empty() {
        return Err(format!("executor `{}` offers no stages", offer.name));
    }
    if offer.concurrency == 0 {
        return Err(format!(
            "executor `{}` has a concurrency of 0: it would never run anything",
            offer.name
        ));
    }
    for lock in offer.locks.iter().take(MOST) {
        check_name("lock", lock)?;
    }
    let claims = offer.claims.unwrap_or_default();
    let own = gpus(&offer.gpus)?;
    let spec = ExecutorSpec::new(name, machine.clone(), offer.concurrency as usize);
    Ok(ExecutorSpec {
        stages: Some(stages),
        versions,
        claims: Claims {
            cpu: claims.cpu,
            memory: claims.memory,
            disk: claims.disk,
            gpus: claims.gpus,
        },
        gpus: if own.is_empty() { spec.gpus } else { own },
        locks: offer.locks.iter().take(MOST).cloned().collect(),
        stagger_ms: offer.stagger_ms,
        killable: offer.killable,
        stores: Some(stores.to_vec()),
        ..spec
    })
}

pub(super) fn resources(held: Resources) -> v1::Resources {
    v1::Resources {
        cpu: held.cpu,
        memory: held.memory,
        disk: Some(held.disk),
        gpus: held.gpus.iter().map(u32::from).collect(),
    }
}

pub(super) fn progress(progress: v1::Progress) -> Progress {
    let short = |text: String| text.chars().take(200).collect();
    Progress {
        phase: short(progress.phase),
        done: progress.done,
        total: progress.total,
        unit: short(progress.unit),
        estimate_seconds: progress.estimate_seconds,
    }
}

fn bad_output(why: &str) -> Failure {
    Failure::permanent("bad_output", format!("the executor's answer is not one: {why}"))
}

/// An output, with artifacts of the machine's scratch space under the name that they have here.
pub(super) fn output(
    bytes: &[u8],
    (stage, many): (&StageName, bool),
    registry: &StageRegistry,
    machine: &str,
) -> Result<Outcome<Value>, Failure> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| bad_output(&error.to_string()))?;
    if !many {
        registry.fits(stage, &value).map_err(|why| bad_output(&why))?;
    }
    rename(&mut value, SCRATCH, &scratch_of(machine));
    Ok(Outcome::Done(value))
}

pub(super) fn park(bytes: &[u8]) -> Result<Outcome<Value>, Failure> {
    let wake: Wake = serde_json::from_slice(bytes).map_err(|error| bad_output(&error.to_string()))?;
    Ok(Outcome::Park(wake))
}

pub(super) fn failure(failure: v1::Failure) -> Failure {
    let classes = [
        FailureClass::Transient,
        FailureClass::Permanent,
        FailureClass::Rewind,
        FailureClass::Critical,
    ];
    let class = classes.into_iter().find(|class| class.as_str() == failure.class);
    let slug = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let code = &failure.code;
    match class {
        Some(class) if !code.is_empty() && code.len() <= NAME && code.chars().all(slug) => {
            let mut made = Failure::new(class, "", failure.message);
            made.code = Cow::Owned(failure.code);
            made
        }
        _ => {
            let what = format!(
                "the executor reports a failure of class `{}` with the code `{code}`: {}",
                failure.class, failure.message
            );
            Failure::permanent("bad_report", what)
        }
    }
}

/// The input as the machine knows it: artifacts of its own scratch space under the name that it has there.
pub(super) fn input(mut input: Value, machine: &str) -> Vec<u8> {
    rename(&mut input, SCRATCH, DAEMON_SCRATCH);
    rename(&mut input, &scratch_of(machine), SCRATCH);
    serde_json::to_vec(&input).unwrap_or_default()
}

/// Gives the store of every artifact in a value that is in `from` the name `to`.
fn rename(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::Object(fields) => {
            let artifact = fields.contains_key("key") && fields.contains_key("bytes");
            if artifact && fields.get("store").and_then(Value::as_str) == Some(from) {
                fields.insert("store".to_owned(), Value::String(to.to_owned()));
            }
            fields.values_mut().for_each(|field| rename(field, from, to));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, from, to)),
        _ => {}
    }
}

/// Whether a value names this artifact.
pub(super) fn names(value: &Value, artifact: &Artifact) -> bool {
    match value {
        Value::Object(fields) => {
            serde_json::from_value::<Artifact>(value.clone()).is_ok_and(|found| found == *artifact)
                || fields.values().any(|field| names(field, artifact))
        }
        Value::Array(items) => items.iter().any(|item| names(item, artifact)),
        _ => false,
    }
}

pub(super) fn from_artifact(artifact: &Artifact) -> v1::Artifact {
    v1::Artifact {
        store: artifact.store.clone(),
        key: artifact.key.clone(),
        bytes: artifact.bytes,
        digest: artifact.digest.clone().unwrap_or_default(),
    }
}

pub(super) fn to_artifact(artifact: v1::Artifact) -> Artifact {
    Artifact {
        store: artifact.store,
        key: artifact.key,
        bytes: artifact.bytes,
        digest: Some(artifact.digest).filter(|digest| !digest.is_empty()),
    }
}
