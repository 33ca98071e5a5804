//! Workflow files driven through the core by hand: conditions, fan-outs, approvals, expiry and what
//! operators do to steps. After every settling the run is folded anew from its entries and its rows.

mod families;
mod items;
mod machines;
mod migrate;

use super::*;
use crate::clock::Now;
use crate::resource::Need;
use crate::rows::StepRow;
use crate::stage::StageRegistry;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Listed {
    /// Numbers.
    numbers: Vec<u64>,
    /// A flag.
    flag: bool,
    /// A time.
    until: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct One {
    /// A number.
    number: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Many {
    /// Numbers.
    number: Vec<u64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Maybe {
    /// A number.
    number: Option<u64>,
}

macro_rules! stage {
    ($stage:ident, $name:literal, $input:ty, $output:ty, $effect:literal) => {
        struct $stage;
        impl Stage for $stage {
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const SOURCE: &'static str = "//! Works.";
            const EFFECT: bool = $effect;
            type Input = $input;
            type Output = $output;
            fn costs(&self, _: &Value) -> Need {
                Need {
                    cpu: 1,
                    memory: 1,
                    ..Need::default()
                }
            }
            async fn run(&self, _: &StageContext, _: $input) -> Result<Outcome<$output>, Failure> {
                Err(Failure::permanent("by_hand", "the test reports"))
            }
        }
    };
}
stage!(List, "list", Nothing, Listed, false);
stage!(Each, "each", One, One, false);
stage!(Gather, "gather", Many, One, false);
stage!(Take, "take", One, One, false);
stage!(Try, "try", Maybe, One, false);
stage!(Send, "send", Nothing, One, true);

/// Works in the sector's cache directory.
struct Grind;

impl Stage for Grind {
    const NAME: &'static str = "grind";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Works.";
    const BOUND: bool = true;
    type Input = Nothing;
    type Output = One;
    fn costs(&self, _: &Value) -> Need {
        Need::default()
    }
    async fn run(&self, _: &StageContext, _: Nothing) -> Result<Outcome<One>, Failure> {
        Err(Failure::permanent("by_hand", "the test reports"))
    }
}

pub(super) fn stages() -> Arc<StageRegistry> {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    let registry = StageRegistry::default().with_subject(kind).with_type::<u64>();
    let registry = registry
        .with(List)
        .with(Each)
        .with(Gather)
        .with(Take)
        .with(Try)
        .with(Send)
        .with(Grind);
    Arc::new(registry)
}

/// One run of a workflow file, and everything that was committed.
pub(super) struct Flow {
    core: Core,
    run: RunId,
    graph: Arc<Graph>,
    /// All graphs that it kept.
    graphs: Vec<Arc<Graph>>,
    entries: Vec<Entry>,
    rows: BTreeMap<StepIx, StepRow>,
    running: BTreeMap<String, Dispatch>,
    /// Attempts that executors were asked for.
    asked: Vec<AttemptKey>,
    ms: u64,
}

impl Flow {
    pub(super) fn new(steps: &str) -> Self {
        let graph = Self::graph_of(steps);
        let mut spec = place("main", 100, 1000);
        spec.machine.capacity.cpu = 100;
        let mut core = Core::new(stages(), vec![spec], [7; 32]).keeping_all();
        let now = Now {
            wall_ms: 0,
            mono_ms: 0,
        };
        let run = core.start(start(&graph, json!({"id": 1}), None), now).unwrap();
        let mut flow = Self {
            core,
            run,
            graphs: vec![graph.clone()],
            graph,
            entries: Vec::new(),
            rows: BTreeMap::new(),
            running: BTreeMap::new(),
            asked: Vec::new(),
            ms: 0,
        };
        flow.settle();
        flow
    }

    /// The graph of a file with these steps.
    pub(super) fn graph_of(steps: &str) -> Arc<Graph> {
        let text =
            format!("[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n{steps}");
        let (graph, complaints) = crate::workflow::load(&text, &stages());
        Arc::new(graph.unwrap_or_else(|| panic!("{complaints:?}")))
    }

    pub(super) fn now(&self) -> Now {
        Now {
            wall_ms: self.ms,
            mono_ms: self.ms,
        }
    }

    pub(super) fn settle(&mut self) {
        let now = self.now();
        for transition in self.core.settle(now) {
            if let Some(append) = transition.append {
                if append.entry.renumbers() {
                    self.rows.clear();
                }
                self.entries.push(append.entry);
                self.rows
                    .extend(append.steps.into_iter().map(|row| (row.ix, row)));
            }
            for effect in transition.effects {
                match effect {
                    Effect::Dispatch(dispatch) => {
                        self.running.insert(dispatch.key.step.to_string(), *dispatch);
                    }
                    Effect::Stop { key, .. } => {
                        let Some(stopped) = self.running.remove(key.step.as_str()) else {
                            continue;
                        };
                        let report = Report {
                            key: stopped.key,
                            token: stopped.token,
                            news: News::Lost("stopped".to_owned()),
                        };
                        self.core.report(report, now);
                    }
                    Effect::Attach { key, .. } => self.asked.push(key),
                    Effect::Launch(_) | Effect::Deliver(_) | Effect::Fire(_) | Effect::Recall(_) => {
                        panic!("no run works for another, and all are kept")
                    }
                }
            }
        }
        let folded = self.state();
        for (ix, row) in &self.rows {
            assert_eq!(*row, step_row(&folded, *ix), "the row of {}", row.step);
        }
    }

    /// The state as a restart would find it.
    pub(super) fn state(&self) -> RunState {
        RunState::fold(&self.run, &self.graphs, &self.entries).unwrap()
    }

    pub(super) fn ends(&mut self, step: &str, result: Result<Outcome<Value>, Failure>) {
        let Dispatch { key, token, .. } = self
            .running
            .remove(step)
            .unwrap_or_else(|| panic!("{step} runs not"));
        let news = News::Ended(result);
        self.core.report(Report { key, token, news }, self.now());
        self.settle();
        // What was stopped has reported that it ended.
        self.settle();
    }

    pub(super) fn done(&mut self, step: &str, output: Value) {
        self.ends(step, Ok(Outcome::Done(output)));
    }

    pub(super) fn ask(&mut self, verb: Verb) -> Result<(), Refused> {
        let by = By {
            who: "anna".to_owned(),
            why: String::new(),
        };
        let now = self.now();
        let answer = self.core.operate(&self.run.clone(), verb, by, now);
        self.settle();
        self.settle();
        answer
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.ms += ms;
        self.core.tick(self.now());
        self.settle();
        self.settle();
    }

    pub(super) fn status(&self, step: &str) -> StepStatus {
        let state = self.state();
        let ix = state
            .find(&step.parse().unwrap())
            .unwrap_or_else(|| panic!("no {step}"));
        state.step(ix).status
    }

    pub(super) fn running(&self) -> Vec<&str> {
        self.running.keys().map(String::as_str).collect()
    }

    pub(super) fn input(&self, step: &str) -> BTreeMap<String, InputValue> {
        self.running[step].input.clone()
    }

    pub(super) fn run_status(&self) -> RunStatus {
        self.state().status
    }
}

fn step(text: &str) -> StepName {
    text.parse().unwrap()
}

const FAN: &str = r#"
[steps.list]
[steps.each]
needs = ["list"]
foreach = "list.numbers"
max_parallel = 2
with = { number = "item" }
[steps.gather]
needs = ["each"]
"#;

fn listed(numbers: &[u64], flag: bool) -> Value {
    json!({"numbers": numbers, "flag": flag, "until": 5000})
}

#[test]
fn a_step_is_done_for_each_item_and_gives_a_list() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5, 6, 7], true));
    assert_eq!(flow.running(), ["each[0]", "each[1]"]);
    assert_eq!(flow.input("each[1]")["number"], InputValue::Value(json!(6)));
    assert_eq!(flow.status("each"), StepStatus::Running);
    assert_eq!(flow.status("each[2]"), StepStatus::Pending);
    flow.done("each[1]", json!({"number": 60}));
    assert_eq!(flow.running(), ["each[0]", "each[2]"]);
    flow.done("each[2]", json!({"number": 70}));
    flow.done("each[0]", json!({"number": 50}));
    assert_eq!(flow.status("each"), StepStatus::Succeeded);
    let list = [50, 60, 70].map(|number| InputValue::Value(json!(number)));
    assert_eq!(flow.input("gather")["number"], InputValue::List(list.to_vec()));
    flow.done("gather", json!({"number": 1}));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn nothing_to_do_for_each_is_done_at_once() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[], true));
    assert_eq!(flow.input("gather")["number"], InputValue::List(Vec::new()));
}

