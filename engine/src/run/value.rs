//! What steps take: the values behind their inputs, what their expressions see, and what these come to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::*;
use crate::workflow::{Foreach, Source};

/// A field of an input: a value, or where to fetch it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputValue {
    /// The value.
    Value(Value),
    /// A part of a payload file.
    Payload {
        /// SHA-256 of the payload, in hex.
        sha256: String,
        /// The part, as a JSON pointer.
        pointer: String,
    },
    /// One value for each item.
    List(Vec<InputValue>),
    /// The fields of a member's input.
    Fields(BTreeMap<String, InputValue>),
}

impl InputValue {
    /// The value, unless a payload file is needed for it.
    pub fn at_hand(self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Payload { .. } => None,
            Self::List(items) => items
                .into_iter()
                .map(Self::at_hand)
                .collect::<Option<_>>()
                .map(Value::Array),
            Self::Fields(fields) => fields
                .into_iter()
                .map(|(name, value)| Some((name, value.at_hand()?)))
                .collect::<Option<_>>()
                .map(Value::Object),
        }
    }
}

/// What the conditions of a step come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Why the step is to be skipped; nothing if it is not.
    pub skip: Option<String>,
    /// When its success is worth nothing any more.
    pub valid_until: Option<u64>,
}

impl RunState {
    /// Where each field of a step's input comes from, with the values that are at hand.
    pub fn input(&self, ix: StepIx) -> BTreeMap<String, InputValue> {
        let inputs = self.spec(ix).inputs.iter();
        inputs
            .map(|(name, source)| (name.clone(), self.source(ix, source)))
            .collect()
    }

    /// The value behind a source, as a step sees it.
    pub(crate) fn source(&self, ix: StepIx, source: &Source) -> InputValue {
        let of = |value: Option<&Value>| InputValue::Value(value.cloned().unwrap_or(Value::Null));
        match source {
            Source::Param(name) => of(self.params.get(name)),
            Source::Literal(value) => of(Some(value)),
            Source::Subject { kind, .. } => of(self.subject_artifacts.get(kind)),
            Source::Output { step, field, .. } => self.output(*step, field),
            Source::Members => {
                let members = self.params.get("members").cloned().unwrap_or_default();
                // The core wrote it, at the start of the batch.
                serde_json::from_value(members).unwrap_or(InputValue::Value(Value::Null))
            }
            Source::Item { field } => self.item_value(ix, field.as_deref()),
        }
    }

    /// A field of a step's output; of a step with items one value for each.
    pub(super) fn output(&self, ix: StepIx, field: &str) -> InputValue {
        if self.step(ix).items.is_some() {
            let items = self.items(ix).iter().map(|item| self.output(*item, field));
            return InputValue::List(items.collect());
        }
        match &self.step(ix).output {
            Some(Output::Inline(value)) => {
                InputValue::Value(value.get(field).cloned().unwrap_or(Value::Null))
            }
            Some(Output::Payload { sha256, .. }) => InputValue::Payload {
                sha256: sha256.clone(),
                pointer: pointer(&[field]),
            },
            None => InputValue::Value(Value::Null),
        }
    }

