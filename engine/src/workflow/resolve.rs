//! Checks a file against the stages and against itself, and resolves names into a graph.

mod children;
mod expressions;

pub(super) use children::Children;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use super::diagnostic::{Diagnostic, did_you_mean};
use super::file::{ParamDecl, Policies, WaitDecl, Wire, WorkflowFile};
use super::graph::{
    Graph, GraphData, ParamSpec, Retry, RewindEdge, Source, StageRef, StepIx, StepSpec, Timeouts, WaitSpec,
};
use super::reader::Sp;
use crate::id::{NameError, StepName, WorkflowName};
use crate::schema::{Field, assignable};
use crate::stage::{Claim, StageInfo, StageRegistry};

/// The most steps that a file may declare.
pub const MAX_STEPS: usize = 2000;

struct Resolver<'a> {
    file: &'a WorkflowFile,
    registry: &'a StageRegistry,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// Place of each declared step in `file.steps`.
    places: BTreeMap<&'a str, usize>,
    /// For each place the places of the steps that come before it.
    ancestors: Vec<BTreeSet<usize>>,
    /// Places of steps whose stage or needs could not be found: what they give and get is not known.
    unsure: BTreeSet<usize>,
}

pub(super) fn resolve(
    file: &WorkflowFile,
    registry: &StageRegistry,
    children: &Children<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Graph> {
    let places = file
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| (step.name.value.as_str(), at))
        .collect();
    Resolver {
        file,
        registry,
        diagnostics,
        places,
        ancestors: Vec::new(),
        unsure: BTreeSet::new(),
    }
    .run(children)
}

impl<'a> Resolver<'a> {
    fn error(&mut self, code: &'static str, span: &Range<usize>, message: String, hint: Option<String>) {
        let mut diagnostic = Diagnostic::error(code, span.clone(), message);
        diagnostic.hint = hint;
        self.diagnostics.push(diagnostic);
    }