#[test]
fn a_list_over_the_cap_pauses_the_run_and_says_so() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&vec![1; 10_001], true));
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let reason = flow.state().pause.unwrap().text();
    assert!(
        reason.contains("gives 10001 items; a step has at most 10000"),
        "{reason}"
    );
    let output = listed(&[1], true);
    flow.ask(Verb::Override(step("list"), output)).unwrap();
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.running(), ["each[0]"]);
}

#[test]
fn only_the_failed_item_is_tried_again() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5, 6], true));
    flow.done("each[1]", json!({"number": 60}));
    flow.ends("each[0]", Err(Failure::permanent("broken", "it is broken")));
    assert_eq!(flow.run_status(), RunStatus::Paused);
    assert!(flow.state().pause.unwrap().text().contains("`each[0]` failed"));
    flow.ask(Verb::Retry(Some(step("each")))).unwrap();
    assert_eq!(flow.running(), ["each[0]"]);
    flow.done("each[0]", json!({"number": 50}));
    assert_eq!(flow.running(), ["gather"]);
    // One item is done again: what needs the step is too, the other items are not.
    flow.ask(Verb::Rewind(step("each[1]"))).unwrap();
    assert_eq!(flow.running(), ["each[1]"]);
    assert_eq!(flow.running["each[1]"].key.visit, 2);
    flow.done("each[1]", json!({"number": 61}));
    let list = [50, 61].map(|number| InputValue::Value(json!(number)));
    assert_eq!(flow.input("gather")["number"], InputValue::List(list.to_vec()));
}

