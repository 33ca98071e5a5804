//! Runs that do the work of other runs' steps: sub-workflows and batches. A small world of many runs
//! commits, carries out and works at once; it can be stopped at every boundary and taken up again.

use super::*;
use crate::event::Served;
use crate::stage::{BatchStage, Verdict};
use crate::workflow::load_with;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Number {
    /// A number.
    number: u64,
}

/// Doubles a number; 13 is poison.
struct Double;

impl Stage for Double {
    const NAME: &'static str = "double";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Doubles.";
    const CLAIM: Claim = Claim::Write;
    type Input = Number;
    type Output = Number;
    fn costs(&self, _: &Value) -> Need {
        Need::default()
    }
    async fn run(&self, _: &StageContext, _: Number) -> Result<Outcome<Number>, Failure> {
        Err(Failure::permanent("by_hand", "the world reports"))
    }
}

impl BatchStage for Double {
    async fn run_many(
        &self,
        _: &StageContext,
        inputs: Vec<Number>,
    ) -> Result<Outcome<Vec<Result<Number, Failure>>>, Failure> {
        let verdicts = inputs.into_iter().map(|input| doubled(input.number));
        Ok(Outcome::Done(verdicts.collect()))
    }
}

fn doubled(number: u64) -> Result<Number, Failure> {
    match number {
        13 => Err(Failure::permanent("poison", "thirteen")),
        number => Ok(Number { number: number * 2 }),
    }
}

fn stages() -> Arc<StageRegistry> {
    let kind = *registry().subject_kind("thing").unwrap();
    let registry = StageRegistry::default()
        .with_subject(kind)
        .with_type::<u64>()
        .with_batch(Double);
    Arc::new(registry)
}

const HEAD: &str = "subject = \"thing\"\n[params]\nid = \"uint64\"\nnumber = \"uint64\"\n";

fn library(name: &str) -> Option<String> {
    let text = match name {
        "quadruple" => {
            "[steps.double]\n[steps.again]\nstage = \"double\"\nneeds = [\"double\"]\n\
             with = { number = \"double.number\" }\n[outputs]\nnumber = \"again.number\"\n"
        }
        "endless" => "[steps.double]\n[steps.self]\nworkflow = \"endless\"\n",
        "waits" => {
            "[steps.look]\nwait = { approval = \"look\" }\n[steps.double]\nneeds = [\"look\"]\n[outputs]\nnumber = \"double.number\"\n"
        }
        _ => return None,
    };
    Some(format!("[workflow]\nname = \"{name}\"\n{HEAD}{text}"))
}

fn workflow(steps: &str) -> Arc<Graph> {
    let text = format!("[workflow]\nname = \"main\"\n{HEAD}{steps}");
    let (graph, complaints) = load_with(&text, &stages(), &library);
    Arc::new(graph.unwrap_or_else(|| panic!("{complaints:?}")))
}

struct World {
    core: Core,
    log: BTreeMap<RunId, (Arc<Graph>, Vec<Entry>)>,
    site: Vec<SiteEntry>,
    jobs: Vec<Dispatch>,
    ms: u64,
    /// Boundaries left before it stops.
    fuse: Option<usize>,
    stops: usize,
}

fn new_core(stops: usize) -> Core {
    let seed = [u8::try_from(stops).unwrap(); 32];
    Core::new(stages(), vec![place("main", 100, 1000)], seed).keeping_all()
}

impl World {
    fn new() -> Self {
        Self {
            core: new_core(1),
            log: BTreeMap::new(),
            site: Vec::new(),
            jobs: Vec::new(),
            ms: 0,
            fuse: None,
            stops: 1,
        }
    }

    fn now(&self) -> Now {
        at(self.ms)
    }

    fn start(&mut self, graph: &Arc<Graph>, id: u64, number: u64) -> RunId {
        let now = self.now();
        let params = json!({"id": id, "number": number});
        self.core.start(start(graph, params, None), now).unwrap()
    }

    fn state(&self, run: &RunId) -> RunState {
        let (graph, entries) = &self.log[run];
        RunState::fold(run, std::slice::from_ref(graph), entries).unwrap()
    }

