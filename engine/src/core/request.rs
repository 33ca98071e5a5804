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
    /// Its priority, if it is not the workflow's.
    pub priority: Option<i32>,
    /// Steps of another run whose outputs it takes over.
    pub fork: Option<Fork>,
}

/// What a run takes over from another one.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The other run.
    pub from: RunId,
    /// What its steps gave and where they were done, needs first.
    pub outputs: Vec<(StepName, Output, Option<String>)>,
}

impl Fork {
    /// Everything that a run's steps gave, but for those from `first` on and those with items.
    ///
    /// # Errors
    /// There is no such step.
    pub fn of(state: &RunState, first: &StepName) -> Result<Self, Refused> {
        let ix = state.graph.find(first);
        let ix = ix.ok_or_else(|| Refused::State(format!("{} has no step `{first}`", state.id)))?;
        let mut left_out = state.graph.with_descendants(ix);
        let mut outputs = Vec::new();
        for (ix, spec) in state.graph.steps() {
            let step = state.step(ix);
            let taken = match &step.output {
                Some(output) if spec.foreach.is_none() && !left_out.contains(&ix) => Some(output),
                _ => None,
            };
            // What needs a step that is done again is done again too.
            match taken {
                Some(output) if spec.needs.iter().all(|need| !left_out.contains(need)) => {
                    outputs.push((spec.name.clone(), output.clone(), step.ran_on.clone()));
                }
                _ => {
                    left_out.insert(ix);
                }
            }
        }
        Ok(Self {
            from: state.id.clone(),
            outputs,
        })
    }
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
    /// Go back to a step that had begun: it and all that need it are done again.
    Rewind(StepName),
    /// Leave a step or an item out.
    Skip(StepName),
    /// Give a step or an item its output; what needs it is done again.
    Override(StepName, Value),
    /// Approve what a step waits for.
    Approve(StepName),
    /// Change its priority.
    Prioritize(i32),
    /// Go on with another graph.
    Migrate(Box<Migration>),
}

/// Another graph for a run.
#[derive(Debug, Clone)]
pub struct Migration {
    /// The graph.
    pub graph: Arc<Graph>,
    /// The text it came from.
    pub source: String,
    /// Whether steps that are done may be done again.
    pub redo: bool,
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
        let name = state.name(ix);
        let backing_off = matches!(step.wake, Some((_, WaitReason::Backoff)));
        let eligible = step.status == StepStatus::Failed || (backing_off && !only_failed);
        // The name of a step stands for its items too.
        let named = |only: &StepName| *only == name || only.as_str() == name.split().0;
        if eligible && only.is_none_or(named) {
            events.push(Event::StepRetried {
                step: name,
                by: by.clone(),
            });
        }
    }
    events
}

/// The place of a step that has begun.
fn begun(state: &RunState, step: &StepName) -> Result<StepIx, Refused> {
    let ix = state.find(step);
    let ix = ix.ok_or_else(|| Refused::State(format!("{} has no step `{step}`", state.id)))?;
    if state.step(ix).status == StepStatus::Pending {
        return Err(Refused::State(format!(
            "step `{step}` has not begun: what it needs is not there yet"
        )));
    }
    Ok(ix)
}

/// Going back to a step must not cross one whose effect outside has landed.
fn cross_no_effect(state: &RunState, first: StepIx) -> Result<(), Refused> {
    let landed = |ix: &StepIx| {
        let done = state.step(*ix).status == StepStatus::Succeeded;
        state.step(*ix).landed || (done && state.graph.has_effect(state.spec(*ix)))
    };
    match state.lineage(first).into_iter().find(landed) {
        Some(ix) => Err(Refused::State(format!(
            "`{}` would be done again, but what it did outside has landed and cannot be undone",
            state.name(ix)
        ))),
        None => Ok(()),
    }
}

/// A step that has failed is not tried again as a whole if some of its items have landed outside: those would be done
/// twice. It expired, say, when some were done.
fn nothing_landed(state: &RunState, only: Option<&StepName>) -> Result<(), Refused> {
    let failed = |ix: &StepIx| {
        let step = state.step(*ix);
        let named = only.is_none_or(|only| *only == state.name(*ix));
        step.status == StepStatus::Failed && step.landed && named
    };
    match state.frontier().find(failed) {
        Some(ix) => Err(Refused::State(format!(
            "`{name}` would be done again, but what some of its items did outside has landed; leave the rest out: \
             sealflow run skip {} {name}",
            state.id,
            name = state.name(ix)
        ))),
        None => Ok(()),
    }
}

/// The output that a person gives must be one that the stage could have given.
fn check_output(
    registry: &StageRegistry,
    state: &RunState,
    ix: StepIx,
    output: &Value,
) -> Result<(), Refused> {
    let refuse = |what: String| Err(Refused::Params(what));
    let Some(fields) = output.as_object() else {
        return refuse("an output is an object of fields and values".to_owned());
    };
    let name = state.name(ix);
    if state.spec(ix).foreach.is_some() && state.step(ix).item.is_none() {
        return refuse(format!(
            "`{name}` has items; override them one by one, as in {name}[0]"
        ));
    }
    if output.to_string().len() > crate::dispatcher::INLINE_LIMIT {
        return refuse(format!(
            "the output is larger than {} KiB",
            crate::dispatcher::INLINE_LIMIT >> 10
        ));
    }
    match &state.spec(ix).stage {
        Some(stage) => registry.fits(&stage.name, output).map_err(Refused::Params),
        None if fields.is_empty() => Ok(()),
        None => refuse(format!("`{name}` gives nothing")),
    }
}