#[test]
fn a_rewind_lists_the_items_anew() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5, 6, 7], true));
    flow.done("each[0]", json!({"number": 50}));
    flow.ask(Verb::Rewind(step("list"))).unwrap();
    assert_eq!(flow.running(), ["list"]);
    flow.done("list", listed(&[8], true));
    assert_eq!(flow.running(), ["each[0]"]);
    let key = &flow.running["each[0]"].key;
    assert_eq!((key.visit, key.attempt), (2, 2));
    assert!(flow.state().find(&step("each[1]")).is_none());
    flow.done("each[0]", json!({"number": 80}));
    assert_eq!(flow.running(), ["gather"]);
}

#[test]
fn an_item_can_be_skipped_or_overridden() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5, 6, 7], true));
    flow.ask(Verb::Skip(step("each[0]"))).unwrap();
    assert_eq!(flow.status("each[0]"), StepStatus::Skipped);
    assert_eq!(flow.running(), ["each[1]", "each[2]"]);
    flow.ask(Verb::Override(step("each[1]"), json!({"number": 66})))
        .unwrap();
    flow.done("each[2]", json!({"number": 70}));
    let list = [json!(null), json!(66), json!(70)].map(InputValue::Value);
    assert_eq!(flow.input("gather")["number"], InputValue::List(list.to_vec()));
    assert!(
        flow.ask(Verb::Override(step("each"), json!({"number": 1})))
            .is_err()
    );
}

#[test]
fn cancelling_ends_items() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5, 6, 7], true));
    flow.ask(Verb::Cancel).unwrap();
    assert_eq!(flow.run_status(), RunStatus::Cancelled);
    assert_eq!(flow.running(), Vec::<&str>::new());
    assert!(!flow.core.busy());
}

const WHEN: &str = r#"
[steps.list]
[steps.each]
needs = ["list"]
when = "list.flag && size(list.numbers) > 1"
with = { number = { value = 1 } }
[steps.take]
needs = ["each"]
[steps.try]
needs = ["each", "take"]
with = { number = "each.number" }
"#;

