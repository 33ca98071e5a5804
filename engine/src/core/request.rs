//! Requests of people and programs: starting runs and operating them, and why they are refused.

use super::*;

/// A run to start.
#[derive(Debug, Clone)]
pub struct StartRun {
    /// The graph.
    pub graph: Arc<Graph>,
    /// The text it came from.
    pub source: String,
    /// Its parameters as they were given.
    pub params: Value,
    /// The caller's name for it: the same name starts no second run.
    pub key: Option<String>,
    /// Who starts it.
    pub by: By,
    /// What its subject owns, by kind, read from the journal.
    pub artifacts: BTreeMap<String, Value>,
}

/// Something that a person or a program asks of a run.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Start nothing more.
    Pause,
    /// Go on; failed steps get a fresh retry budget.
    Resume,
    /// End it.
    Cancel,
    /// Let a failed or waiting step start again; without a name every failed or backing-off one. A
    /// succeeded step is done again with all that need it, if it is named.
    Retry(Option<StepName>),
    /// Tell it something.
    Signal(String, Value),
}

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such run, or it has ended.
    #[error("{0} is not an open run; `sealflow run list` shows all")]
    NoRun(RunId),
    /// The parameters do not fit the workflow.
    #[error("{0}")]
    Params(String),
    /// The subject is in use.
    #[error(
        "{subject} is in use by {holder}: one run writes to a subject at a time; cancel it or wait for its end"
    )]
    Busy {
        /// The subject.
        subject: Subject,
        /// The run that has it.
        holder: RunId,
    },
    /// The request makes no sense in this state.
    #[error("{0}")]
    State(String),
    /// The run cannot go on because its journal contradicts itself.
    #[error("{run} is set aside: {why}; `sealflow store check` says more")]
    Damaged {
        /// The run.
        run: RunId,
        /// What is wrong.
        why: String,
    },
}