    fn name<T>(&mut self, name: &Sp<String>, parse: impl Fn(&str) -> Result<T, NameError>) -> Option<T> {
        match parse(&name.value) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.error("bad_name", &name.span, error.to_string(), None);
                None
            }
        }
    }

    fn run(mut self, library: &Children<'_>) -> Option<Graph> {
        let file = self.file;
        let name = file
            .name
            .as_ref()
            .and_then(|name| self.name(name, WorkflowName::new));
        let head = file.name.as_ref().map_or(0..0, |name| name.span.clone());
        if file.steps.is_empty() {
            let hint = Some("add a table for each step, for example [steps.add_pieces]".to_owned());
            self.error("no_steps", &head, "the workflow has no steps".to_owned(), hint);
        }
        if file.steps.len() > MAX_STEPS {
            let message = format!("{} steps; a workflow has at most {MAX_STEPS}", file.steps.len());
            self.error("too_many_steps", &head, message, None);
            return None;
        }
        let params = self.params();
        self.subject();
        let (children, parts) = self.children(library);
        let stages: Vec<Option<&StageInfo>> = (0..file.steps.len())
            .map(|place| match &file.steps[place].workflow {
                Some(_) => children[place].as_ref().map(|child| &child.info),
                None => self.stage(place),
            })
            .collect();
        let order = self.order()?;
        // `order[i]` is the place in the file of the i-th step; `rank` is the way back.
        let mut rank = vec![0; order.len()];
        for (at, place) in order.iter().enumerate() {
            rank[*place] = at;
        }
        let ix = |place: usize| StepIx(u32::try_from(rank[place]).unwrap_or(u32::MAX));
        self.ancestors = self.all_ancestors(&order);
        let mut steps = Vec::with_capacity(order.len());
        for place in &order {
            let decl = &file.steps[*place];
            let stage = stages[*place];
            let mut needs: Vec<StepIx> = self.needs(*place).into_iter().map(&ix).collect();
            needs.sort();
            needs.dedup();
            let expressions = self.expressions(*place, &stages);
            let inputs = self.inputs(*place, expressions.item.as_deref(), &stages, &ix);
            let Some(name) = self.name(&decl.name, StepName::new) else {
                continue;
            };
            if name.split().1.is_some() {
                let message = format!("`{name}` is the name of an item; a step has no number");
                self.error("bad_name", &decl.name.span, message, None);
                continue;
            }
            steps.push(StepSpec {
                name,
                stage: stage.filter(|_| decl.workflow.is_none()).map(stage_ref),
                workflow: children[*place].as_ref().map(|child| child.part),
                batch: self.batch(*place, stage),
                on_failure: decl
                    .on_failure
                    .iter()
                    .filter_map(|of| self.places.get(of.value.as_str()))
                    .map(|at| ix(*at))
                    .collect(),
                finally: decl.finally,
                needs,
                inputs,
                retry: retry(&file.defaults, &decl.policies),
                timeout: timeouts(&file.defaults, &decl.policies),
                wait: decl.wait.as_ref().map(|wait| match &wait.value {
                    WaitDecl::For(duration) => WaitSpec::For(millis(*duration)),
                    WaitDecl::Signal(name) => WaitSpec::Signal(name.clone()),
                    WaitDecl::Approval(text) => WaitSpec::Approval(text.clone()),
                }),
                when: expressions.when,
                foreach: expressions.foreach,
                valid_until: expressions.valid_until,
            });
        }
        let rewinds = self.rewinds(&stages, &ix);
        let outputs = self.outputs(&stages, &ix);
        let triggers = self.triggers(&params);
        // A step that could not be resolved may take any of them.
        if self.unsure.is_empty() && steps.len() == order.len() {
            self.unused_params(&steps);
        }
        if steps.len() != order.len() {
            return None;
        }
        let claim = stages
            .iter()
            .flatten()
            .map(|stage| stage.claim)
            .max()
            .unwrap_or(Claim::None);
        let data = GraphData {
            name: name?,
            description: file.description.clone(),
            subject: file.subject.as_ref()?.value.clone(),
            claim,
            priority: file.priority,
            params,
            steps,
            rewinds,
            children: parts,
            outputs,
            triggers,
        };
        match Graph::new(data) {
            Ok(graph) => Some(graph),
            Err(message) => {
                self.error("internal", &head, message, None);
                None
            }
        }
    }

    fn params(&mut self) -> Vec<ParamSpec> {
        let mut params = Vec::new();
        for decl in &self.file.params {
            let ParamDecl {
                name,
                ty,
                default,
                doc,
            } = decl;
            if StepName::new(&name.value).is_err() {
                let message = format!("`{}` is not a parameter name", name.value);
                self.error(
                    "bad_name",
                    &name.span,
                    message,
                    Some("use lower-case letters, digits and _".into()),
                );
            }
            let registry = self.registry;
            let Some(known) = registry.param_type(&ty.value) else {
                let names = registry.param_types().map(|ty| ty.name.as_str());
                let hint = did_you_mean(&ty.value, names.clone())
                    .unwrap_or_else(|| format!("types: {}", names.collect::<Vec<_>>().join(", ")));
                self.error(
                    "unknown_type",
                    &ty.span,
                    format!("there is no type `{}`", ty.value),
                    Some(hint),
                );
                continue;
            };
            let default = match default {
                None => None,
                Some(default) => match known.normalise(default.value.clone()) {
                    Ok(value) => Some(value),
                    Err(why) => {
                        let message = format!("the default of `{}` is not a {}: {why}", name.value, ty.value);
                        self.error("wrong_type", &default.span, message, None);
                        None
                    }
                },
            };
            params.push(ParamSpec {
                name: name.value.clone(),
                ty: ty.value.clone(),
                default,
                doc: doc.clone(),
            });
        }
        params
    }

    /// The subject's kind must be known, and the parameters that name the subject declared.
    fn subject(&mut self) {
        let registry = self.registry;
        let Some(subject) = &self.file.subject else { return };
        let Some(kind) = registry.subject_kind(&subject.value) else {
            let names = registry.subject_kinds().map(|kind| kind.name);
            let hint = did_you_mean(&subject.value, names.clone())
                .unwrap_or_else(|| format!("subjects: {}", names.collect::<Vec<_>>().join(", ")));
            self.error(
                "unknown_subject",
                &subject.span,
                format!("there is no subject `{}`", subject.value),
                Some(hint),
            );
            return;
        };
        for (name, ty) in kind.params {
            match self.file.params.iter().find(|param| param.name.value == *name) {
                // An unknown type has its complaint.
                Some(param) if param.ty.value == *ty || registry.param_type(&param.ty.value).is_none() => {}
                Some(param) => {
                    let message = format!("a {} is named by its `{name}`, which is a {ty}", kind.name);
                    self.error("wrong_type", &param.ty.span, message, None);
                }
                None => {
                    let message = format!("a {} is named by its `{name}`", kind.name);
                    let hint = Some(format!("add {name} = \"{ty}\" under [params]"));
                    self.error("missing_param", &subject.span, message, hint);
                }
            }
        }
    }

    fn stage(&mut self, place: usize) -> Option<&'a StageInfo> {
        let step = &self.file.steps[place];
        let (name, span) = match &step.stage {
            Some(stage) => (&stage.value, &stage.span),
            None => (&step.name.value, &step.name.span),
        };
        let registry = self.registry;
        let info = registry.info(name);
        // A step with a wait and no stage of its name only waits.
        if info.is_none() && !(step.wait.is_some() && step.stage.is_none()) {
            self.unsure.insert(place);
            let hint =
                did_you_mean(name, registry.iter().map(|info| info.name.as_str())).unwrap_or_else(|| {
                    "`sealflow stage list` names them; a step of another name needs `stage = \"…\"`"
                        .to_owned()
                });
            self.error(
                "unknown_stage",
                span,
                format!("there is no stage `{name}`"),
                Some(hint),
            );
        }
        info
    }

    /// The places of the steps in an order where needs come first; nothing when there is a cycle.
    fn order(&mut self) -> Option<Vec<usize>> {
        let mut graph = DiGraph::<usize, ()>::new();
        for at in 0..self.file.steps.len() {
            graph.add_node(at);
        }
        for (at, step) in self.file.steps.iter().enumerate() {
            if step.finally {
                for (before, _) in self
                    .file
                    .steps
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| !other.finally)
                {
                    graph.update_edge(NodeIndex::new(before), NodeIndex::new(at), ());
                }
            }
            for need in step.needs.iter().chain(&step.on_failure) {
                let end = |name: &str| {
                    self.places
                        .get(name)
                        .is_some_and(|at| self.file.steps[*at].finally)
                };
                if !step.finally && end(&need.value) {
                    let message = format!("`{}` comes at the end of the run, after all steps", need.value);
                    self.error("needs_finally", &need.span, message, None);
                    continue;
                }
                match self.places.get(need.value.as_str()) {
                    Some(needed) => {
                        graph.update_edge(NodeIndex::new(*needed), NodeIndex::new(at), ());
                    }
                    None => {
                        self.unsure.insert(at);
                        let hint = did_you_mean(&need.value, self.places.keys().copied());
                        let message = format!(
                            "step `{}` needs `{}`, which is not a step",
                            step.name.value, need.value
                        );
                        self.error("unknown_step", &need.span, message, hint);
                    }
                }
            }
        }
        if let Ok(order) = toposort(&graph, None) {
            // Among equals the order of the file is the most readable one.
            return Some(stable_order(&graph, order));
        }
        for component in tarjan_scc(&graph) {
            let is_cycle = component.len() > 1
                || component
                    .iter()
                    .any(|node| graph.find_edge(*node, *node).is_some());
            if !is_cycle {
                continue;
            }
            let path = cycle_path(&graph, &component);
            let names: Vec<&str> = path
                .iter()
                .map(|at| self.file.steps[*at].name.value.as_str())
                .collect();
            let last = &self.file.steps[path[0]];
            let span = last
                .needs
                .iter()
                .find(|need| names.contains(&need.value.as_str()))
                .map_or(last.name.span.clone(), |need| need.span.clone());
            let message = format!(
                "these steps need each other in a circle: {} → {}",
                names.join(" → "),
                names[0]
            );
            self.error(
                "cycle",
                &span,
                message,
                Some("take one of these needs away".to_owned()),
            );
        }
        None
    }

    /// The places of the steps that a step needs: those that it names, and before a step of the end all
    /// others.
    fn needs(&self, place: usize) -> Vec<usize> {
        let step = &self.file.steps[place];
        let named = step.needs.iter().chain(&step.on_failure);
        let mut needs: Vec<usize> = named
            .filter_map(|need| self.places.get(need.value.as_str()).copied())
            .collect();
        if step.finally {
            let others = self.file.steps.iter().enumerate();
            needs.extend(others.filter(|(_, other)| !other.finally).map(|(at, _)| at));
        }
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    fn all_ancestors(&self, order: &[usize]) -> Vec<BTreeSet<usize>> {
        let mut sets = vec![BTreeSet::new(); order.len()];
        for place in order {
            let mut set = BTreeSet::new();
            for at in self.needs(*place) {
                set.insert(at);
                set.extend(sets[at].iter().copied());
            }
            sets[*place] = set;
        }
        sets
    }

    fn inputs(
        &mut self,
        place: usize,
        item: Option<&str>,
        stages: &[Option<&StageInfo>],
        ix: &dyn Fn(usize) -> StepIx,
    ) -> BTreeMap<String, Source> {
        let step = &self.file.steps[place];
        let mut inputs = BTreeMap::new();
        let Some(stage) = stages[place] else {
            if let Some((field, _)) = step.with.first() {
                let message = format!("step `{}` has no stage that could take inputs", step.name.value);
                self.error("unknown_field", &field.span, message, None);
            }
            return inputs;
        };
        for (name, wire) in &step.with {
            let Some(field) = stage.inputs.iter().find(|field| field.name == name.value) else {
                let known = stage.inputs.iter().map(|field| field.name.as_str());
                let hint = did_you_mean(&name.value, known.clone())
                    .unwrap_or_else(|| format!("its inputs: {}", known.collect::<Vec<_>>().join(", ")));
                let message = format!("stage `{}` has no input `{}`", stage.name, name.value);
                self.error("unknown_field", &name.span, message, Some(hint));
                continue;
            };
            if let Some(source) = self.wire(place, field, wire, item, stages, ix) {
                inputs.insert(name.value.clone(), source);
            }
        }
        for field in &stage.inputs {
            if step.with.iter().any(|(name, _)| name.value == field.name) {
                continue;
            }
            if let Some(source) = self.by_name(place, field, stages, ix) {
                inputs.insert(field.name.clone(), source);
            }
        }
        inputs
    }

    /// Fills a field by its own name: from the nearest needed step, a parameter, or the subject.
    fn by_name(
        &mut self,
        place: usize,
        field: &Field,
        stages: &[Option<&StageInfo>],
        ix: &dyn Fn(usize) -> StepIx,
    ) -> Option<Source> {
        let step = &self.file.steps[place];
        let gives = |at: usize| {
            let outputs = self.gives(at, stages);
            outputs.into_iter().find(|out| out.name == field.name)
        };
        let givers: Vec<usize> = self.ancestors[place]
            .iter()
            .copied()
            .filter(|at| gives(*at).is_some())
            .collect();
        // The nearest one is the one that no other giver comes after.
        let nearest: Vec<usize> = givers
            .iter()
            .copied()
            .filter(|at| !givers.iter().any(|other| self.ancestors[*other].contains(at)))
            .collect();
        match nearest.as_slice() {
            [at] => {
                let ty = gives(*at).map(|out| out.ty).unwrap_or_default();
                let from = format!("{}.{}", self.file.steps[*at].name.value, field.name);
                self.check_type(field, &ty, &from, &step.name.span);
                return Some(Source::Output {
                    step: ix(*at),
                    field: field.name.clone(),
                    optional: !field.required,
                });
            }
            [] => {}
            several => {
                let names: Vec<&str> = several
                    .iter()
                    .map(|at| self.file.steps[*at].name.value.as_str())
                    .collect();
                let message = format!(
                    "input `{}` of step `{}` could come from {}",
                    field.name,
                    step.name.value,
                    names.join(" or ")
                );
                let hint = format!(
                    "choose one: with = {{ {} = \"{}.{}\" }}",
                    field.name, names[0], field.name
                );
                self.error("ambiguous_input", &step.name.span, message, Some(hint));
                return None;
            }
        }
        if let Some(param) = self
            .file
            .params
            .iter()
            .find(|param| param.name.value == field.name)
        {
            let from = format!("params.{}", field.name);
            self.check_type(field, &param.ty.value, &from, &step.name.span);
            return Some(Source::Param(field.name.clone()));
        }
        if field.ty.trim_end_matches('?') == "artifact" {
            return Some(Source::Subject {
                kind: field.name.clone(),
                optional: !field.required,
            });
        }
        // What is unknown before it may be what gives it; one complaint is enough.
        let unsure = self.unsure.contains(&place) || !self.unsure.is_disjoint(&self.ancestors[place]);
        if field.required && !unsure {
            let elsewhere = self
                .file
                .steps
                .iter()
                .enumerate()
                .find(|(at, _)| *at != place && gives(*at).is_some());
            let hint = match elsewhere {
                Some((_, other)) => format!("step `{}` gives it: add it to `needs`", other.name.value),
                None => format!(
                    "add a parameter: {} = \"{}\" under [params], or wire it: with = {{ {} = \"step.field\" }}",
                    field.name, field.ty, field.name
                ),
            };
            let message = format!(
                "nothing gives step `{}` its input `{}` ({})",
                step.name.value, field.name, field.ty
            );
            self.error("unfilled_input", &step.name.span, message, Some(hint));
        }
        None
    }

    fn check_type(&mut self, field: &Field, given: &str, from: &str, span: &Range<usize>) {
        let unknown = from.starts_with("params.") && self.registry.param_type(given).is_none();
        if !unknown && !assignable(given, &field.ty) {
            let message = format!(
                "input `{}` is a {}, but `{from}` is a {given}",
                field.name, field.ty
            );
            self.error("wrong_type", span, message, None);
        }
    }

    fn wire(
        &mut self,
        place: usize,
        field: &Field,
        wire: &Sp<Wire>,
        item: Option<&str>,
        stages: &[Option<&StageInfo>],
        ix: &dyn Fn(usize) -> StepIx,
    ) -> Option<Source> {
        let text = match &wire.value {
            Wire::Literal(value) => {
                if let Some(ty) = self.registry.param_type(field.ty.trim_end_matches('?'))
                    && let Err(why) = ty.normalise(value.clone())
                {
                    let message = format!("input `{}` is a {}: {why}", field.name, field.ty);
                    self.error("wrong_type", &wire.span, message, None);
                }
                return Some(Source::Literal(value.clone()));
            }
            Wire::Reference(text) => text,
        };
        if let Some(source) = self.item(field, text, &wire.span, item) {
            return source;
        }
        let literal_hint = || {
            format!(
                "write \"step.field\" or \"params.name\"; for the text itself {} = {{ value = \"{text}\" }}",
                field.name
            )
        };
        let Some((step, name)) = text.split_once('.') else {
            let message = format!("`{text}` does not say where `{}` comes from", field.name);
            self.error("bad_reference", &wire.span, message, Some(literal_hint()));
            return None;
        };
        if step == "params" {
            let Some(param) = self.file.params.iter().find(|param| param.name.value == name) else {
                let hint = did_you_mean(
                    name,
                    self.file.params.iter().map(|param| param.name.value.as_str()),
                );
                self.error(
                    "unknown_param",
                    &wire.span,
                    format!("there is no parameter `{name}`"),
                    hint,
                );
                return None;
            };
            self.check_type(field, &param.ty.value, text, &wire.span);
            return Some(Source::Param(name.to_owned()));
        }
        let Some(at) = self.places.get(step).copied() else {
            let hint = did_you_mean(step, self.places.keys().copied()).unwrap_or_else(literal_hint);
            self.error(
                "unknown_step",
                &wire.span,
                format!("there is no step `{step}`"),
                Some(hint),
            );
            return None;
        };
        if !self.ancestors[place].contains(&at) {
            let message = format!("step `{step}` need not have ended when this step starts");
            self.error(
                "not_needed",
                &wire.span,
                message,
                Some(format!("add \"{step}\" to `needs`")),
            );
            return None;
        }
        let outputs = self.gives(at, stages);
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            let known = outputs.iter().map(|output| output.name.as_str());
            let hint = did_you_mean(name, known.clone())
                .unwrap_or_else(|| format!("its outputs: {}", known.collect::<Vec<_>>().join(", ")));
            self.error(
                "unknown_field",
                &wire.span,
                format!("step `{step}` has no output `{name}`"),
                Some(hint),
            );
            return None;
        };
        self.check_type(field, &output.ty, text, &wire.span);
        Some(Source::Output {
            step: ix(at),
            field: name.to_owned(),
            optional: !field.required,
        })
    }

    /// A reference to the item of a step with `foreach`, or to a field of it; nothing if it is none.
    fn item(
        &mut self,
        field: &Field,
        text: &str,
        span: &Range<usize>,
        item: Option<&str>,
    ) -> Option<Option<Source>> {
        let part = match text.split_once('.') {
            Some(("item", part)) => Some(part.to_owned()),
            None if text == "item" => None,
            _ => return None,
        };
        let Some(ty) = item else {
            let message = "only a step with `foreach` has an item".to_owned();
            self.error(
                "bad_reference",
                span,
                message,
                Some("add foreach = \"step.list\"".to_owned()),
            );
            return Some(None);
        };
        if part.is_none() && ty != "any" {
            self.check_type(field, ty, "item", span);
        }
        Some(Some(Source::Item { field: part }))
    }

    fn rewinds(&mut self, stages: &[Option<&StageInfo>], ix: &dyn Fn(usize) -> StepIx) -> Vec<RewindEdge> {
        let mut edges = Vec::new();
        let mut seen = BTreeSet::new();
        for decl in &self.file.rewinds {
            let mut place = |name: &Sp<String>| {
                let found = self.places.get(name.value.as_str()).copied();
                if found.is_none() {
                    let hint = did_you_mean(&name.value, self.places.keys().copied());
                    let message = format!("there is no step `{}`", name.value);
                    let mut diagnostic = Diagnostic::error("unknown_step", name.span.clone(), message);
                    diagnostic.hint = hint;
                    self.diagnostics.push(diagnostic);
                }
                found
            };
            let (Some(from), Some(to)) = (place(&decl.from), place(&decl.to)) else {
                continue;
            };
            if from != to && !self.ancestors[from].contains(&to) {
                let message = format!("`{}` does not come before `{}`", decl.to.value, decl.from.value);
                let hint = Some("a rewind goes back to a step that the failing step needs".to_owned());
                self.error("rewind_forward", &decl.to.span, message, hint);
                continue;
            }
            let lands = |place: &usize| {
                let effect = |stage: &StageInfo| stage.effect;
                stages[*place].is_some_and(effect) && (*place == to || self.ancestors[*place].contains(&to))
            };
            let mut crossed = self.ancestors[from].iter().copied().find(lands);
            // Other items of the step that fails may have landed.
            if self.file.steps[from].foreach.is_some() && lands(&from) {
                crossed = Some(from);
            }
            if let Some(place) = crossed {
                let message = format!(
                    "going back to `{}` crosses `{}`, whose effect outside cannot be undone",
                    decl.to.value, self.file.steps[place].name.value
                );
                let hint = Some("go back to a step that comes after it".to_owned());
                self.error("rewind_across_effect", &decl.to.span, message, hint);
                continue;
            }
            if !seen.insert((decl.on.value.clone(), from)) {
                let message = format!(
                    "`{}` of `{}` has a rewind edge already",
                    decl.on.value, decl.from.value
                );
                self.error("duplicate_rewind", &decl.span, message, None);
                continue;
            }
            edges.push(RewindEdge {
                on: decl.on.value.clone(),
                from: ix(from),
                to: ix(to),
                max: decl.max,
            });
        }
        edges
    }

    fn unused_params(&mut self, steps: &[StepSpec]) {
        let kind = self
            .file
            .subject
            .as_ref()
            .and_then(|subject| self.registry.subject_kind(&subject.value));
        for param in &self.file.params {
            let names_subject =
                kind.is_some_and(|kind| kind.params.iter().any(|(name, _)| *name == param.name.value));
            let name = param.name.value.as_str();
            let takes = |source: &Source| matches!(source, Source::Param(taken) if taken == name);
            let used = steps.iter().any(|step| {
                let list = step.foreach.as_ref().map(|foreach| &foreach.list);
                let mut expressions = step.when.iter().chain(&step.valid_until).chain(list);
                let keys = step
                    .batch
                    .as_ref()
                    .is_some_and(|batch| batch.key.as_deref() == Some(name));
                keys || step.inputs.values().any(takes) || expressions.any(|one| one.mentions("params", name))
            });
            if !used && !names_subject {
                let message = format!("no step takes the parameter `{}`", param.name.value);
                self.diagnostics.push(Diagnostic::warning(
                    "unused_param",
                    param.name.span.clone(),
                    message,
                ));
            }
        }
    }
}