/// The signals that a run's steps wait for, or may come to wait for.
fn awaited_signals(state: &RunState) -> BTreeSet<String> {
    let declared = state.graph.steps().filter_map(|(_, spec)| match &spec.wait {
        Some(WaitSpec::Signal(name)) => Some(name.clone()),
        _ => None,
    });
    let parked = state.frontier().filter_map(|ix| match &state.step(ix).wake {
        Some((Wake::Signal(name), _)) => Some(name.clone()),
        _ => None,
    });
    declared.chain(parked).collect()
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
            priority: start.priority,
            parent: None,
            members: Vec::new(),
            by: start.by,
        };
        let fork = start.fork.iter();
        let adopted = fork.flat_map(|fork| fork.outputs.iter().map(|one| (one, fork.from.clone())));
        let adopted = adopted.map(|((step, output, ran_on), from)| Event::StepAdopted {
            step: step.clone(),
            output: output.clone(),
            from,
            ran_on: ran_on.clone(),
        });
        let at = *self.at.get_or_insert(now.wall_ms);
        self.create(
            run.clone(),
            start.graph,
            event,
            adopted.collect(),
            start.source,
            at,
        );
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
        self.check_claim_within(subject, claim, None)
    }

    /// Whether a subject may be claimed for the work of a run: what that run and those that it does the
    /// work of claim is no conflict.
    pub(super) fn check_claim_within(
        &self,
        subject: &Subject,
        claim: Claim,
        within: Option<&RunId>,
    ) -> Result<(), Refused> {
        let Some(holders) = self.claims.get(subject) else {
            return Ok(());
        };
        let related = |holder: &RunId| within.is_some_and(|run| run == holder || self.is_within(run, holder));
        let conflict = holders
            .iter()
            .filter(|(holder, _)| !related(holder))
            .find(|(_, held)| match claim {
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
        // What does the work of its steps stops, goes on and hurries with it.
        if matches!(verb, Verb::Pause | Verb::Resume | Verb::Prioritize(_)) {
            for child in self.children(run) {
                if let Err(refused) = self.operate(&child, verb.clone(), by.clone(), now) {
                    tracing::debug!(run = %child, %refused, "not so");
                }
            }
        }
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
        let mut stop_only = None;
        match verb {
            Verb::Pause if status == RunStatus::Running => {
                events.push(Event::RunPaused {
                    reason: PauseReason::Operator(by),
                });
            }
            Verb::Pause => return wrong("only a running run can be paused"),
            Verb::Resume if status == RunStatus::Paused => {
                nothing_landed(state, None)?;
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
                    && state.find(step).is_none()
                {
                    return wrong(&format!("it has no step `{step}`"));
                }
                nothing_landed(state, step.as_ref())?;
                events.extend(retries(state, step.as_ref(), &by, false));
                let succeeded = step.as_ref().and_then(|step| state.find(step));
                redo = succeeded.filter(|ix| state.step(*ix).is_through());
                if let (Some(ix), Some(step)) = (redo, step) {
                    cross_no_effect(state, ix)?;
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
            Verb::Signal(name, data) => {
                let awaited = awaited_signals(state);
                if !awaited.contains(&name) {
                    let known = awaited.into_iter().collect::<Vec<_>>().join(", ");
                    let what = if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known
                    };
                    return wrong(&format!("it waits for no signal `{name}`; signals of it: {what}"));
                }
                events.push(Event::SignalReceived { name, data, by });
            }
            Verb::Migrate(migration) => return self.migrate(run, *migration, by),
            Verb::Prioritize(priority) => events.push(Event::RunPrioritized { priority, by }),
            Verb::Approve(step) => {
                let waits = |ix: &StepIx| matches!(state.step(*ix).wake, Some((Wake::Approval(_), _)));
                if state.find(&step).filter(waits).is_none() {
                    let waiting = state
                        .frontier()
                        .filter(waits)
                        .map(|ix| state.name(ix).to_string());
                    let waiting = waiting.collect::<Vec<_>>().join(", ");
                    let what = if waiting.is_empty() {
                        "none does".to_owned()
                    } else {
                        format!("these do: {waiting}")
                    };
                    return wrong(&format!("step `{step}` does not wait for an approval; {what}"));
                }
                events.push(Event::StepApproved { step, by });
            }
            Verb::Rewind(step) | Verb::Skip(step) | Verb::Override(step, _)
                if status == RunStatus::Cancelling =>
            {
                return wrong(&format!("it is being cancelled, and `{step}` with it"));
            }
            Verb::Rewind(step) => {
                let ix = begun(state, &step)?;
                cross_no_effect(state, ix)?;
                redo = Some(ix);
                events.push(Event::StepRedone { step, by: by.clone() });
                if status == RunStatus::Paused {
                    events.push(Event::RunResumed { by });
                }
            }
            Verb::Skip(step) => {
                let ix = state.find(&step);
                let ix = ix.ok_or_else(|| Refused::State(format!("{run} has no step `{step}`")))?;
                if state.step(ix).is_through() {
                    return wrong(&format!("step `{step}` is {}", state.step(ix).status.as_str()));
                }
                stop_only = Some(ix);
                events.push(Event::StepSkipped { step, by });
            }
            Verb::Override(step, output) => {
                let ix = begun(state, &step)?;
                cross_no_effect(state, ix)?;
                check_output(&self.registry, state, ix, &output)?;
                redo = Some(ix);
                let output = Output::Inline(output);
                events.push(Event::StepOverridden { step, output, by });
            }
        }
        if let Some(ix) = stop_only {
            self.stop_one(run, ix);
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