pub(super) fn check_params(
    registry: &StageRegistry,
    graph: &Graph,
    given: &Value,
) -> Result<(Value, Subject), Refused> {
    let data = graph.data();
    let empty = serde_json::Map::new();
    let given = match given {
        Value::Object(given) => given,
        Value::Null => &empty,
        _ => {
            return Err(Refused::Params(
                "parameters are an object of names and values".to_owned(),
            ));
        }
    };
    let known = || {
        data.params
            .iter()
            .map(|param| param.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(unknown) = given
        .keys()
        .find(|name| data.params.iter().all(|param| param.name != **name))
    {
        let message = format!(
            "workflow `{}` has no parameter `{unknown}`; it has: {}",
            data.name,
            known()
        );
        return Err(Refused::Params(message));
    }
    let mut checked = serde_json::Map::new();
    let mut problems = Vec::new();
    for param in &data.params {
        let value = match given.get(&param.name).or(param.default.as_ref()) {
            Some(value) => value.clone(),
            None if param.ty.ends_with('?') => continue,
            None => {
                problems.push(format!("parameter `{}` ({}) is missing", param.name, param.ty));
                continue;
            }
        };
        match registry.param_type(&param.ty).map(|ty| ty.normalise(value)) {
            Some(Ok(value)) => {
                checked.insert(param.name.clone(), value);
            }
            Some(Err(why)) => problems.push(format!(
                "parameter `{}` is not of type {}: {why}",
                param.name, param.ty
            )),
            None => problems.push(format!("there is no type `{}` any more", param.ty)),
        }
    }
    if !problems.is_empty() {
        return Err(Refused::Params(problems.join("; ")));
    }
    let params = Value::Object(checked);
    let kind = registry
        .subject_kind(&data.subject)
        .ok_or_else(|| Refused::Params(format!("there is no subject `{}` any more", data.subject)))?;
    let subject = (kind.subject)(&params).map_err(Refused::Params)?;
    Ok((params, subject))
}

pub(super) fn check_artifacts(
    graph: &Graph,
    subject: &Subject,
    owned: &BTreeMap<String, Value>,
) -> Result<(), Refused> {
    for (_, step) in graph.steps() {
        for source in step.inputs.values() {
            if let Source::Subject {
                kind,
                optional: false,
            } = source
                && !owned.contains_key(kind)
            {
                let message = format!(
                    "{subject} has no `{kind}` file, which step `{}` reads; was it sealed here?",
                    step.name
                );
                return Err(Refused::Params(message));
            }
        }
    }
    Ok(())
}

/// Retries of one step, or of every failed (and, asked for by hand, backing-off) step.
pub(super) fn retries(state: &RunState, only: Option<&StepName>, by: &By, only_failed: bool) -> Vec<Event> {
    let mut events = Vec::new();
    for ix in state.frontier() {
        let step = state.step(ix);
        let name = &state.graph.step(ix).name;
        let backing_off = matches!(step.wake, Some((_, WaitReason::Backoff)));
        let eligible = step.status == StepStatus::Failed || (backing_off && !only_failed);
        if eligible && only.is_none_or(|only| only == name) {
            events.push(Event::StepRetried {
                step: name.clone(),
                by: by.clone(),
            });
        }
    }
    events
}

impl Core {
    /// Starts a run, or finds the one that was started under the same name.
    ///
    /// # Errors
    /// Wrong parameters, or a subject in use.
    pub fn start(&mut self, start: StartRun, now: Now) -> Result<RunId, Refused> {
        if let Some(run) = start.key.as_ref().and_then(|key| self.keys.get(key)) {
            return Ok(run.clone());
        }
        let data = start.graph.data();
        let (params, subject) = check_params(&self.registry, &start.graph, &start.params)?;
        self.check_claim(&subject, data.claim)?;
        check_artifacts(&start.graph, &subject, &start.artifacts)?;
        let run = RunId::new(now.wall_ms, &self.draw());
        let event = Event::RunStarted {
            workflow: data.name.clone(),
            graph: start.graph.hash().clone(),
            subject,
            params,
            artifacts: Value::Object(start.artifacts.into_iter().collect()),
            key: start.key,
            by: start.by,
        };
        let stored = Arc::new(StoredGraph {
            data: data.clone(),
            source: start.source,
        });
        let at = *self.at.get_or_insert(now.wall_ms);
        let entry = Entry {
            seq: 1,
            at,
            events: vec![event.clone()],
        };
        let mut state = RunState::start(run.clone(), start.graph, &entry)
            .map_err(|error| Refused::State(error.to_string()))?;
        state.seq = 0; // The entry is sealed with everything else that this input causes.
        self.admit_run(state, Vec::new(), Some(stored));
        if let Some(live) = self.runs.get_mut(&run) {
            live.events.push(event);
        }
        Ok(run)
    }

    /// The subject of a run that is to be started.
    ///
    /// # Errors
    /// Wrong parameters.
    pub fn subject_of(registry: &StageRegistry, graph: &Graph, params: &Value) -> Result<Subject, Refused> {
        check_params(registry, graph, params).map(|(_, subject)| subject)
    }

    pub(super) fn check_claim(&self, subject: &Subject, claim: Claim) -> Result<(), Refused> {
        let Some(holders) = self.claims.get(subject) else {
            return Ok(());
        };
        let conflict = holders.iter().find(|(_, held)| match claim {
            Claim::None => false,
            Claim::Read => **held == Claim::Write,
            Claim::Write => true,
        });
        match conflict {
            Some((holder, _)) => Err(Refused::Busy {
                subject: subject.clone(),
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Does what an operator asks of a run.
    ///
    /// # Errors
    /// No such open run, or the request makes no sense now.
    pub fn operate(&mut self, run: &RunId, verb: Verb, by: By, now: Now) -> Result<(), Refused> {
        self.at.get_or_insert(now.wall_ms);
        if let Some(why) = self.damaged.get(run) {
            return Err(Refused::Damaged {
                run: run.clone(),
                why: why.clone(),
            });
        }
        let live = self
            .runs
            .get_mut(run)
            .ok_or_else(|| Refused::NoRun(run.clone()))?;
        let state = &live.state;
        let status = state.status;
        if status.is_final() {
            return Err(Refused::NoRun(run.clone()));
        }
        let wrong = |what: &str| Err(Refused::State(format!("{run} is {}: {what}", status.as_str())));
        let mut events = Vec::new();
        let mut redo = None;
        match verb {
            Verb::Pause if status == RunStatus::Running => {
                events.push(Event::RunPaused {
                    reason: PauseReason::Operator(by),
                });
            }
            Verb::Pause => return wrong("only a running run can be paused"),
            Verb::Resume if status == RunStatus::Paused => {
                events.extend(retries(state, None, &by, true));
                events.push(Event::RunResumed { by });
            }
            Verb::Resume => return wrong("only a paused run can be resumed"),
            Verb::Cancel if status == RunStatus::Cancelling => return Ok(()),
            Verb::Cancel => events.push(Event::CancelRequested { by }),
            Verb::Retry(step) => {
                if status == RunStatus::Cancelling {
                    return wrong("it is being cancelled");
                }
                if let Some(step) = &step
                    && state.graph.find(step).is_none()
                {
                    return wrong(&format!("it has no step `{step}`"));
                }
                events.extend(retries(state, step.as_ref(), &by, false));
                let succeeded = step.as_ref().and_then(|step| state.graph.find(step));
                redo = succeeded.filter(|ix| state.step(*ix).status == StepStatus::Succeeded);
                if let (Some(_), Some(step)) = (redo, step) {
                    let by = by.clone();
                    events.push(Event::StepRedone { step, by });
                }
                if events.is_empty() {
                    return wrong("no step has failed or waits for its next attempt");
                }
                if status == RunStatus::Paused {
                    events.push(Event::RunResumed { by });
                }
            }
            Verb::Signal(name, data) => events.push(Event::SignalReceived { name, data, by }),
        }
        if let Some(ix) = redo {
            self.stop_from(run, ix);
        }
        for event in events {
            self.record(run, event);
        }
        match self.damaged.get(run) {
            Some(why) => Err(Refused::Damaged {
                run: run.clone(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }
}