    /// Whether the fuse burns out here: everything that is not committed is gone, and the runs are taken up.
    fn stops_here(&mut self) -> bool {
        let Some(fuse) = &mut self.fuse else { return false };
        if *fuse > 0 {
            *fuse -= 1;
            return false;
        }
        self.fuse = None;
        self.stops += 1;
        self.jobs.clear();
        self.core = new_core(self.stops);
        self.core.restore_site(&self.site).unwrap();
        for (run, (graph, entries)) in &self.log {
            let state = RunState::fold(run, std::slice::from_ref(graph), entries).unwrap();
            if !state.status.is_final() || !state.discarding.is_empty() {
                self.core.restore(state, at(self.ms));
            }
        }
        true
    }

    /// Commits and carries out until nothing is left to do but to wait.
    fn settle(&mut self) {
        loop {
            let now = self.now();
            let transitions = self.core.settle(now);
            let site = self.core.take_site();
            if transitions.is_empty() && site.is_empty() {
                return;
            }
            if self.stops_here() {
                continue;
            }
            self.site.extend(site);
            let mut effects = Vec::new();
            for transition in transitions {
                if let Some(append) = transition.append {
                    let run = append.row.run.clone();
                    if let Some((hash, stored)) = append.graph {
                        let graph = Graph::new(stored.data.clone()).unwrap();
                        assert_eq!(*graph.hash(), hash);
                        self.log.insert(run.clone(), (Arc::new(graph), Vec::new()));
                    }
                    self.log.get_mut(&run).unwrap().1.push(append.entry);
                }
                effects.extend(transition.effects);
            }
            for effect in effects {
                if self.stops_here() {
                    break;
                }
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let now = self.now();
        let at_hand = |values| InputValue::Fields(values).at_hand().unwrap();
        match effect {
            Effect::Recall(run) => panic!("{run} was to be kept"),
            Effect::Dispatch(dispatch) => self.jobs.push(*dispatch),
            Effect::Launch(launch) => {
                let params = at_hand(launch.input.clone());
                self.core.launch(&launch, Ok(params), BTreeMap::new(), now);
            }
            Effect::Deliver(delivery) => self.deliver(*delivery),
            Effect::Fire(fire) => self.core.fire(&fire, Ok(BTreeMap::new()), now),
            Effect::Stop { executor, key } if run_of(&executor).is_some() => {
                self.core.stop_served(&executor, &key, now);
            }
            Effect::Stop { key, .. } => {
                let found = self.jobs.iter().position(|job| job.key == key);
                let job = self.jobs.remove(found.unwrap());
                report(&mut self.core, &job, News::Lost("stopped".to_owned()), now);
            }
            Effect::Attach { executor, key, token } => {
                if self.core.serves(&executor) {
                    return;
                }
                let told = run_of(&executor).and_then(|run| Delivery::of(&self.state(&run)));
                match told {
                    Some(mut delivery) => {
                        let wanted = Served { key, token };
                        let Ok(values) = &delivery.result else {
                            return self.deliver(delivery);
                        };
                        let values = at_hand(values.clone());
                        let place = delivery.to.iter().position(|served| *served == wanted);
                        assert!(place.is_some(), "{wanted:?} is served");
                        delivery.result = Ok(BTreeMap::new());
                        for one in delivery.reports(Ok(values)) {
                            if one.key == wanted.key {
                                self.core.report(one, now);
                            }
                        }
                    }
                    None => {
                        let news = News::Lost("gone".to_owned());
                        self.core.report(Report { key, token, news }, now);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let now = self.now();
        self.core.end_told(&delivery.run);
        let values = delivery.result.clone().unwrap_or_default();
        let values = InputValue::Fields(values).at_hand().unwrap();
        for one in delivery.reports(Ok(values)) {
            self.core.report(one, now);
        }
    }

    /// Works until nothing is left to do.
    fn play(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            if !self.jobs.is_empty() {
                let job = self.jobs.remove(0);
                let news = worked(&job);
                let now = self.now();
                report(&mut self.core, &job, news, now);
            } else if let Some(due) = self.core.next_due().0.filter(|due| *due < u64::MAX / 2) {
                self.ms = self.ms.max(due - at(0).wall_ms);
                self.core.tick(at(self.ms));
            } else {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    /// How often each step of a run succeeded.
    fn successes(&self, run: &RunId) -> usize {
        let events = self.log[run].1.iter().flat_map(|entry| &entry.events);
        events
            .filter(|event| matches!(event, Event::AttemptSucceeded { .. }))
            .count()
    }

    fn children(&self, run: &RunId) -> Vec<RunId> {
        let served = |state: &RunState| state.parent.as_ref().is_some_and(|parent| parent.key.run == *run);
        let all = self.log.keys().filter(|other| served(&self.state(other)));
        all.cloned().collect()
    }
}

fn worked(job: &Dispatch) -> News {
    let number = |value: Value| doubled(value["number"].as_u64().unwrap());
    let input = InputValue::Fields(job.input.clone()).at_hand().unwrap();
    let done = |result: Result<Number, Failure>| result.map(|output| serde_json::to_value(output).unwrap());
    if !job.many {
        return News::Ended(done(number(input)).map(Outcome::Done));
    }
    let members = input["members"].as_array().unwrap().iter();
    let verdicts: Vec<Verdict> = members
        .map(|member| match done(number(member.clone())) {
            Ok(output) => Verdict::Done(output),
            Err(failure) => Verdict::Failed(failure),
        })
        .collect();
    News::Ended(Ok(Outcome::Done(json!({ "verdicts": verdicts }))))
}

fn output(state: &RunState, step: &str) -> Value {
    let ix = state.find(&StepName::new(step).unwrap()).unwrap();
    match &state.step(ix).output {
        Some(Output::Inline(value)) => value["number"].clone(),
        other => panic!("{other:?}"),
    }
}

/// A step that is a workflow, and steps with items that are.
const SUB: &str = "
    [steps.double]
    [steps.part]
    workflow = \"quadruple\"
    needs    = [\"double\"]
    with     = { number = \"double.number\" }
    [steps.last]
    stage = \"double\"
    needs = [\"part\"]
    with  = { number = \"part.number\" }
";

#[test]
fn a_workflow_does_the_work_of_a_step() {
    let graph = workflow(SUB);
    let mut world = World::new();
    let run = world.start(&graph, 1, 1);
    world.play();
    let state = world.state(&run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(output(&state, "part"), 8);
    assert_eq!(output(&state, "last"), 16);
    let [child] = &world.children(&run)[..] else {
        panic!("one child")
    };
    let child = world.state(child);
    assert_eq!(
        (child.subject, child.status),
        (state.subject, RunStatus::Succeeded)
    );
}

#[test]
fn items_can_be_runs_of_their_own() {
    let graph = workflow(
        "[steps.part]\nworkflow = \"quadruple\"\nforeach = \"[1, 2, 3]\"\nmax_parallel = 2\nwith = { id = \"item\", number = \"item\" }\n",
    );
    let mut world = World::new();
    let run = world.start(&graph, 9, 1);
    world.play();
    let state = world.state(&run);
    assert_eq!(state.status, RunStatus::Succeeded);
    let given: Vec<Value> = (0..3).map(|n| output(&state, &format!("part[{n}]"))).collect();
    assert_eq!(given, [json!(4), json!(8), json!(12)]);
    assert_eq!(world.children(&run).len(), 3);
}

/// Wherever it is stopped: the same end, and nothing done twice that was done.
#[test]
fn a_stop_at_any_boundary_changes_nothing_about_a_sub_workflow() {
    let graph = workflow(SUB);
    let mut stopped = 0;
    for fuse in 0..200 {
        let mut world = World::new();
        let run = world.start(&graph, 1, 1);
        world.settle();
        world.fuse = Some(fuse);
        world.play();
        stopped += world.stops - 1;
        let state = world.state(&run);
        assert_eq!(state.status, RunStatus::Succeeded, "stopped at {fuse}");
        assert_eq!(output(&state, "last"), 16);
        let children = world.children(&run);
        assert_eq!(children.len(), 1, "one child, once");
        assert_eq!(world.successes(&run), 3);
        assert_eq!(world.successes(&children[0]), 2);
    }
    assert!(stopped > 10, "{stopped}");
}

/// After a restart a step asks for the run that does its work; if that ends before it is asked, its end is not in the
/// journal yet, and will be told.
#[test]
fn an_end_that_is_on_its_way_is_not_taken_for_a_loss() {
    let graph = workflow(SUB);
    let mut world = World::new();
    let run = world.start(&graph, 1, 1);
    // The work of the first step, and of both steps of the part but for the end of the second.
    for _ in 0..2 {
        world.settle();
        let job = world.jobs.remove(0);
        let now = world.now();
        report(&mut world.core, &job, worked(&job), now);
    }
    world.settle();
    let last = world.jobs.remove(0);
    let child = world.children(&run).remove(0);
    assert_eq!(last.key.run, child);
    world.fuse = Some(0);
    assert!(world.stops_here());
    // The first commit after the restart is under way when the attempt, which outlived it, reports its end.
    let now = world.now();
    let first = world.core.settle(now);
    let asks =
        |effect: &&Effect| matches!(effect, Effect::Attach { executor, .. } if run_of(executor).is_some());
    let effects: Vec<Effect> = first.into_iter().flat_map(|one| one.effects).collect();
    let ask = effects.iter().find(asks).unwrap().clone();
    report(&mut world.core, &last, worked(&last), now);
    let second = world.core.settle(now);
    let Effect::Attach { executor, .. } = &ask else {
        panic!("{ask:?}")
    };
    assert!(world.core.serves(executor), "it is not lost");
    // Both commits come to their end, in order.
    world.carry_out(ask.clone());
    for transition in second {
        let append = transition.append.unwrap();
        world.log.get_mut(&append.row.run).unwrap().1.push(append.entry);
        for effect in transition.effects {
            world.carry_out(effect);
        }
    }
    assert!(!world.core.serves(executor));
    world.play();
    let state = world.state(&run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(world.children(&run).len(), 1, "one child, once");
}

#[test]
fn what_stops_a_step_cancels_its_run_and_what_holds_it_back_holds_both() {
    let graph = workflow("[steps.part]\nworkflow = \"waits\"\n");
    let mut world = World::new();
    let run = world.start(&graph, 1, 1);
    world.play();
    let child = world.children(&run)[0].clone();
    let why = world.core.explain(&run, world.now());
    assert_eq!(why[0].conditions[0].kind, "child");
    assert!(why[0].conditions[0].text.contains(child.as_str()), "{why:?}");
    // A pause of the run is one of its parts too.
    let now = world.now();
    world.core.operate(&run, Verb::Pause, By::default(), now).unwrap();
    world.play();
    assert_eq!(world.state(&child).status, RunStatus::Paused);
    world
        .core
        .operate(&run, Verb::Resume, By::default(), now)
        .unwrap();
    world.play();
    assert_eq!(world.state(&child).status, RunStatus::Running);
    // Going back gives the step another run; the first one is cancelled.
    let part = StepName::new("part").unwrap();
    world
        .core
        .operate(&run, Verb::Rewind(part), By::default(), now)
        .unwrap();
    world.play();
    assert_eq!(world.state(&child).status, RunStatus::Cancelled);
    let children = world.children(&run);
    assert_eq!(children.len(), 2);
    let second = children.into_iter().find(|other| *other != child).unwrap();
    let look = StepName::new("look").unwrap();
    world
        .core
        .operate(&second, Verb::Approve(look), By::default(), now)
        .unwrap();
    world.play();
    assert_eq!(world.state(&run).status, RunStatus::Succeeded);
}

#[test]
fn a_run_that_is_cancelled_fails_the_step_that_it_works_for() {
    let graph = workflow("[steps.part]\nworkflow = \"waits\"\n");
    let mut world = World::new();
    let run = world.start(&graph, 1, 1);
    world.play();
    let child = world.children(&run)[0].clone();
    let now = world.now();
    world
        .core
        .operate(&child, Verb::Cancel, By::default(), now)
        .unwrap();
    world.play();
    let state = world.state(&run);
    assert_eq!(state.status, RunStatus::Paused);
    assert_eq!(state.step(StepIx(0)).failure.as_ref().unwrap().code, "cancelled");
    // And the other way round.
    let mut world = World::new();
    let run = world.start(&graph, 1, 1);
    world.play();
    world
        .core
        .operate(&run, Verb::Cancel, By::default(), now)
        .unwrap();
    world.play();
    let ends: Vec<RunStatus> = world.log.keys().map(|run| world.state(run).status).collect();
    assert_eq!(ends, [RunStatus::Cancelled; 2]);
}

#[test]
fn a_part_waits_for_a_subject_that_another_run_has() {
    let graph = workflow("[steps.part]\nworkflow = \"waits\"\nwith = { id = { value = 5 } }\n");
    let other =
        workflow("[steps.look]\nwait = { approval = \"look\" }\n[steps.double]\nneeds = [\"look\"]\n");
    let mut world = World::new();
    let holder = world.start(&other, 5, 1);
    world.play();
    let run = world.start(&graph, 1, 1);
    world.play();
    assert_eq!(world.children(&run).len(), 0);
    let why = world.core.explain(&run, world.now());
    let condition = &why[0].conditions[0];
    assert_eq!(condition.kind, "subject");
    assert!(condition.text.contains(holder.as_str()), "{why:?}");
    let now = world.now();
    world
        .core
        .operate(&holder, Verb::Cancel, By::default(), now)
        .unwrap();
    world.play();
    assert_eq!(world.children(&run).len(), 1, "it is free now");
}

#[test]
fn mistakes_about_parts_are_found_with_the_file() {
    let complain = |steps: &str| {
        let text = format!("[workflow]\nname = \"main\"\n{HEAD}{steps}");
        let (graph, complaints) = load_with(&text, &stages(), &library);
        assert!(graph.is_none());
        let told = complaints
            .iter()
            .map(|one| format!("{} {:?}", one.message, one.hint));
        told.collect::<Vec<_>>().join("\n")
    };
    for (steps, told) in [
        (
            "[steps.part]\nworkflow = \"quadruble\"\n",
            "no workflow `quadruble`",
        ),
        (
            "[steps.part]\nworkflow = \"endless\"\n",
            "cannot be a part of itself",
        ),
        (
            "[steps.part]\nworkflow = \"main\"\n",
            "cannot be a part of itself",
        ),
        (
            "[steps.part]\nworkflow = \"quadruple\"\nstage = \"double\"\n",
            "a stage and a workflow",
        ),
        (
            "[steps.part]\nworkflow = \"quadruple\"\nwith = { nmber = \"params.id\" }\n",
            "no input `nmber`",
        ),
        (
            "[steps.part]\nworkflow = \"quadruple\"\nwith = { number = { value = \"x\" } }\n",
            "input `number` is a uint64",
        ),
        (
            "[steps.double]\n[outputs]\nnumber = \"double.nmber\"\n",
            "no output `nmber`",
        ),
        (
            "[steps.double]\n[outputs]\nnumber = \"duble.number\"\n",
            "did you mean `double`",
        ),
        (
            "[steps.part]\nworkflow = \"quadruple\"\nbatch = { max = 2 }\n",
            "does not work for many runs",
        ),
        ("[steps.double]\nbatch = { wait = \"1s\" }\n", "needs `max`"),
        (
            "[steps.double]\nbatch = { max = 2, key = \"miner\" }\n",
            "neither an input of the step nor a parameter",
        ),
        (
            "[steps.double]\nforeach = \"[1]\"\nbatch = { max = 2 }\n",
            "items and a batch",
        ),
    ] {
        let complaints = complain(steps);
        assert!(complaints.contains(told), "{steps}: {complaints}");
    }
}

const BATCH: &str = "[steps.double]\nbatch = { max = 20, wait = \"10s\" }\n";

fn members_of(world: &World) -> Vec<usize> {
    let sizes = world.log.keys().map(|run| world.state(run).members.len());
    sizes.filter(|size| *size > 0).collect()
}

#[test]
fn a_batch_closes_when_it_is_full_or_due() {
    let graph = workflow(BATCH);
    let mut world = World::new();
    for id in 0..25 {
        world.start(&graph, id, id);
        world.settle();
    }
    assert_eq!(members_of(&world), [20], "the first 20 go at once");
    let ready = |run: &&RunId| world.state(run).step(StepIx(0)).status == StepStatus::Ready;
    let waiting = world.log.keys().find(ready).unwrap().clone();
    let why = world.core.explain(&waiting, world.now());
    let condition = &why[0].conditions[0];
    assert_eq!(
        (
            condition.kind.as_str(),
            condition.numbers["collected"],
            condition.numbers["max"]
        ),
        ("batch", 5, 20)
    );
    assert_eq!(condition.numbers["left_ms"], 10_000);
    world.play();
    assert_eq!(members_of(&world), [20, 5], "the rest when its time has come");
    assert_eq!(world.ms, 10_000);
}

#[test]
fn keys_bytes_and_deadlines_make_batches() {
    let sizes = |batch: &str, ids: &[u64]| {
        let graph = workflow(&format!("[steps.double]\n{batch}\n"));
        let mut world = World::new();
        for id in ids {
            world.start(&graph, *id, id % 2);
        }
        world.play();
        let mut sizes = members_of(&world);
        sizes.sort_unstable();
        let batches = world.log.keys().map(|run| world.state(run));
        let first = batches
            .filter(|state| !state.members.is_empty())
            .map(|state| state.created_at);
        (sizes, first.min().unwrap() - at(0).wall_ms)
    };
    let ids = [1, 2, 3, 4, 5, 6, 7];
    assert_eq!(
        sizes("batch = { max = 20, key = \"number\", wait = \"1s\" }", &ids).0,
        [3, 4]
    );
    assert_eq!(
        sizes("batch = { max = 20, key = \"id\", wait = \"1s\" }", &ids).0,
        [1; 7]
    );
    let one = serde_json::to_string(&json!({"number": {"value": 1}}))
        .unwrap()
        .len();
    let three = format!("batch = {{ max = 20, max_bytes = {}, wait = \"1s\" }}", one * 3);
    assert_eq!(sizes(&three, &ids).0, [1, 3, 3]);
    let until = at(0).wall_ms + 9_000;
    let due = format!("batch = {{ max = 20, wait = \"1h\", slack = \"2s\" }}\nvalid_until = \"{until}\"");
    assert_eq!(
        sizes(&due, &ids),
        (vec![7], 7_000),
        "two seconds before it is too late"
    );
}

/// A batch of 20 with one poisoned member, stopped at every boundary: the other 19 have one verdict each,
/// once, and the poisoned one has its own.
#[test]
fn one_bad_member_never_sinks_a_batch() {
    let graph = workflow(BATCH);
    let mut stopped = 0;
    for fuse in 0..60 {
        let mut world = World::new();
        let begin = |world: &mut World, id| {
            let run = world.start(&graph, id, id);
            world.settle();
            run
        };
        let mut runs: Vec<RunId> = (0..19).map(|id| begin(&mut world, id)).collect();
        world.fuse = Some(fuse);
        let mut last = begin(&mut world, 19);
        if !world.log.contains_key(&last) {
            // It was stopped before the start was committed: nobody was told that there is such a run.
            last = begin(&mut world, 19);
        }
        runs.push(last);
        world.play();
        stopped += world.stops - 1;
        for (number, run) in runs.iter().enumerate() {
            let state = world.state(run);
            if number == 13 {
                assert_eq!(state.status, RunStatus::Paused);
                assert_eq!(state.step(StepIx(0)).failure.as_ref().unwrap().code, "poison");
                assert_eq!(world.successes(run), 0);
            } else {
                assert_eq!(state.status, RunStatus::Succeeded, "stopped at {fuse}");
                assert_eq!(output(&state, "double"), json!(number * 2));
                assert_eq!(world.successes(run), 1);
            }
        }
        assert_eq!(members_of(&world), [20], "one batch, once");
    }
    assert_eq!(stopped, 5, "commits, and what follows them");
}

#[test]
fn leaving_a_batch_drops_only_ones_own_result_and_a_cancelled_batch_is_collected_again() {
    let graph = workflow("[steps.double]\nbatch = { max = 3 }\n");
    let mut world = World::new();
    let runs: Vec<RunId> = (0..3).map(|id| world.start(&graph, id, id)).collect();
    world.settle();
    let now = world.now();
    world
        .core
        .operate(&runs[1], Verb::Cancel, By::default(), now)
        .unwrap();
    world.settle();
    assert_eq!(world.state(&runs[1]).status, RunStatus::Cancelled, "at once");
    world.play();
    assert_eq!(world.state(&runs[0]).status, RunStatus::Succeeded);
    assert_eq!(world.state(&runs[2]).status, RunStatus::Succeeded);

    let mut world = World::new();
    let runs: Vec<RunId> = (0..3).map(|id| world.start(&graph, id, id)).collect();
    world.settle();
    let batch = world
        .log
        .keys()
        .find(|run| !world.state(run).members.is_empty())
        .unwrap()
        .clone();
    let why = world.core.explain(&runs[0], now);
    assert_eq!(why[0].conditions[0].kind, "in_batch");
    assert_eq!(why[0].conditions[0].numbers["members"], 3);
    world
        .core
        .operate(&batch, Verb::Cancel, By::default(), now)
        .unwrap();
    world.play();
    assert_eq!(members_of(&world), [3, 3]);
    for run in &runs {
        let state = world.state(run);
        assert_eq!(
            (state.status, state.step(StepIx(0)).charged),
            (RunStatus::Succeeded, 0)
        );
    }
}

fn triggered(trigger: &str) -> Arc<Graph> {
    workflow(&format!(
        "[[trigger]]\n{trigger}\nparams = {{ id = 1, number = 2 }}\n\
         [steps.look]\nwait = {{ approval = \"look\" }}\n[steps.double]\nneeds = [\"look\"]\n"
    ))
}

impl World {
    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        self.core.tick(at(self.ms));
        self.settle();
    }

    /// Ends the open runs.
    fn end_all(&mut self) {
        for run in self.core.runs.keys().cloned().collect::<Vec<_>>() {
            let now = self.now();
            self.core.operate(&run, Verb::Cancel, By::default(), now).unwrap();
        }
        self.settle();
    }
}

/// Ten seconds a time; at(0) is a full ten seconds.
fn begin_trigger(trigger: &str) -> World {
    begin_cron(&format!("cron = \"*/10 * * * * *\"\n{trigger}"))
}

fn begin_cron(trigger: &str) -> World {
    let graph = triggered(trigger);
    let mut world = World::new();
    let now = world.now();
    world
        .core
        .enable_triggers(graph, String::new(), By::default(), now)
        .unwrap();
    world.settle();
    world
}

#[test]
fn a_trigger_starts_a_run_when_its_time_has_come_and_only_then() {
    let mut world = begin_trigger("overlap = \"allow\"");
    assert_eq!(world.core.next_due().0, Some(at(10_000).wall_ms));
    world.pass(9_999);
    assert_eq!(world.log.len(), 0);
    world.pass(1);
    assert_eq!(world.log.len(), 1);
    world.pass(0);
    world.end_all();
    world.pass(9_999);
    assert_eq!(world.log.len(), 1);
    world.pass(1);
    assert_eq!(world.log.len(), 2);
    let name = WorkflowName::new("main").unwrap();
    let now = world.now();
    world
        .core
        .disable_triggers(name.clone(), By::default(), now)
        .unwrap();
    world.pass(100_000);
    assert_eq!(world.log.len(), 2);
    assert!(world.core.disable_triggers(name, By::default(), now).is_err());
}

#[test]
fn an_open_run_keeps_the_next_one_as_the_file_says() {
    let runs = |trigger: &str| {
        let mut world = begin_trigger(trigger);
        for _ in 0..3 {
            world.pass(10_000);
        }
        let open = world.log.len();
        world.end_all();
        world.pass(1);
        let (after, name) = (world.log.len(), WorkflowName::new("main").unwrap());
        let last = world.core.site().triggers(&name).unwrap().last[&0].clone();
        (open, after, last)
    };
    let (open, after, last) = runs("overlap = \"skip\"");
    assert_eq!((open, after, last.missed), (1, 1, 2));
    assert!(last.skipped.unwrap().contains("was still open"));
    let (open, after, last) = runs("overlap = \"wait\"");
    assert_eq!(
        (open, after, last.missed),
        (1, 2, 1),
        "the last of the times that passed"
    );
    let (open, after, _) = runs("overlap = \"wait\"\ncatch_up = \"all\"");
    assert_eq!((open, after), (1, 2), "the next of them");
    let (open, _, last) = runs("overlap = \"allow\"");
    // The subject is claimed by one run at a time all the same.
    assert_eq!(open, 1);
    assert!(last.skipped.unwrap().contains("in use"));
}

#[test]
fn times_that_passed_while_it_was_away_are_caught_up_on_once() {
    for (trigger, wanted) in [
        ("catch_up = \"one\"", 1),
        ("catch_up = \"none\"", 0),
        ("catch_up = \"all\"\noverlap = \"wait\"", 1),
    ] {
        let world = begin_cron(&format!("cron = \"0 * * * *\"\n{trigger}"));
        let site = world.site.clone();
        // The daemon is away for a while, and is killed at every boundary when it is back.
        for fuse in 0..4 {
            let mut world = World::new();
            world.core.restore_site(&site).unwrap();
            world.site = site.clone();
            // Half past five.
            world.ms = 11 * 1_800_000 - at(0).wall_ms;
            world.fuse = Some(fuse);
            for _ in 0..3 {
                world.pass(0);
            }
            assert_eq!(world.log.len(), wanted, "{trigger} {fuse}");
        }
    }
}
