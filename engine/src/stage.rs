//! Stages: kinds of work with typed inputs and outputs. Authors implement [`Stage`] with a plain
//! `async fn`; the engine holds the object-safe twin [`DynStage`], which decodes, runs and encodes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::artifact::{Artifact, SCRATCH, StoreError, Stores, attempt_folder, cache_folder};
use crate::failure::Failure;
use crate::id::{AttemptKey, StageName, Subject};
use crate::resource::Need;
use crate::schema::{Field, ParamType, fields_of};
use crate::wire::{DynWire, WireStage};

/// A kind of work. A stage computes, asks, reports progress and returns; it never retries, sleeps or
/// schedules. It may be run again from the top at any time, in a new attempt folder.
pub trait Stage: Send + Sync + 'static {
    /// The name that operators know, used in workflow files, logs and metrics.
    const NAME: &'static str;
    /// Grows when the meaning of input or output changes.
    const VERSION: u32;
    /// The source file of the stage. Its `//!` header is the stage's documentation: a sentence, then
    /// *Reads*, *Writes*, *Costs* and *Fails*.
    const SOURCE: &'static str;
    /// What it does to the artifacts of the run's subject.
    const CLAIM: Claim = Claim::Write;
    /// Whether its success changes the world outside (a message that landed): going back cannot undo it.
    const EFFECT: bool = false;
    /// Whether an attempt that is stopped loses little, so that work with a deadline may take its place.
    const PREEMPTIBLE: bool = false;
    /// Whether it works in the sector's cache directory, which is on one machine: all such steps of a run are done
    /// where the first of them was.
    const BOUND: bool = false;
    /// Codes of failures that mean that something is not there which somebody must first put in place. They name a
    /// condition of their own when somebody asks why the run does not move; the failure's message says what is
    /// missing, where it is looked for and how to get it.
    const PREREQUISITES: &'static [&'static str] = &[];
    /// What it takes.
    type Input: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static;
    /// What it gives.
    type Output: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// What one attempt needs while it runs. The input may lack fields that are too large to be at
    /// hand before the attempt starts.
    fn costs(&self, input: &Value) -> Need;

    /// What makes this work longer or shorter than other work of the stage, in a word, for example its size:
    /// durations are only compared within a class. As for [`Stage::costs`], fields may be missing. Empty if
    /// the stage does not say; then the run's first step that says something decides.
    fn class(&self, input: &Value) -> String {
        let _ = input;
        String::new()
    }

    /// Does the work.
    fn run(
        &self,
        cx: &StageContext,
        input: Self::Input,
    ) -> impl Future<Output = Result<Outcome<Self::Output>, Failure>> + Send;
}

/// A stage that can do the work of many runs at once, and says of each how it went.
pub trait BatchStage: Stage {
    /// Does the work of all members. The verdicts are in their order. A batch that must wait parks as a step does, with
    /// all of its members.
    ///
    /// # Errors
    /// Nothing was decided about any of them: all are tried again.
    #[expect(clippy::type_complexity, reason = "an outcome of verdicts, which are results")]
    fn run_many(
        &self,
        cx: &StageContext,
        inputs: Vec<Self::Input>,
    ) -> impl Future<Output = Result<Outcome<Vec<Result<Self::Output, Failure>>>, Failure>> + Send;
}

/// What a batch says of one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its output.
    Done(Value),
    /// Why it failed; the others are not affected.
    Failed(Failure),
}

/// A stage that takes the inputs of many members and gives a verdict for each.
struct Many<S>(Arc<S>);

impl<S: BatchStage> DynStage for Many<S> {
    fn costs(&self, input: &Value) -> Need {
        // As many as are done one after the other.
        let first = input.get("members").and_then(|members| members.get(0));
        Stage::costs(&*self.0, first.unwrap_or(&Value::Null))
    }

    fn class(&self, input: &Value) -> String {
        let members = input.get("members");
        let count = members.and_then(Value::as_array).map_or(0, Vec::len);
        let first = members.and_then(|members| members.get(0)).unwrap_or(&Value::Null);
        format!("{} of {count}", Stage::class(&*self.0, first))
    }

