//! Steps that are more than one stage in one run: sub-workflows, batches, and what a workflow gives to
//! the step that it is started for.

use std::cell::RefCell;

use super::*;
use crate::id::StageName;
use crate::trigger::TriggerSpec;
use crate::workflow::graph::BatchSpec;
use crate::workflow::{Library, load_within};

/// How deep workflows may be inside each other.
const MAX_DEPTH: usize = 8;
/// How long a batch waits for members, unless the file says otherwise.
const WAIT_MS: u64 = 60_000;

/// The workflows that steps can name, each read once.
pub(in crate::workflow) struct Children<'a> {
    registry: &'a StageRegistry,
    library: &'a Library<'a>,
    within: &'a [&'a str],
    read: RefCell<BTreeMap<String, Result<Read, String>>>,
}

/// A workflow that was read: as a step sees it, and its graph.
#[derive(Clone)]
struct Read {
    info: StageInfo,
    data: GraphData,
}

/// The workflow of a step.
pub(super) struct Child {
    /// What it takes and gives, as if it were a stage.
    pub(super) info: StageInfo,
    /// Its place in [`GraphData::children`].
    pub(super) part: u32,
}

impl<'a> Children<'a> {
    pub(in crate::workflow) fn new(
        registry: &'a StageRegistry,
        library: &'a Library<'a>,
        within: &'a [&'a str],
    ) -> Self {
        Self {
            registry,
            library,
            within,
            read: RefCell::default(),
        }
    }

    /// Reads the workflow of this name, which `within` names as a step.
    fn read(&self, name: &str, within: &str) -> Result<Read, String> {
        if let Some(known) = self.read.borrow().get(name) {
            return known.clone();
        }
        let mut path = self.within.to_vec();
        path.push(within);
        let read = self.load(name, &path);
        self.read.borrow_mut().insert(name.to_owned(), read.clone());
        read
    }

    fn load(&self, name: &str, path: &[&str]) -> Result<Read, String> {
        if path.contains(&name) {
            return Err(format!(
                "a workflow cannot be a part of itself: {} → {name}",
                path.join(" → ")
            ));
        }
        if path.len() > MAX_DEPTH {
            return Err(format!(
                "workflows are at most {MAX_DEPTH} deep inside each other"
            ));
        }
        let text = (self.library)(name).ok_or_else(|| format!("there is no workflow `{name}`"))?;
        let (graph, complaints) = load_within(&text, self.registry, self.library, path);
        let Some(graph) = graph else {
            let first = complaints
                .iter()
                .map(|complaint| complaint.message.clone())
                .next();
            return Err(format!(
                "workflow `{name}` is wrong: {}; `sealflow workflow check {name}` says more",
                first.unwrap_or_default()
            ));
        };
        let data = graph.data().clone();
        let claim_name = StageName::new(data.name.as_str()).map_err(|error| error.to_string())?;
        let inputs = data.params.iter().map(|param| Field {
            name: param.name.clone(),
            ty: param.ty.clone(),
            required: param.default.is_none() && !param.ty.ends_with('?'),
            doc: param.doc.clone(),
        });
        let gives = |(name, source): (&String, &Source)| {
            let Source::Output { step, field, .. } = source else {
                return None;
            };
            let spec = graph.step(*step);
            let ty = match (&spec.stage, graph.child(spec)) {
                (Some(stage), _) => self.registry.info(stage.name.as_str()).and_then(|info| {
                    let output = info.outputs.iter().find(|output| output.name == *field)?;
                    Some(output.ty.clone())
                }),
                (None, Some(_)) => Some("any".to_owned()),
                (None, None) => None,
            }?;
            let listed = spec.foreach.is_some();
            Some(Field {
                name: name.clone(),
                ty: if listed { format!("list of {ty}") } else { ty },
                // Its step may be skipped.
                required: spec.when.is_none(),
                doc: String::new(),
            })
        };
        let info = StageInfo {
            bound: false,
            prerequisites: &[],
            name: claim_name,
            version: 1,
            claim: data.claim,
            effect: graph.steps().any(|(_, step)| graph.has_effect(step)),
            preemptible: false,
            batch: false,
            inputs: inputs.collect(),
            outputs: data.outputs.iter().filter_map(gives).collect(),
            doc: data.description.clone(),
        };
        Ok(Read { info, data })
    }
}

