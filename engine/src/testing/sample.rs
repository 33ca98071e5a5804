//! A small run that is driven by hand: events go in, appends come out, as the core would make them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::core::accepted_artifacts;
use crate::event::{By, Entry, Event, Output, RunEnd, WaitReason};
use crate::failure::Failure;
use crate::id::{RunId, StageName, StepName, Subject, Token, WorkflowName};
use crate::journal::{Append, StoredGraph};
use crate::resource::Resources;
use crate::rows::{run_row, step_row};
use crate::run::RunState;
use crate::stage::{Claim, Wake};
use crate::workflow::{Graph, GraphData, Retry, RewindEdge, StageRef, StepIx, StepSpec, Timeouts};

/// A run of two steps, `one` (which makes the artifact `sealed`) and `two` (from which the code
/// `again` leads back to `one`).
#[derive(Debug)]
pub struct SampleRun {
    /// The state after all appends so far.
    pub state: RunState,
    at: u64,
}

/// The moment at which samples begin, in milliseconds since 1970.
const BEGIN: u64 = 1_790_000_000_000;

impl SampleRun {
    /// The graph of all samples.
    pub fn graph() -> (Arc<Graph>, Arc<StoredGraph>) {
        let step = |name: &str, needs: Vec<StepIx>, artifacts: Vec<String>| StepSpec {
            name: StepName::new(name).expect("a step name"),
            stage: Some(StageRef {
                name: StageName::new(name).expect("a stage name"),
                version: 1,
                artifacts,
                effect: false,
                many: false,
            }),
            needs,
            inputs: BTreeMap::new(),
            retry: Retry {
                on: BTreeSet::new(),
                ..Retry::default()
            },
            timeout: Timeouts::default(),
            wait: None,
            when: None,
            foreach: None,
            valid_until: None,
            workflow: None,
            batch: None,
            on_failure: Vec::new(),
            finally: false,
        };
        let data = GraphData {
            name: WorkflowName::new("sample").expect("a workflow name"),
            description: String::new(),
            subject: "sector".to_owned(),
            claim: Claim::Write,
            priority: 0,
            params: Vec::new(),
            steps: vec![
                step("one", Vec::new(), vec!["sealed".to_owned()]),
                step("two", vec![StepIx(0)], Vec::new()),
            ],
            rewinds: vec![RewindEdge {
                on: "again".to_owned(),
                from: StepIx(1),
                to: StepIx(0),
                max: 3,
            }],
            children: Vec::new(),
            outputs: BTreeMap::new(),
            triggers: Vec::new(),
        };
        let graph = Graph::new(data.clone()).expect("a graph");
        (
            Arc::new(graph),
            Arc::new(StoredGraph {
                data,
                source: "# the sample's file".to_owned(),
            }),
        )
    }

    /// Starts the `n`-th sample: a later number is a later run. Its subject is `f01000/n`.
    pub fn start(n: u16, key: Option<&str>) -> (Self, Append) {
        let subject = Subject::new(&format!("f01000/{n}")).expect("a subject");
        Self::start_about(n, subject, key)
    }

    /// Starts the `n`-th sample about something.
    pub fn start_about(n: u16, subject: Subject, key: Option<&str>) -> (Self, Append) {
        let (graph, stored) = Self::graph();
        let at = BEGIN + u64::from(n) * 1000;
        let id = RunId::new(at, &[u8::try_from(n % 256).unwrap_or(0); 10]);
        let started = Event::RunStarted {
            workflow: graph.data().name.clone(),
            graph: graph.hash().clone(),
            subject,
            params: json!({"sector": n, "name": "Größe \"quoted\" \\ \u{0}"}),
            artifacts: json!({}),
            key: key.map(str::to_owned),
            priority: None,
            parent: None,
            members: Vec::new(),
            by: By {
                who: "tester".to_owned(),
                why: "a sample".to_owned(),
            },
        };
        let entry = Entry {
            seq: 1,
            at,
            events: vec![started, attempt("one", 1, 1)],
        };
        let state = RunState::start(id, graph.clone(), &entry).expect("a legal start");
        let mut run = Self { state, at };
        let append = Append {
            graph: Some((graph.hash().clone(), stored)),
            ..run.append(entry)
        };
        (run, append)
    }