    fn run<'a>(
        &'a self,
        cx: &'a StageContext,
        input: Value,
    ) -> Pin<Box<dyn Future<Output = DynResult> + Send + 'a>> {
        Box::pin(async move {
            let members = match input {
                Value::Object(mut fields) => fields.remove("members"),
                _ => None,
            };
            let Some(Value::Array(members)) = members else {
                let what = format!("a batch of `{}` has no list of members", S::NAME);
                return Err(Failure::permanent("bad_input", what));
            };
            let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(members.len());
            let mut inputs = Vec::with_capacity(members.len());
            for member in members {
                match decode::<S>(member) {
                    Ok(input) => {
                        inputs.push(input);
                        verdicts.push(None);
                    }
                    Err(failure) => verdicts.push(Some(Verdict::Failed(failure))),
                }
            }
            let wanted = inputs.len();
            let results = match self.0.run_many(cx, inputs).await? {
                Outcome::Park(wake) => return Ok(Outcome::Park(wake)),
                Outcome::Done(results) => results,
            };
            if results.len() != wanted {
                let what = format!(
                    "`{}` gave {} verdicts for {wanted} members",
                    S::NAME,
                    results.len()
                );
                return Err(Failure::permanent("bad_output", what));
            }
            let mut results = results.into_iter();
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
                *verdict = results
                    .next()
                    .map(|result| match result.map(serde_json::to_value) {
                        Ok(Ok(output)) => Verdict::Done(output),
                        Ok(Err(error)) => {
                            let what = format!("output of `{}`: {error}", S::NAME);
                            Verdict::Failed(Failure::permanent("bad_output", what))
                        }
                        Err(failure) => Verdict::Failed(failure),
                    });
            }
            Ok(Outcome::Done(serde_json::json!({ "verdicts": verdicts })))
        })
    }
}

/// What a stage does to the artifacts of the run's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Nothing.
    #[default]
    None,
    /// Reads them: any number of runs may, while none writes.
    Read,
    /// Makes or changes them: one run at a time.
    Write,
}

/// How an attempt ended well.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<T> {
    /// The work is done.
    Done(T),
    /// The stage must wait. The wake is durable; when it comes the stage runs again from the top.
    Park(Wake),
}

/// What ends a wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wake {
    /// A time, in milliseconds since 1970.
    At(u64),
    /// A signal of this name, sent to the run.
    Signal(String),
    /// That a person approves.
    Approval(String),
}

/// How far an attempt is. What is not known is not made up: an expected time is marked as such.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What it is doing, for example `layer 2 of 11`.
    pub phase: String,
    /// Units done, if countable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Units in all, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The unit, for example `bytes`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// An *estimate* of the seconds that remain, if there is ground for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_seconds: Option<u64>,
}

type ProgressFn = dyn Fn(Progress) + Send + Sync;

/// What a stage may use while it runs.
#[derive(Clone)]
pub struct StageContext {
    /// Which attempt this is.
    pub key: AttemptKey,
    /// What the run is about.
    pub subject: Subject,
    /// Where artifacts are.
    pub stores: Stores,
    /// Asked to stop. Work that can stop early looks at it.
    pub cancel: CancellationToken,
    progress: Arc<ProgressFn>,
}