fn stage_ref(info: &StageInfo) -> StageRef {
    let artifacts = info
        .outputs
        .iter()
        .filter(|field| field.ty.trim_end_matches('?') == "artifact");
    StageRef {
        name: info.name.clone(),
        version: info.version,
        artifacts: artifacts.map(|field| field.name.clone()).collect(),
        effect: info.effect,
        many: false,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn retry(defaults: &Policies, own: &Policies) -> Retry {
    let pick = |a: &Option<Sp<std::time::Duration>>, b: &Option<Sp<std::time::Duration>>| {
        a.as_ref().or(b.as_ref()).map(|duration| millis(duration.value))
    };
    let (own, defaults) = (&own.retry, &defaults.retry);
    let basic = Retry::default();
    let attempts = own.max_attempts.as_ref().or(defaults.max_attempts.as_ref());
    let on = own.on.as_ref().or(defaults.on.as_ref());
    Retry {
        max_attempts: attempts.map_or(basic.max_attempts, |count| count.value),
        backoff_ms: pick(&own.backoff, &defaults.backoff).unwrap_or(basic.backoff_ms),
        max_backoff_ms: pick(&own.max_backoff, &defaults.max_backoff).unwrap_or(basic.max_backoff_ms),
        on: on.map_or(basic.on, |classes| {
            classes.iter().map(|class| class.value).collect()
        }),
    }
}

fn timeouts(defaults: &Policies, own: &Policies) -> Timeouts {
    let pick = |a: &Option<Sp<std::time::Duration>>, b: &Option<Sp<std::time::Duration>>| {
        a.as_ref().or(b.as_ref()).map(|duration| millis(duration.value))
    };
    Timeouts {
        run_ms: pick(&own.timeout.run, &defaults.timeout.run),
        silence_ms: pick(&own.timeout.silence, &defaults.timeout.silence),
        lost_ms: pick(&own.timeout.lost, &defaults.timeout.lost),
        on_lost: own.timeout.on_lost.or(defaults.timeout.on_lost),
    }
}

/// A topological order in which, among steps that could come next, the one declared first does.
fn stable_order(graph: &DiGraph<usize, ()>, order: Vec<NodeIndex>) -> Vec<usize> {
    let mut unmet: Vec<usize> = vec![0; order.len()];
    for node in &order {
        unmet[node.index()] = graph.neighbors_directed(*node, petgraph::Incoming).count();
    }
    let mut ready: BTreeSet<usize> = (0..order.len()).filter(|at| unmet[*at] == 0).collect();
    let mut stable = Vec::with_capacity(order.len());
    while let Some(at) = ready.pop_first() {
        stable.push(at);
        for next in graph.neighbors(NodeIndex::new(at)) {
            unmet[next.index()] -= 1;
            if unmet[next.index()] == 0 {
                ready.insert(next.index());
            }
        }
    }
    stable
}

/// One circle through a strongly connected component, each step followed by one that it needs.
fn cycle_path(graph: &DiGraph<usize, ()>, component: &[NodeIndex]) -> Vec<usize> {
    let inside: BTreeSet<usize> = component.iter().map(|node| node.index()).collect();
    let mut path: Vec<usize> = Vec::new();
    let mut at = *inside.first().unwrap_or(&0);
    loop {
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            return path.split_off(start);
        }
        path.push(at);
        let next = graph
            .neighbors_directed(NodeIndex::new(at), petgraph::Incoming)
            .map(NodeIndex::index)
            .find(|next| inside.contains(next));
        match next {
            Some(next) => at = next,
            None => return path,
        }
    }
}