#[test]
fn a_step_is_skipped_and_so_is_what_cannot_do_without_it() {
    let mut flow = Flow::new(WHEN);
    flow.done("list", listed(&[1], true));
    assert_eq!(flow.status("each"), StepStatus::Skipped);
    assert_eq!(flow.status("take"), StepStatus::Skipped);
    let state = flow.state();
    let why = |name: &str| {
        state
            .step(state.find(&step(name)).unwrap())
            .skipped
            .clone()
            .unwrap()
    };
    assert_eq!(why("each"), "`list.flag && size(list.numbers) > 1` does not hold");
    assert_eq!(
        why("take"),
        "its input `number` comes from `each`, which was skipped"
    );
    assert_eq!(flow.running(), ["try"]);
    assert_eq!(flow.input("try")["number"], InputValue::Value(json!(null)));
    flow.done("try", json!({"number": 1}));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn a_condition_is_looked_at_again_after_going_back() {
    let mut flow = Flow::new(WHEN);
    flow.done("list", listed(&[1], true));
    flow.ask(Verb::Rewind(step("list"))).unwrap();
    flow.done("list", listed(&[1, 2], true));
    assert_eq!(flow.running(), ["each"]);
    flow.done("each", json!({"number": 1}));
    assert_eq!(flow.running(), ["take"]);
}

#[test]
fn an_expression_that_fails_pauses_the_run() {
    let mut flow =
        Flow::new("[steps.list]\n[steps.send]\nneeds = [\"list\"]\nwhen = \"list.numbers[3] > 1\"\n");
    flow.done("list", listed(&[1], true));
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let reason = flow.state().pause.unwrap().text();
    assert!(reason.contains("when = \"list.numbers[3] > 1\""), "{reason}");
    flow.ask(Verb::Skip(step("send"))).unwrap();
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn what_expires_goes_back_or_pauses() {
    let steps = r#"
[steps.list]
[steps.send]
needs = ["list"]
valid_until = "list.until"
[[rewind]]
on = "valid_until_passed"
from = "send"
to = "list"
max = 1
"#;
    let mut flow = Flow::new(steps);
    flow.done("list", listed(&[], true));
    flow.wait(4999);
    assert_eq!(flow.running(), ["send"]);
    flow.wait(1);
    assert_eq!(flow.running(), ["list"]);
    assert_eq!(flow.running["list"].key.visit, 2);
    flow.done("list", listed(&[], true));
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let reason = flow.state().pause.unwrap().text();
    assert!(reason.contains("went back 1 times"), "{reason}");
}

#[test]
fn an_approval_is_asked_of_a_person() {
    let mut flow = Flow::new(
        "[steps.look]\nwait = { approval = \"look at the disk\" }\n[steps.send]\nneeds = [\"look\"]\n",
    );
    assert_eq!(flow.status("look"), StepStatus::Waiting);
    assert!(
        flow.ask(Verb::Approve(step("send")))
            .unwrap_err()
            .to_string()
            .contains("these do: look")
    );
    assert!(flow.ask(Verb::Signal("look".to_owned(), json!(1))).is_err());
    flow.ask(Verb::Approve(step("look"))).unwrap();
    assert_eq!(flow.running(), ["send"]);
}

#[test]
fn what_landed_is_not_gone_back_over() {
    let mut flow =
        Flow::new("[steps.list]\n[steps.send]\nneeds = [\"list\"]\n[steps.take]\nneeds = [\"send\"]\n");
    flow.done("list", listed(&[], true));
    flow.ask(Verb::Rewind(step("list"))).unwrap();
    flow.done("list", listed(&[], true));
    flow.done("send", json!({"number": 1}));
    for verb in [
        Verb::Rewind(step("list")),
        Verb::Retry(Some(step("send"))),
        Verb::Override(step("list"), listed(&[], true)),
    ] {
        let refused = flow.ask(verb).unwrap_err().to_string();
        assert!(refused.contains("has landed and cannot be undone"), "{refused}");
    }
    flow.ask(Verb::Rewind(step("take"))).unwrap();
    let text = "[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n[steps.list]\n[steps.send]\nneeds = [\"list\"]\n[steps.take]\nneeds = [\"send\"]\n[[rewind]]\non = \"x\"\nfrom = \"take\"\nto = \"list\"\n";
    let (graph, complaints) = crate::workflow::load(text, &stages());
    assert!(graph.is_none());
    assert_eq!(complaints[0].code, "rewind_across_effect");
}

/// Items that were forgotten, because their step expired or was left out, may have landed all the same.
#[test]
fn what_items_landed_is_not_forgotten_with_them() {
    let steps = r#"
[steps.list]
[steps.send]
needs = ["list"]
foreach = "list.numbers"
max_parallel = 1
valid_until = "list.until"
[steps.take]
with = { number = { value = 1 } }
needs = ["send"]
"#;
    let mut flow = Flow::new(steps);
    flow.done("list", listed(&[5, 6], true));
    flow.done("send[0]", json!({"number": 1}));
    flow.wait(5000);
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let again = [
        Verb::Retry(None),
        Verb::Retry(Some(step("send"))),
        Verb::Resume,
        Verb::Rewind(step("list")),
        Verb::Rewind(step("send")),
    ];
    for verb in again {
        let refused = flow.ask(verb.clone()).unwrap_err().to_string();
        assert!(refused.contains("landed"), "{verb:?}: {refused}");
    }
    flow.ask(Verb::Skip(step("send"))).unwrap();
    for verb in [Verb::Retry(Some(step("send"))), Verb::Rewind(step("list"))] {
        let refused = flow.ask(verb.clone()).unwrap_err().to_string();
        assert!(refused.contains("landed"), "{verb:?}: {refused}");
    }
    flow.ask(Verb::Resume).unwrap();
    flow.done("take", json!({"number": 1}));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
    // Where nothing had landed, everything is tried again.
    let mut flow = Flow::new(steps);
    flow.done("list", listed(&[5, 6], true));
    flow.wait(5000);
    flow.ask(Verb::Rewind(step("list"))).unwrap();
    if flow.run_status() == RunStatus::Paused {
        flow.ask(Verb::Resume).unwrap();
    }
    assert_eq!(flow.running(), ["list"]);
}

#[test]
fn an_override_must_be_an_output() {
    let mut flow = Flow::new(FAN);
    for (output, part) in [
        (json!({"numbers": [1], "flag": true}), "lacks `until`"),
        (
            json!({"numbers": [1], "flag": true, "until": 1, "more": 1}),
            "no output `more`",
        ),
        (json!([1]), "an output is an object"),
    ] {
        let refused = flow
            .ask(Verb::Override(step("list"), output))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(flow.running(), ["list"]);
    let refused = flow.ask(Verb::Override(step("gather"), json!({"number": 1})));
    assert!(refused.unwrap_err().to_string().contains("has not begun"));
    flow.ask(Verb::Override(step("list"), listed(&[1], true)))
        .unwrap();
    assert_eq!(flow.running(), ["each[0]"]);
}

#[test]
fn a_fork_takes_over_what_came_before() {
    let mut flow = Flow::new(FAN);
    flow.done("list", listed(&[5], true));
    flow.done("each[0]", json!({"number": 50}));
    let fork = Fork::of(&flow.state(), &step("gather")).unwrap();
    let names: Vec<&str> = fork.outputs.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["list"]);
    let mut second = start(&flow.graph, json!({"id": 2}), None);
    second.fork = Some(fork);
    second.priority = Some(5);
    let now = flow.now();
    let run = flow.core.start(second, now).unwrap();
    let transitions = flow.core.settle(now);
    let append = transitions[0].append.as_ref().unwrap();
    let state = RunState::fold(
        &run,
        std::slice::from_ref(&flow.graph),
        std::slice::from_ref(&append.entry),
    )
    .unwrap();
    assert_eq!(state.priority, 5);
    assert_eq!(state.step(StepIx(0)).status, StepStatus::Succeeded);
    assert_eq!(state.step(StepIx(0)).attempts, 0);
    assert_eq!(dispatches(&transitions).len(), 1);
}

#[test]
fn higher_priority_and_nearer_expiry_go_first() {
    let mut core = core(vec![place("main", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let first = dispatches(&core.settle(at(0))).remove(0);
    let low = core.start(start(&graph, json!({"id": 2}), None), at(1)).unwrap();
    let mut urgent = start(&graph, json!({"id": 3}), None);
    urgent.priority = Some(1);
    let high = core.start(urgent, at(2)).unwrap();
    core.settle(at(2));
    // A person turns the order round.
    core.operate(&low, Verb::Prioritize(2), By::default(), at(3))
        .unwrap();
    core.settle(at(3));
    report(&mut core, &first, done(), at(4));
    let next = dispatches(&core.settle(at(4))).remove(0);
    assert_eq!(next.key.run, low);
    report(&mut core, &next, done(), at(5));
    assert_eq!(dispatches(&core.settle(at(5)))[0].key.run, high);
}

#[test]
fn a_rehearsal_takes_a_moment_and_tells_everything() {
    use crate::rehearse::{Script, rehearse};
    let text = format!(
        "[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n{FAN}\
         [steps.look]\nwait = {{ approval = \"look\" }}\nneeds = [\"gather\"]\n\
         [[rewind]]\non = \"again\"\nfrom = \"gather\"\nto = \"list\"\n"
    );
    let graph = Arc::new(crate::workflow::load(&text, &stages()).0.unwrap());
    let mut script = Script {
        items: Some(4),
        ..Script::default()
    };
    script.takes.insert("each".to_owned(), 3_600_000);
    let fails = vec![(FailureClass::Transient, "no_luck".to_owned())];
    script.fails.insert("each[1]".to_owned(), fails);
    let fails = vec![(FailureClass::Rewind, "again".to_owned())];
    script.fails.insert("gather".to_owned(), fails);
    let told = rehearse(
        &stages(),
        &graph,
        vec![place("main", 10, 10)],
        json!({"id": 1}),
        script,
    )
    .unwrap();
    assert_eq!(told.status, RunStatus::Succeeded, "{told:#?}");
    let named = |name: &str| told.steps.iter().find(|step| step.step.as_str() == name).unwrap();
    assert_eq!(named("each").notes, ["4 items", "4 items"]);
    assert_eq!(named("each[1]").attempts, 3);
    assert_eq!(named("each[1]").visits, 2);
    assert!(named("each[1]").notes[0].starts_with("no_luck (transient)"));
    assert_eq!(
        named("gather").notes,
        ["again (rewind)", "goes back to list on again"]
    );
    assert_eq!(named("look").notes, ["a person must approve: look"]);
    // Two at a time, four of an hour each, twice, and one of them once more.
    assert!(told.took_ms > 5 * 3_600_000, "{}", told.took_ms);
    // What never ends is said to be stuck, and why.
    let nothing = rehearse(&stages(), &graph, Vec::new(), json!({"id": 1}), Script::default()).unwrap();
    assert!(nothing.reason.unwrap().contains("no executor runs stage"));
}

#[test]
fn a_workflow_is_compared_step_by_step() {
    let load = |steps: &str| {
        let text =
            format!("[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n{steps}");
        crate::workflow::load(&text, &stages()).0.unwrap().data().clone()
    };
    let old = load(FAN);
    let edited = FAN.replace("max_parallel = 2", "max_parallel = 5") + "[steps.send]\nneeds = [\"gather\"]\n";
    let all = crate::workflow::diff(&old, &load(&edited));
    let shown: Vec<String> = all
        .iter()
        .map(|one| format!("{} {} {}", one.change, one.what, one.name))
        .collect();
    assert_eq!(shown, ["changed step each", "added step send"]);
    assert_eq!(all[0].keys.len(), 1);
    assert_eq!(
        (all[0].keys[0].before.as_str(), all[0].keys[0].after.as_str()),
        ("2", "5")
    );
    assert_eq!(crate::workflow::diff(&old, &old), []);
}