impl StageContext {
    /// The context of one attempt; `progress` takes its reports.
    pub fn new(
        key: AttemptKey,
        subject: Subject,
        stores: Stores,
        cancel: CancellationToken,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Self {
        Self {
            key,
            subject,
            stores,
            cancel,
            progress: Arc::new(progress),
        }
    }

    /// Reports how far the attempt is.
    pub fn progress(&self, progress: Progress) {
        (self.progress)(progress);
    }

    /// The key of this attempt's own folder in the scratch store.
    pub fn attempt_key(&self) -> String {
        attempt_folder(&self.subject, &self.key)
    }

    /// This attempt's own folder, made if it is not there. Nobody else writes to it; the event that
    /// accepts the attempt makes what is in it part of the run.
    ///
    /// # Errors
    /// No scratch store, or the folder cannot be made.
    pub fn attempt_dir(&self) -> Result<PathBuf, Failure> {
        self.make_dir(&self.attempt_key())
    }

    /// The sector's cache directory, made if it is not there: shared by the stages from PC1 to C1.
    ///
    /// # Errors
    /// No scratch store, or the folder cannot be made.
    pub fn cache_dir(&self) -> Result<PathBuf, Failure> {
        self.make_dir(&cache_folder(&self.subject))
    }

    fn make_dir(&self, key: &str) -> Result<PathBuf, Failure> {
        let path = self.path_in_scratch(key)?;
        std::fs::create_dir_all(&path).map_err(|error| Failure::io("make the folder", &path, &error))?;
        Ok(path)
    }

    fn path_in_scratch(&self, key: &str) -> Result<PathBuf, Failure> {
        let missing = || StoreError::Missing {
            store: SCRATCH.to_owned(),
            key: key.to_owned(),
        };
        self.stores
            .get(SCRATCH)?
            .local_path(key)?
            .ok_or_else(|| missing().into())
    }

    /// The artifact of a file or folder under this attempt's folder or the cache directory.
    ///
    /// # Errors
    /// The path is not in the scratch store, or cannot be read.
    pub fn scratch_artifact(&self, path: &Path, digest: Option<String>) -> Result<Artifact, Failure> {
        let root = self.path_in_scratch(&self.subject.folder())?;
        let rest = path.strip_prefix(&root).map_err(|_| {
            Failure::permanent(
                "outside_scratch",
                format!("{} is not below {}", path.display(), root.display()),
            )
        })?;
        let bytes = tree_bytes(path).map_err(|error| Failure::io("measure", path, &error))?;
        let rest = rest.to_str().ok_or_else(|| {
            Failure::permanent("outside_scratch", format!("{} is not UTF-8", path.display()))
        })?;
        let key = format!("{}/{rest}", self.subject.folder());
        Ok(Artifact {
            store: SCRATCH.to_owned(),
            key,
            bytes,
            digest,
        })
    }

    /// The local path of an artifact.
    ///
    /// # Errors
    /// The store is unknown or has no local paths.
    pub fn local_path(&self, artifact: &Artifact) -> Result<PathBuf, Failure> {
        Ok(self.stores.local_path(artifact)?)
    }

    /// Runs a blocking computation on a thread of its own, and waits for it. A panic in it becomes
    /// the failure `panicked`.
    ///
    /// # Errors
    /// What the computation fails with.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(panicked(error)),
        }
    }
}

/// The failure of a task that panicked, with its message where there is one.
pub fn panicked(error: tokio::task::JoinError) -> Failure {
    let text = match error.try_into_panic() {
        Ok(payload) => panic_text(&*payload),
        Err(error) => error.to_string(),
    };
    Failure::permanent(
        "panicked",
        format!("{text}; this is a bug of the stage, please report it"),
    )
}

/// The message of a caught panic.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic without a message".to_owned())
}

/// The bytes of a file, or of all files below a folder.
///
/// # Errors
/// What cannot be read.
pub fn tree_bytes(path: &Path) -> std::io::Result<u64> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += tree_bytes(&entry?.path())?;
    }
    Ok(sum)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Io { what, path, source } => Failure::io(what, path, source),
            StoreError::Unknown { .. } => Failure::permanent("unknown_store", error.to_string()),
            StoreError::BadKey(_) => Failure::permanent("bad_key", error.to_string()),
            StoreError::Refused { .. } => Failure::permanent("store_refused", error.to_string()),
            StoreError::Unavailable { .. } => Failure::transient("store_unavailable", error.to_string()),
            StoreError::Missing { .. } => Failure::permanent("artifact_missing", error.to_string()),
            StoreError::Damaged { .. } => Failure::permanent("artifact_damaged", error.to_string()),
        }
    }
}

/// The result of a stage, encoded.
pub type DynResult = Result<Outcome<Value>, Failure>;

/// The object-safe twin of [`Stage`]: implemented once, for every stage.
pub trait DynStage: Send + Sync + 'static {
    /// What one attempt needs while it runs.
    fn costs(&self, input: &Value) -> Need;

    /// What makes this work longer or shorter than other work of the stage.
    fn class(&self, input: &Value) -> String;

    /// Decodes, runs, encodes.
    fn run<'a>(
        &'a self,
        cx: &'a StageContext,
        input: Value,
    ) -> Pin<Box<dyn Future<Output = DynResult> + Send + 'a>>;
}

/// The input of a stage.
pub(crate) fn decode<S: Stage>(input: Value) -> Result<S::Input, Failure> {
    serde_json::from_value(input)
        .map_err(|error| Failure::permanent("bad_input", format!("input of `{}`: {error}", S::NAME)))
}