    fn item_value(&self, ix: StepIx, field: Option<&str>) -> InputValue {
        let null = InputValue::Value(Value::Null);
        let Some((step, index)) = self.step(ix).item else {
            return null;
        };
        let Some(foreach) = &self.graph.step(step).foreach else {
            return null;
        };
        let part = |item: Option<&Value>| {
            let part = item.and_then(|item| field.map_or(Some(item), |field| item.get(field)));
            InputValue::Value(part.cloned().unwrap_or(Value::Null))
        };
        // A plain list need not be worked out again for every item, and may be in a payload file.
        if let Some((root, list)) = foreach.list.plain() {
            if root == "params" {
                return part(self.params.get(list).and_then(|list| list.get(index as usize)));
            }
            let source = StepName::new(root).ok().and_then(|name| self.graph.find(&name));
            match source.and_then(|source| self.step(source).output.as_ref().map(|output| (source, output))) {
                Some((_, Output::Payload { sha256, .. })) => {
                    let index = index.to_string();
                    let mut path = vec![list, index.as_str()];
                    path.extend(field);
                    return InputValue::Payload {
                        sha256: sha256.clone(),
                        pointer: pointer(&path),
                    };
                }
                Some((source, Output::Inline(value))) if self.step(source).items.is_none() => {
                    return part(value.get(list).and_then(|list| list.get(index as usize)));
                }
                _ => {}
            }
        }
        let Some(items) = &self.step(step).items else {
            return null;
        };
        let list = items.list.get_or_init(|| {
            let list = foreach.list.evaluate(|root| self.root(root));
            Arc::new(list.unwrap_or(Value::Null))
        });
        part(list.get(index as usize))
    }

    /// How many items a step has.
    ///
    /// # Errors
    /// The list cannot be worked out, or has too many items.
    pub fn count_items(&self, ix: StepIx) -> Result<u32, String> {
        let Some(foreach) = &self.graph.step(ix).foreach else {
            return Err("the step has no `foreach`".to_owned());
        };
        let from_payload = foreach.list.plain().and_then(|(root, field)| {
            let source = self.graph.find(&StepName::new(root).ok()?)?;
            match self.step(source).output.as_ref()? {
                Output::Payload { lengths, .. } => lengths.get(field).copied(),
                Output::Inline(_) => None,
            }
        });
        let count = match from_payload {
            Some(count) => count,
            None => {
                let list = foreach.list.evaluate(|root| self.root(root));
                let list = list.map_err(|error| format!("foreach = \"{}\": {error}", foreach.list))?;
                match list {
                    Value::Array(items) => items.len() as u64,
                    Value::Null => 0,
                    _ => return Err(format!("foreach = \"{}\" does not give a list", foreach.list)),
                }
            }
        };
        match u32::try_from(count) {
            Ok(small) if small as usize <= Foreach::MAX_ITEMS => Ok(small),
            _ => Err(format!(
                "foreach = \"{}\" gives {count} items; a step has at most {}",
                foreach.list,
                Foreach::MAX_ITEMS
            )),
        }
    }

    /// What an expression sees under a name: the parameters, or what is known of a step's output.
    fn root(&self, root: &str) -> Value {
        if root == "params" {
            return self.params.clone();
        }
        let step = StepName::new(root).ok().and_then(|name| self.graph.find(&name));
        Value::Object(step.map(|ix| self.known(ix)).unwrap_or_default())
    }

    fn known(&self, ix: StepIx) -> Map<String, Value> {
        if self.step(ix).items.is_some() {
            let items: Vec<Map<String, Value>> =
                self.items(ix).iter().map(|item| self.known(*item)).collect();
            let fields: BTreeSet<&String> = items.iter().flat_map(Map::keys).collect();
            let list = |field: &String| -> Value {
                let values = items.iter().map(|item| item.get(field).cloned());
                values.map(Option::unwrap_or_default).collect()
            };
            return fields
                .iter()
                .map(|field| ((*field).clone(), list(field)))
                .collect();
        }
        match &self.step(ix).output {
            Some(Output::Inline(Value::Object(fields))) => fields.clone(),
            Some(Output::Payload { artifacts, known, .. }) => {
                let parts = [artifacts, known].into_iter().filter_map(Value::as_object);
                parts
                    .flatten()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            }
            _ => Map::new(),
        }
    }

    /// The input that a step cannot do without although the step that gives it was skipped.
    pub(super) fn lacks(&self, ix: StepIx) -> Option<String> {
        let spec = self.graph.step(ix);
        spec.inputs.iter().find_map(|(name, source)| match source {
            Source::Output {
                step,
                optional: false,
                ..
            } => {
                let gone = match self.step(*step).status {
                    StepStatus::Skipped => "was skipped",
                    StepStatus::Cancelled => "was cancelled",
                    StepStatus::Failed if self.step(*step).given_up => "failed",
                    _ => return None,
                };
                let from = &self.graph.step(*step).name;
                Some(format!("its input `{name}` comes from `{from}`, which {gone}"))
            }
            _ => None,
        })
    }