    /// The run's identifier.
    pub fn id(&self) -> RunId {
        self.state.id.clone()
    }

    /// Appends an entry of these events.
    ///
    /// # Panics
    /// When they cannot happen now.
    pub fn next(&mut self, events: Vec<Event>) -> Append {
        self.at += 7;
        let entry = Entry {
            seq: self.state.seq + 1,
            at: self.at,
            events,
        };
        self.state.apply(&entry).expect("legal events");
        self.append(entry)
    }

    fn append(&mut self, entry: Entry) -> Append {
        let touched = self.state.take_touched();
        let steps = touched.into_iter().map(|ix| step_row(&self.state, ix)).collect();
        let artifacts = accepted_artifacts(&self.state, &entry);
        Append {
            entry,
            row: run_row(&self.state),
            steps,
            artifacts,
            graph: None,
        }
    }

    /// Step `one` waits for a signal: the run rests.
    pub fn parked(&mut self) -> Append {
        let one = self.state.name(StepIx(0));
        let attempt = Some(self.state.step(StepIx(0)).attempts);
        self.next(vec![Event::StepWaiting {
            step: one,
            wake: Wake::Signal("go".to_owned()),
            reason: WaitReason::Parked,
            attempt,
        }])
    }

    /// Step `one` waits no more.
    pub fn woken(&mut self) -> Append {
        let step = self.state.name(StepIx(0));
        self.next(vec![Event::StepWoken { step }])
    }

    /// Step `one` succeeds and step `two` starts.
    pub fn one_done(&mut self) -> Append {
        let try_of_two = self.state.step(StepIx(1)).attempts + 1;
        let visit = self.state.step(StepIx(1)).visit;
        let attempt_of_one = self.state.step(StepIx(0)).attempts;
        let sealed = json!({"store": "scratch", "key": format!("{}/sealed", self.id()), "bytes": 2048});
        let output = Output::Inline(json!({"sealed": sealed, "ratio": 0.1}));
        let done = succeeded("one", attempt_of_one, output);
        self.next(vec![done, attempt("two", visit, try_of_two)])
    }

    /// Step `two` fails with the code that leads back, and step `one` starts again.
    pub fn rewound(&mut self) -> Append {
        let attempt_of_two = self.state.step(StepIx(1)).attempts;
        let failed = Event::AttemptFailed {
            step: name("two"),
            attempt: attempt_of_two,
            failure: Failure::permanent("again", "once more"),
            charged: true,
            seconds: 0.25,
            still_running: false,
        };
        let back = Event::Rewound {
            on: "again".to_owned(),
            from: name("two"),
            to: name("one"),
        };
        let again = self.state.step(StepIx(0)).attempts + 1;
        let visit = self.state.step(StepIx(0)).visit + 1;
        self.next(vec![failed, back, attempt("one", visit, again)])
    }

    /// Step `two` succeeds and the run ends.
    pub fn finished(&mut self) -> Append {
        let attempt_of_two = self.state.step(StepIx(1)).attempts;
        let done = succeeded("two", attempt_of_two, Output::Inline(json!({})));
        self.next(vec![
            done,
            Event::RunFinished {
                end: RunEnd::Succeeded,
            },
        ])
    }
}

fn name(step: &str) -> StepName {
    StepName::new(step).expect("a step name")
}

/// An attempt of a step begins.
pub(super) fn attempt(step: &str, visit: u32, attempt: u32) -> Event {
    Event::AttemptStarted {
        step: name(step),
        visit,
        attempt,
        token: Token::new([u8::try_from(attempt % 256).unwrap_or(0); 16]),
        executor: "local".to_owned(),
        held: Resources {
            cpu: 1,
            memory: 1 << 30,
            ..Resources::default()
        },
    }
}

/// An attempt of a step succeeds.
fn succeeded(step: &str, attempt: u32, output: Output) -> Event {
    Event::AttemptSucceeded {
        step: name(step),
        attempt,
        output,
        seconds: 1.0 / 3.0,
    }
}

/// Signal data that tells entries apart.
pub(super) fn signal(n: u64) -> Event {
    let data: Value = json!({"n": n});
    Event::SignalReceived {
        name: "tick".to_owned(),
        data,
        by: By::default(),
    }
}