/// The outcome of a stage as a value.
pub(crate) fn encode<S: Stage>(outcome: Outcome<S::Output>) -> DynResult {
    match outcome {
        Outcome::Park(wake) => Ok(Outcome::Park(wake)),
        Outcome::Done(output) => serde_json::to_value(output)
            .map(Outcome::Done)
            .map_err(|error| Failure::permanent("bad_output", format!("output of `{}`: {error}", S::NAME))),
    }
}

impl<S: Stage> DynStage for S {
    fn costs(&self, input: &Value) -> Need {
        Stage::costs(self, input)
    }

    fn class(&self, input: &Value) -> String {
        Stage::class(self, input)
    }

    fn run<'a>(
        &'a self,
        cx: &'a StageContext,
        input: Value,
    ) -> Pin<Box<dyn Future<Output = DynResult> + Send + 'a>> {
        Box::pin(async move {
            let input = decode::<S>(input)?;
            encode::<S>(Stage::run(self, cx, input).await?)
        })
    }
}

/// What is known of a stage without running it.
#[derive(Debug, Clone, Serialize)]
pub struct StageInfo {
    /// Its name.
    pub name: StageName,
    /// Its version.
    pub version: u32,
    /// What it does to the subject's artifacts.
    pub claim: Claim,
    /// Whether its success changes the world outside, which going back cannot undo.
    pub effect: bool,
    /// Whether work with a deadline may take the place of an attempt.
    pub preemptible: bool,
    /// Whether it works in the sector's cache directory, which is on one machine.
    pub bound: bool,
    /// Codes of failures that mean that something must first be put in place.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub prerequisites: &'static [&'static str],
    /// Whether it can do the work of many runs at once.
    pub batch: bool,
    /// What it takes.
    pub inputs: Vec<Field>,
    /// What it gives.
    pub outputs: Vec<Field>,
    /// Its documentation, as Markdown: a sentence, then *Reads*, *Writes*, *Costs*, *Fails*.
    pub doc: String,
}

/// A kind of thing that a run can be about, named by some of the run's parameters.
#[derive(Debug, Clone, Copy)]
pub struct SubjectKind {
    /// What `subject = "…"` in a workflow file says.
    pub name: &'static str,
    /// The parameters that name it, with their types.
    pub params: &'static [(&'static str, &'static str)],
    /// Makes the subject of these parameters' values.
    pub subject: fn(&Value) -> Result<Subject, String>,
}

/// The stages of a process, the types that workflow parameters can have, and the kinds of subjects.
#[derive(Clone, Default)]
pub struct StageRegistry {
    subjects: Vec<SubjectKind>,
    stages: BTreeMap<StageName, (StageInfo, Arc<dyn DynStage>)>,
    /// Stages that can do the work of many runs at once.
    many: BTreeMap<StageName, Arc<dyn DynStage>>,
    /// Stages whose computing other processes can do.
    wire: BTreeMap<StageName, Arc<dyn DynWire>>,
    types: BTreeMap<String, ParamType>,
}

impl StageRegistry {
    /// Adds a stage.
    ///
    /// # Panics
    /// When the name is not a name or is taken: both are mistakes in the program, found at start.
    #[must_use]
    pub fn with<S: Stage>(mut self, stage: S) -> Self {
        self.add::<S>(Arc::new(stage), false);
        self
    }

    /// Adds a stage that can do the work of many runs at once.
    ///
    /// # Panics
    /// As [`StageRegistry::with`].
    #[must_use]
    pub fn with_batch<S: BatchStage>(mut self, stage: S) -> Self {
        let stage = Arc::new(stage);
        let name = self.add::<S>(stage.clone(), true);
        self.many.insert(name, Arc::new(Many(stage)));
        self
    }

    /// Adds a stage whose computing other processes can do.
    ///
    /// # Panics
    /// As [`StageRegistry::with`].
    #[must_use]
    pub fn with_wire<S: WireStage>(mut self, stage: S) -> Self {
        let stage = Arc::new(stage);
        let name = self.add::<S>(stage.clone(), false);
        self.wire.insert(name, stage);
        self
    }

