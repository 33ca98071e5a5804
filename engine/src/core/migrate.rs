//! Moving an open run to another graph: what is remembered by the places of its steps gets the new places.

use super::request::Migration;
use super::*;
use crate::migrate::{Plan, plan};

impl Core {
    /// What moving a run to another graph would do.
    pub fn plan_migration(registry: &StageRegistry, state: &RunState, graph: &Graph, redo: bool) -> Plan {
        // A parameter that the new graph does not have is left behind.
        let mut given = state.params.clone();
        if let Value::Object(given) = &mut given {
            given.retain(|name, _| graph.data().params.iter().any(|param| param.name == *name));
        }
        let params = match check_params(registry, graph, &given) {
            Ok((_, subject)) if subject != state.subject => Err(format!(
                "in the new workflow the same parameters mean {subject}, not {}",
                state.subject
            )),
            Ok((params, _)) => Ok(params),
            Err(refused) => Err(refused.to_string()),
        };
        plan(state, graph, params, redo)
    }

    pub(super) fn migrate(&mut self, run: &RunId, migration: Migration, by: By) -> Result<(), Refused> {
        let Some(live) = self.runs.get_mut(run) else {
            return Err(Refused::NoRun(run.clone()));
        };
        let Migration { graph, source, redo } = migration;
        let plan = Self::plan_migration(&self.registry, &live.state, &graph, redo);
        if !plan.is_safe() {
            return Err(Refused::State(format!(
                "{run} cannot be moved: {}",
                plan.obstacles().join("; ")
            )));
        }
        if self.launching.iter().any(|(of, ..)| of == run) {
            let what = format!("a run for a step of {run} is being started; try again in a moment");
            return Err(Refused::State(what));
        }
        let owned = live
            .state
            .subject_artifacts
            .as_object()
            .cloned()
            .unwrap_or_default();
        check_artifacts(&graph, &live.state.subject, &owned.into_iter().collect())?;
        let (progress, limits) = self.leave_places(run);
        let Some(live) = self.runs.get_mut(run) else {
            return Err(Refused::NoRun(run.clone()));
        };
        let data = graph.data().clone();
        let claim = data.claim;
        live.graph_source = Some(Arc::new(StoredGraph { data, source }));
        live.class = eta::RunClass::default();
        live.state.provide(graph.clone());
        let event = Event::RunMigrated {
            graph: graph.hash().clone(),
            params: plan.params,
            again: plan.again,
            by,
        };
        self.record(run, event);
        let Some(live) = self.runs.get_mut(run) else {
            let why = self.damaged.get(run).cloned().unwrap_or_default();
            return Err(Refused::Damaged {
                run: run.clone(),
                why,
            });
        };
        let state = &live.state;
        let place = |(name, what)| Some((state.find(&name)?, what));
        live.progress = progress.into_iter().filter_map(place).collect();
        let place = |(name, what)| Some((state.find(&name)?, what));
        live.limits = limits.into_iter().filter_map(place).collect();
        if let Some(held) = self
            .claims
            .get_mut(&live.state.subject)
            .and_then(|holders| holders.get_mut(run))
        {
            *held = claim;
        }
        Ok(())
    }

    /// Forgets what is remembered of a run by the places of its steps: what is still to be done is decided anew.
    /// Gives what is not derived again, by name.
    #[expect(
        clippy::type_complexity,
        reason = "two lists of what belongs to steps, used once"
    )]
    fn leave_places(
        &mut self,
        run: &RunId,
    ) -> (Vec<(StepName, Progress)>, Vec<(StepName, Vec<(u64, Limit)>)>) {
        let Some(live) = self.runs.get_mut(run) else {
            return Default::default();
        };
        for (ix, at) in std::mem::take(&mut live.armed) {
            self.timers.remove(&(at, run.clone(), ix));
        }
        let state = &live.state;
        let progress = std::mem::take(&mut live.progress).into_iter();
        let progress = progress.map(|(ix, what)| (state.name(ix), what)).collect();
        let limits = std::mem::take(&mut live.limits).into_iter();
        let limits = limits.map(|(ix, what)| (state.name(ix), what)).collect();
        self.expiries.retain(|(_, of, _)| of != run);
        for turns in self.ready.values_mut() {
            turns.retain(|turn| turn.run != *run);
        }
        for collector in self.collecting.values_mut() {
            collector.members.retain(|(_, of, _)| of != run);
        }
        self.collecting
            .retain(|_, collector| !collector.members.is_empty());
        (progress, limits)
    }
}