    /// Why a step is not for this: something before it failed, or nothing that it is for did.
    fn past_failure(&self, ix: StepIx) -> Option<String> {
        let spec = self.graph.step(ix);
        let name = |at: &StepIx| format!("`{}`", self.graph.step(*at).name);
        if spec.finally {
            return None;
        }
        if !spec.on_failure.is_empty() {
            let failed = spec.on_failure.iter().any(|of| self.step(*of).given_up);
            let names: Vec<String> = spec.on_failure.iter().map(name).collect();
            return (!failed).then(|| format!("{} did not fail", names.join(", ")));
        }
        let failed = |need: &&StepIx| self.step(**need).given_up || self.step(**need).after_failure;
        let need = spec.needs.iter().find(failed)?;
        let what = if self.step(*need).given_up {
            "failed"
        } else {
            "came after a failure"
        };
        Some(format!("{} {what}", name(need)))
    }

    /// When a step expires that is not through: as it was judged, or, before that, as soon as its expression can be
    /// worked out.
    pub(crate) fn expires(&self, ix: StepIx) -> Option<u64> {
        let (step, spec) = (self.step(ix), self.graph.step(ix));
        if step.is_through() || step.given_up {
            return None;
        }
        if step.valid_until.is_some() {
            return step.valid_until;
        }
        let time = spec.valid_until.as_ref()?;
        if !self.must_judge(ix) {
            return None;
        }
        let done = |root: &String| {
            let of = StepName::new(root).ok().and_then(|name| self.graph.find(&name));
            of.map_or(root == "params", |of| {
                self.step(of).status == StepStatus::Succeeded
            })
        };
        if !time.roots().iter().all(done) {
            return None;
        }
        milliseconds(&time.evaluate(|root| self.root(root)).ok()?)
    }

    /// Works out the conditions of a step whose needs are met.
    ///
    /// # Errors
    /// An expression that cannot be worked out.
    pub fn judge(&self, ix: StepIx) -> Result<Judgement, String> {
        let spec = self.graph.step(ix);
        if let Some(why) = self.past_failure(ix) {
            return Ok(Judgement {
                skip: Some(why),
                valid_until: None,
            });
        }
        if let Some(why) = self.lacks(ix) {
            return Ok(Judgement {
                skip: Some(why),
                valid_until: None,
            });
        }
        if let Some(when) = &spec.when {
            match when.evaluate(|root| self.root(root)) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => {
                    return Ok(Judgement {
                        skip: Some(format!("`{when}` does not hold")),
                        valid_until: None,
                    });
                }
                Ok(other) => return Err(format!("when = \"{when}\" gives {other}, not true or false")),
                Err(error) => return Err(format!("when = \"{when}\": {error}")),
            }
        }
        let valid_until = spec.valid_until.as_ref().map(|time| {
            let value = time.evaluate(|root| self.root(root));
            let value = value.map_err(|error| format!("valid_until = \"{time}\": {error}"))?;
            milliseconds(&value).ok_or_else(|| format!("valid_until = \"{time}\" gives {value}, not a time"))
        });
        Ok(Judgement {
            skip: None,
            valid_until: valid_until.transpose()?,
        })
    }
}

/// A time as milliseconds since 1970.
fn milliseconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let time = humantime::parse_rfc3339_weak(text).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            u64::try_from(since.as_millis()).ok()
        }
        _ => None,
    }
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &[&str]) -> String {
    let escaped = path.iter().map(|part| part.replace('~', "~0").replace('/', "~1"));
    escaped.fold(String::new(), |pointer, part| pointer + "/" + &part)
}