    fn add<S: Stage>(&mut self, stage: Arc<S>, batch: bool) -> StageName {
        #[expect(
            clippy::expect_used,
            reason = "a constant of the program, checked at every start"
        )]
        let name = StageName::new(S::NAME).expect("a stage name");
        let info = StageInfo {
            name: name.clone(),
            version: S::VERSION,
            claim: S::CLAIM,
            effect: S::EFFECT,
            preemptible: S::PREEMPTIBLE,
            bound: S::BOUND,
            prerequisites: S::PREREQUISITES,
            batch,
            inputs: fields_of::<S::Input>(),
            outputs: fields_of::<S::Output>(),
            doc: header(S::SOURCE),
        };
        let taken = self.stages.insert(name.clone(), (info, stage));
        assert!(taken.is_none(), "stage `{}` is registered twice", S::NAME);
        name
    }

    /// Adds a type that workflow parameters can have.
    #[must_use]
    pub fn with_type<T: JsonSchema + Serialize + DeserializeOwned>(mut self) -> Self {
        let ty = ParamType::of::<T>();
        self.types.insert(ty.name.clone(), ty);
        self
    }

    /// Adds a kind of subject.
    #[must_use]
    pub fn with_subject(mut self, kind: SubjectKind) -> Self {
        self.subjects.push(kind);
        self
    }

    /// A kind of subject.
    pub fn subject_kind(&self, name: &str) -> Option<&SubjectKind> {
        self.subjects.iter().find(|kind| kind.name == name)
    }

    /// All kinds of subjects.
    pub fn subject_kinds(&self) -> impl Iterator<Item = &SubjectKind> + Clone {
        self.subjects.iter()
    }

    /// What is known of a stage.
    pub fn info(&self, name: &str) -> Option<&StageInfo> {
        self.stages
            .iter()
            .find(|(key, _)| key.as_str() == name)
            .map(|(_, (info, _))| info)
    }

    /// Whether a stage could have given this: an object with the fields that it gives, each of its type.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn fits(&self, stage: &StageName, output: &Value) -> Result<(), String> {
        let fields = output
            .as_object()
            .ok_or("an output is an object of fields and values")?;
        let info = self
            .info(stage.as_str())
            .ok_or_else(|| format!("there is no stage `{stage}`"))?;
        let known = &info.outputs;
        if let Some(unknown) = fields
            .keys()
            .find(|field| known.iter().all(|one| one.name != **field))
        {
            let names: Vec<&str> = known.iter().map(|field| field.name.as_str()).collect();
            let names = names.join(", ");
            return Err(format!("`{stage}` has no output `{unknown}`; it has: {names}"));
        }
        for field in known {
            match fields.get(&field.name).filter(|value| !value.is_null()) {
                None if field.required && !field.ty.ends_with('?') => {
                    return Err(format!("the output lacks `{}` ({})", field.name, field.ty));
                }
                Some(value) => {
                    let ty = self.param_type(&field.ty);
                    if let Some(Err(why)) = ty.map(|ty| ty.normalise(value.clone())) {
                        return Err(format!("`{}` is not of type {}: {why}", field.name, field.ty));
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The stage itself.
    pub fn stage(&self, name: &StageName) -> Option<&Arc<dyn DynStage>> {
        self.stages.get(name).map(|(_, stage)| stage)
    }

    /// The stage itself, or the one that does the work of many runs at once.
    pub fn work(&self, name: &StageName, many: bool) -> Option<&Arc<dyn DynStage>> {
        if many {
            self.many.get(name)
        } else {
            self.stage(name)
        }
    }

    /// The wire form of a stage, if it has one.
    pub fn wire(&self, name: &str) -> Option<&Arc<dyn DynWire>> {
        self.wire
            .iter()
            .find(|(key, _)| key.as_str() == name)
            .map(|(_, wire)| wire)
    }

    /// The stages that have a wire form, by name.
    pub fn wired(&self) -> impl Iterator<Item = &StageName> + Clone {
        self.wire.keys()
    }

    /// All stages, by name.
    pub fn iter(&self) -> impl Iterator<Item = &StageInfo> + Clone {
        self.stages.values().map(|(info, _)| info)
    }

    /// A parameter type. A trailing `?`, for a value that may be absent, makes no difference here.
    pub fn param_type(&self, name: &str) -> Option<&ParamType> {
        self.types.get(name.strip_suffix('?').unwrap_or(name))
    }

    /// All parameter types, by name.
    pub fn param_types(&self) -> impl Iterator<Item = &ParamType> + Clone {
        self.types.values()
    }
}

/// The `//!` header of a source file, as Markdown.
fn header(source: &str) -> String {
    let lines = source.lines().take_while(|line| line.starts_with("//!"));
    let text: Vec<&str> = lines
        .map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or(""))
        .collect();
    text.join("\n").trim().to_owned()
}
