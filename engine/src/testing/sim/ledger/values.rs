//! What expressions come to, from the outputs that the log says count.

use super::*;
use crate::expression::Expression;
use crate::workflow::Source;

/// The value of an output; pretended payload files hold themselves in their hash.
pub(in super::super) fn value_of(output: &Output) -> Value {
    match output {
        Output::Inline(value) => value.clone(),
        Output::Payload { sha256, .. } => serde_json::from_str(sha256).unwrap(),
    }
}

impl Ledger {
    /// A field of what a step gave; of a step with items one for each.
    pub(in super::super) fn field(&self, ix: StepIx, field: &str) -> Value {
        let of = |place: &Place| match &place.done {
            Some((_, output)) => value_of(output).get(field).cloned().unwrap_or_default(),
            None => Value::Null,
        };
        match self.steps[ix.get()].listed {
            Some(_) => self.items(ix).iter().map(of).collect(),
            None => of(&self.steps[ix.get()]),
        }
    }

    fn root(&self, root: &str) -> Value {
        if root == "params" {
            return self.params.clone();
        }
        let ix = self.graph.find(&StepName::new(root).unwrap()).unwrap();
        let fields = |place: &Place| match &place.done {
            Some((_, output)) => value_of(output).as_object().cloned().unwrap_or_default(),
            None => serde_json::Map::new(),
        };
        let Some(_) = self.steps[ix.get()].listed else {
            return Value::Object(fields(&self.steps[ix.get()]));
        };
        let names: BTreeSet<String> = self
            .items(ix)
            .iter()
            .flat_map(fields)
            .map(|(name, _)| name)
            .collect();
        names
            .into_iter()
            .map(|name| (name.clone(), self.field(ix, &name)))
            .collect()
    }

    fn evaluate(&self, expression: &Expression) -> Result<Value, String> {
        expression.evaluate(|root| self.root(root))
    }

    /// A step that was skipped although this one cannot do without it.
    pub(super) fn lacks(&self, ix: StepIx) -> Option<StepIx> {
        let inputs = self.graph.step(ix).inputs.values();
        let needed = inputs.filter_map(|source| match source {
            Source::Output {
                step,
                optional: false,
                ..
            } => Some(*step),
            _ => None,
        });
        needed.into_iter().find(|need| self.steps[need.get()].skipped)
    }

    /// Whether the step is to be left out.
    fn is_left_out(&self, ix: StepIx) -> Result<bool, String> {
        if self.lacks(ix).is_some() {
            return Ok(true);
        }
        match &self.graph.step(ix).when {
            None => Ok(false),
            Some(when) => match self.evaluate(when)? {
                Value::Bool(holds) => Ok(!holds),
                other => Err(format!("{when} gives {other}")),
            },
        }
    }

    fn list(&self, ix: StepIx) -> Result<Vec<Value>, String> {
        let foreach = self.graph.step(ix).foreach.as_ref().ok_or("it has no items")?;
        match self.evaluate(&foreach.list)? {
            Value::Array(list) => Ok(list),
            Value::Null => Ok(Vec::new()),
            other => Err(format!("{} gives {other}", foreach.list)),
        }
    }

    /// What an item is about.
    pub(in super::super) fn item_value(&self, ix: StepIx, item: u32) -> Result<Value, String> {
        let list = self.list(ix)?;
        list.get(item as usize).cloned().ok_or("no such item".to_owned())
    }

    fn until(&self, ix: StepIx) -> Result<Option<u64>, String> {
        let Some(time) = &self.graph.step(ix).valid_until else {
            return Ok(None);
        };
        let value = self.evaluate(time)?;
        value
            .as_u64()
            .map(Some)
            .ok_or_else(|| format!("{time} gives {value}"))
    }

    /// Whether an expression of a step cannot be worked out.
    pub(super) fn puzzles(&self, ix: StepIx) -> bool {
        match self.is_left_out(ix) {
            Err(_) => true,
            Ok(true) => false,
            Ok(false) => {
                self.until(ix).is_err() || (self.graph.step(ix).foreach.is_some() && self.list(ix).is_err())
            }
        }
    }

    pub(super) fn judged(
        &mut self,
        step: &StepName,
        skip: Option<&str>,
        valid_until: Option<u64>,
    ) -> Result<(), String> {
        let at = self.find(step)?;
        let (ix, _) = at;
        self.is_running("it is judged")?;
        let left_out = self.is_left_out(ix)?;
        demand!(skip.is_some() == left_out, "to be left out: {left_out}");
        let place = &self.steps[ix.get()];
        demand!(
            at.1.is_none() && !place.judged && place.status() == "open",
            "judged too late"
        );
        let needs = &self.graph.step(ix).needs;
        demand!(
            needs.iter().all(|need| self.steps[need.get()].is_through()),
            "judged too early"
        );
        if left_out {
            self.stats.count(if self.lacks(ix).is_some() {
                "cannot do without"
            } else {
                "condition fails"
            });
            self.leave_out(at);
        } else {
            let until = self.until(ix)?;
            demand!(until == valid_until, "it is worth something until {until:?}");
            let spec = self.graph.step(ix);
            if spec.when.is_some() {
                self.stats.count("condition holds");
            }
        }
        let place = &mut self.steps[ix.get()];
        place.judged = true;
        place.valid_until = valid_until;
        Ok(())
    }

    pub(super) fn listed(&mut self, step: &StepName, count: u32) -> Result<(), String> {
        let at = self.find(step)?;
        let ix = at.0;
        self.is_running("its items are listed")?;
        self.may_begin(at)?;
        demand!(
            self.steps[ix.get()].listed.is_none() && at.1.is_none(),
            "listed twice"
        );
        let list = self.list(ix)?;
        demand!(list.len() == count as usize, "the list has {} items", list.len());
        let items = &mut self.items[ix.get()];
        if items.len() < list.len() {
            items.resize(list.len(), Place::new());
        }
        self.steps[ix.get()].listed = Some(count);
        self.stats.count("items listed");
        if count == 0 {
            self.stats.count("no items");
            let step = &mut self.steps[ix.get()];
            step.visit = step.visit.max(step.least_visit);
            step.done = Some((step.visit, Output::Inline(json!({}))));
        }
        Ok(())
    }

    /// Whether everything stands as its conditions, as they are now, say it should: what was given by
    /// hand aside, nothing rests on what does not count any more.
    pub(in super::super) fn is_coherent(&self) -> Result<(), String> {
        for (ix, spec) in self.graph.steps() {
            let place = &self.steps[ix.get()];
            if place.by_person {
                continue;
            }
            let name = &spec.name;
            let left_out = self.is_left_out(ix).map_err(|why| format!("{name}: {why}"))?;
            demand!(
                place.skipped == left_out,
                "{name} is skipped: {}, but should be: {left_out}",
                place.skipped
            );
            if let Some(listed) = place.listed {
                let wanted = self.list(ix)?.len();
                demand!(
                    listed as usize == wanted,
                    "{name} has {listed} items instead of {wanted}"
                );
            }
        }
        Ok(())
    }
}