impl Resolver<'_> {
    /// The workflows that steps name, by the place of the step, and those workflows' graphs.
    pub(super) fn children(&mut self, library: &Children<'_>) -> (Vec<Option<Child>>, Vec<GraphData>) {
        let file = self.file;
        let own = file.name.as_ref().map_or("", |name| name.value.as_str());
        let mut parts: Vec<GraphData> = Vec::new();
        let mut children = Vec::with_capacity(file.steps.len());
        for (place, step) in file.steps.iter().enumerate() {
            let Some(name) = &step.workflow else {
                children.push(None);
                continue;
            };
            if let Some(stage) = &step.stage {
                let message = format!("step `{}` has a stage and a workflow", step.name.value);
                self.error(
                    "two_kinds",
                    &stage.span,
                    message,
                    Some("take one of them away".to_owned()),
                );
            }
            let read = match library.read(&name.value, own) {
                Ok(read) => read,
                Err(why) => {
                    self.unsure.insert(place);
                    let hint = Some("`sealflow workflow list` names them".to_owned());
                    self.error("bad_workflow", &name.span, why, hint);
                    children.push(None);
                    continue;
                }
            };
            let known = parts.iter().position(|part| *part == read.data);
            let part = known.unwrap_or_else(|| {
                parts.push(read.data);
                parts.len() - 1
            });
            children.push(Some(Child {
                info: read.info,
                part: u32::try_from(part).unwrap_or(u32::MAX),
            }));
        }
        (children, parts)
    }

    /// How a step is made in batches.
    pub(super) fn batch(&mut self, place: usize, stage: Option<&StageInfo>) -> Option<BatchSpec> {
        let step = &self.file.steps[place];
        let batch = step.batch.as_ref()?;
        let able = || {
            let able = self.registry.iter().filter(|info| info.batch);
            able.map(|info| info.name.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match stage {
            Some(info) if info.batch && step.foreach.is_none() => {}
            Some(info) if info.batch => {
                let message = format!("step `{}` has items and a batch", step.name.value);
                self.error(
                    "bad_batch",
                    &batch.span,
                    message,
                    Some("choose one of them".to_owned()),
                );
                return None;
            }
            Some(info) => {
                let message = format!("`{}` does not work for many runs at once", info.name);
                let hint = Some(format!("stages that do: {}", able()));
                self.error("bad_batch", &batch.span, message, hint);
                return None;
            }
            None if self.unsure.contains(&place) => return None,
            None => {
                let message = format!("step `{}` has no stage to do a batch", step.name.value);
                self.error("bad_batch", &batch.span, message, None);
                return None;
            }
        }
        let key = batch.value.key.as_ref();
        if let Some(key) = key {
            let inputs = stage
                .into_iter()
                .flat_map(|info| info.inputs.iter().map(|field| field.name.as_str()));
            let params = self.file.params.iter().map(|param| param.name.value.as_str());
            let names: Vec<&str> = inputs.chain(params).collect();
            if !names.contains(&key.value.as_str()) {
                let hint = did_you_mean(&key.value, names.iter().copied());
                let message = format!("`{}` is neither an input of the step nor a parameter", key.value);
                self.error("unknown_field", &key.span, message, hint);
            }
        }
        let ms = |duration: &Option<Sp<std::time::Duration>>| duration.as_ref().map(|one| millis(one.value));
        Some(BatchSpec {
            key: key.map(|key| key.value.clone()),
            max: batch.value.max.as_ref()?.value,
            max_bytes: batch.value.max_bytes,
            wait_ms: ms(&batch.value.wait).unwrap_or(WAIT_MS),
            slack_ms: ms(&batch.value.slack).unwrap_or_default(),
        })
    }

    /// What the workflow gives.
    pub(super) fn outputs(
        &mut self,
        stages: &[Option<&StageInfo>],
        ix: &dyn Fn(usize) -> StepIx,
    ) -> BTreeMap<String, Source> {
        let mut outputs = BTreeMap::new();
        for (name, wire) in &self.file.outputs {
            if StepName::new(&name.value).is_err() {
                let message = format!("`{}` is not the name of an output", name.value);
                let hint = Some("use lower-case letters, digits and _".to_owned());
                self.error("bad_name", &name.span, message, hint);
            }
            let parts = wire.value.split_once('.');
            let found = parts.and_then(|(step, field)| Some((*self.places.get(step)?, field)));
            let Some((at, field)) = found else {
                let hint = parts.and_then(|(step, _)| did_you_mean(step, self.places.keys().copied()));
                let message = format!("`{}` does not name a step's output", wire.value);
                let hint = hint.or_else(|| Some("write name = \"step.field\"".to_owned()));
                self.error("bad_reference", &wire.span, message, hint);
                continue;
            };
            let given = self.gives(at, stages);
            if given.iter().all(|output| output.name != field) && !self.unsure.contains(&at) {
                let known = given.iter().map(|output| output.name.as_str());
                let hint = did_you_mean(field, known.clone())
                    .unwrap_or_else(|| format!("its outputs: {}", known.collect::<Vec<_>>().join(", ")));
                let message = format!(
                    "step `{}` has no output `{field}`",
                    self.file.steps[at].name.value
                );
                self.error("unknown_field", &wire.span, message, Some(hint));
                continue;
            }
            let source = Source::Output {
                step: ix(at),
                field: field.to_owned(),
                optional: true,
            };
            outputs.insert(name.value.clone(), source);
        }
        outputs
    }

    /// When the workflow starts by itself.
    pub(super) fn triggers(&mut self, params: &[ParamSpec]) -> Vec<TriggerSpec> {
        let mut triggers = Vec::new();
        for decl in &self.file.triggers {
            if let Err(why) = TriggerSpec::check(&decl.cron.value) {
                let hint = "for example \"30 */6 * * *\": half past every sixth hour, UTC".to_owned();
                self.error("bad_cron", &decl.cron.span, why, Some(hint));
            }
            let overlap = self.word(&decl.overlap, "overlap", ["skip", "wait", "allow"]);
            let catch_up = self.word(&decl.catch_up, "catch_up", ["one", "none", "all"]);
            let mut given = serde_json::Map::new();
            for (name, value) in &decl.params {
                let Some(param) = params.iter().find(|param| param.name == name.value) else {
                    let hint = did_you_mean(&name.value, params.iter().map(|param| param.name.as_str()));
                    let message = format!("there is no parameter `{}`", name.value);
                    self.error("unknown_param", &name.span, message, hint);
                    continue;
                };
                match self
                    .registry
                    .param_type(&param.ty)
                    .map(|ty| ty.normalise(value.value.clone()))
                {
                    Some(Err(why)) => {
                        let message = format!("`{}` is a {}: {why}", param.name, param.ty);
                        self.error("wrong_type", &value.span, message, None);
                    }
                    _ => drop(given.insert(param.name.clone(), value.value.clone())),
                }
            }
            let missing = params.iter().filter(|param| {
                let needless = param.default.is_some() || param.ty.ends_with('?');
                !needless && decl.params.iter().all(|(name, _)| name.value != param.name)
            });
            for param in missing {
                let message = format!("the trigger does not say what `{}` is", param.name);
                let hint = format!(
                    "add params = {{ {} = … }}, or give the parameter a default",
                    param.name
                );
                self.error("missing_param", &decl.span, message, Some(hint));
            }
            triggers.push(TriggerSpec {
                cron: decl.cron.value.clone(),
                overlap: overlap.unwrap_or_default(),
                catch_up: catch_up.unwrap_or_default(),
                params: serde_json::Value::Object(given),
            });
        }
        triggers
    }

    /// One of a few words, the first of which is what is meant when nothing is said.
    fn word<T: serde::de::DeserializeOwned>(
        &mut self,
        text: &Option<Sp<String>>,
        key: &str,
        words: [&str; 3],
    ) -> Option<T> {
        let text = text.as_ref()?;
        let found = serde_json::from_value(serde_json::Value::String(text.value.clone())).ok();
        if found.is_none() {
            let hint = did_you_mean(&text.value, words);
            let hint = hint.or_else(|| Some(format!("use {}", words.join(", "))));
            let message = format!("`{}` is nothing that `{key}` can be", text.value);
            self.error("wrong_value", &text.span, message, hint);
        }
        found
    }
}
