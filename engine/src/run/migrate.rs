//! Going on with another graph: steps keep what they did under the name that they have in both graphs.
//! Whether that is wise is judged before ([`crate::migrate`]); here it is only made sure that the state is one
//! that a run of the new graph can have.

use super::*;

impl RunState {
    pub(super) fn migrate(
        &mut self,
        hash: &Arc<str>,
        params: &Value,
        again: &[StepName],
        at: u64,
    ) -> Result<(), String> {
        if !matches!(self.status, RunStatus::Running | RunStatus::Paused) || !self.discarding.is_empty() {
            return Err(format!("it changes its graph while {}", self.status.as_str()));
        }
        let next = self.at_hand.iter().find(|graph| graph.hash() == hash).cloned();
        let next = next.ok_or_else(|| format!("the graph {hash} that it moves to is not at hand"))?;
        let taken = self.rewinds_taken();
        let names: Vec<StepName> = self.places().map(|place| self.name(place)).collect();
        let before = std::mem::replace(&mut self.graph, next);
        let graph = self.graph.clone();
        let mut old = std::mem::take(&mut self.steps);
        let gone = before
            .steps()
            .find(|(ix, spec)| graph.find(&spec.name).is_none() && old[ix.get()].current.is_some());
        if let Some((_, spec)) = gone {
            return Err(format!("step `{}` runs, and the new graph lacks it", spec.name));
        }
        self.steps = graph
            .steps()
            .map(|(_, spec)| match before.find(&spec.name) {
                Some(from) => {
                    std::mem::replace(&mut old[from.get()], StepState::new(StepStatus::Pending, 0, at))
                }
                None => {
                    let mut state = StepState::new(StepStatus::Pending, 0, at);
                    state.go_on_after(self.gone.remove(&spec.name));
                    state
                }
            })
            .collect();
        self.move_items(&mut old, at)?;
        // What moved left a state behind that has not begun.
        let begun = |state: &StepState| state.attempts > 0 || state.visit > 1;
        let left = names.into_iter().zip(&old).filter(|(_, state)| begun(state));
        self.gone
            .extend(left.map(|(name, state)| (name, (state.visit, state.attempts))));
        self.params = params.clone();
        self.rewinds = graph
            .data()
            .rewinds
            .iter()
            .map(|edge| {
                let way = (
                    edge.on.clone(),
                    graph.step(edge.from).name.clone(),
                    graph.step(edge.to).name.clone(),
                );
                taken.get(&way).copied().unwrap_or(0)
            })
            .collect();
        self.recount();
        for name in again {
            let first = graph
                .find(name)
                .ok_or_else(|| format!("there is no step `{name}`"))?;
            for ix in graph.with_descendants(first) {
                self.fresh(ix, at);
            }
        }
        self.settle_all(at)?;
        self.touched = self.places().collect();
        Ok(())
    }

    /// The places of all steps and items.
    fn places(&self) -> impl Iterator<Item = StepIx> + use<> {
        let count = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        (0..count).map(StepIx)
    }

    fn rewinds_taken(&self) -> BTreeMap<(String, StepName, StepName), u32> {
        let name = |ix: StepIx| self.graph.step(ix).name.clone();
        let edges = self.graph.data().rewinds.iter().zip(&self.rewinds);
        edges
            .map(|(edge, taken)| ((edge.on.clone(), name(edge.from), name(edge.to)), *taken))
            .collect()
    }

    /// The items of steps get their places behind those of the new graph.
    fn move_items(&mut self, old: &mut [StepState], at: u64) -> Result<(), String> {
        for ix in (0..self.graph.len())
            .filter_map(|ix| u32::try_from(ix).ok())
            .map(StepIx)
        {
            for slot in std::mem::take(&mut self.steps[ix.get()].slots) {
                let mut state =
                    std::mem::replace(&mut old[slot.get()], StepState::new(StepStatus::Pending, 0, at));
                state.item = state.item.map(|(_, index)| (ix, index));
                let place = u32::try_from(self.steps.len()).map_err(|_| "too many items")?;
                self.steps.push(state);
                self.steps[ix.get()].slots.push(StepIx(place));
            }
            if let Some(items) = &mut self.steps[ix.get()].items {
                items.list = std::sync::OnceLock::new();
            }
        }
        Ok(())
    }

    /// Counts anew what is counted over all steps.
    fn recount(&mut self) {
        let places = self.places();
        let live = |ix: &StepIx| {
            let step = self.step(*ix);
            let stands = matches!(
                step.status,
                StepStatus::Ready | StepStatus::Running | StepStatus::Waiting | StepStatus::Failed
            );
            stands && !step.given_up
        };
        self.frontier = places.filter(live).collect();
        let through = self.steps[..self.graph.len()]
            .iter()
            .filter(|step| step.is_through());
        self.unfinished = self.graph.len() - through.count();
    }

    /// What each step still needs; one that has begun must need nothing.
    fn settle_all(&mut self, at: u64) -> Result<(), String> {
        let graph = self.graph.clone();
        for (ix, spec) in graph.steps() {
            let needs = spec.needs.iter();
            let missing: Vec<StepIx> = needs
                .filter(|need| !self.step(**need).is_through())
                .copied()
                .collect();
            self.steps[ix.get()].unmet = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            match (self.step(ix).status, missing.first()) {
                (StepStatus::Pending, None) => self.set_status(ix, StepStatus::Ready, at),
                (StepStatus::Pending, Some(_)) | (_, None) => {}
                (StepStatus::Ready, Some(_)) => {
                    // Its conditions are looked at when its turn comes again.
                    self.steps[ix.get()].judged = false;
                    self.steps[ix.get()].waited = false;
                    self.set_status(ix, StepStatus::Pending, at);
                }
                (status, Some(need)) => {
                    let (name, need) = (&spec.name, &graph.step(*need).name);
                    let status = status.as_str();
                    return Err(format!(
                        "step `{name}` is {status}, and needs `{need}`, which was not done"
                    ));
                }
            }
        }
        Ok(())
    }
}
