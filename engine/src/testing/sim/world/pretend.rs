//! The executors: they do what the plan says, late or never, and report more than they should.

use super::*;
use crate::run::InputValue;
use crate::stage::{Progress, Wake};
use crate::testing::sim::plan::Turn;
use crate::testing::sim::stages::given;

const TALK_MS: u64 = 400;

impl World<'_> {
    /// What a step or an item takes, by the log.
    pub(super) fn takes(ledger: &Ledger, (ix, item): At) -> Result<BTreeMap<String, Value>, String> {
        let mut takes = BTreeMap::new();
        for name in ledger.graph.step(ix).inputs.keys() {
            let value = match (name.split_once('_'), item) {
                (Some((field, need)), _) => {
                    let need = StepIx(need.parse().unwrap());
                    if !ledger.steps[need.get()].is_through() {
                        return Err(format!("step {} is not through", need.0));
                    }
                    ledger.field(need, field)
                }
                (None, Some(item)) => ledger.item_value(ix, item)?,
                (None, None) => return Err("a step is no item".to_owned()),
            };
            takes.insert(name.clone(), value);
        }
        Ok(takes)
    }

    pub(super) fn begin(&mut self, dispatch: Dispatch) -> Result<(), String> {
        let Dispatch {
            executor,
            key,
            token,
            input,
            ..
        } = dispatch;
        let plan = self.plan_of(&key.run);
        let ledger = &self.log[&key.run].ledger;
        let place = ledger.find(&key.step)?;
        let input: BTreeMap<String, Value> = input
            .into_iter()
            .map(|(name, value)| (name, filled(value)))
            .collect();
        let due = Self::takes(ledger, place)?;
        if due != input {
            return Err(format!("{key} gets {input:?}, but the log says {due:?}"));
        }
        let ended = ledger.place(place).ended.get(&key.visit).copied().unwrap_or(0);
        let turn = plan.turn(&ledger.graph, place, key.visit, ended);
        let step = &plan.steps[place.0.get()];
        let at = self.now + u64::from(step.ms);
        let done = given(step, &key.step, &input, key.visit, BEGIN + at);
        let mut job = Job {
            token,
            executor,
            ends: None,
            payload: false,
            talks: None,
            stubborn: step.stubborn,
        };
        match turn {
            None => {
                job.payload = step.payload;
                job.ends = Some((at, Ok(Outcome::Done(done))));
            }
            Some(Turn::Talk) => {
                job.talks = Some(self.now + TALK_MS);
                job.ends = Some((self.now + 2500, Ok(Outcome::Done(done))));
            }
            Some(Turn::ParkFor(ms)) => {
                job.ends = Some((at, Ok(Outcome::Park(Wake::At(BEGIN + at + u64::from(ms))))));
            }
            Some(Turn::ParkSignal) => {
                job.ends = Some((at, Ok(Outcome::Park(Wake::Signal("word".to_owned())))));
            }
            Some(Turn::ParkApproval) => {
                job.ends = Some((at, Ok(Outcome::Park(Wake::Approval("go on?".to_owned())))));
            }
            Some(Turn::Hang) => {}
            Some(Turn::HangTalking) => job.talks = Some(self.now + TALK_MS),
            Some(other) => job.ends = other.failure().map(|failure| (at, Err(failure))),
        }
        self.jobs.insert(key, job);
        Ok(())
    }

    pub(super) fn stop(&mut self, key: &AttemptKey) {
        let at = self.now + 10;
        if let Some(job) = self.jobs.get_mut(key) {
            job.talks = None;
            let poison = json!({ "out": "poison" });
            let late = match (job.stubborn, &job.ends) {
                // What is given up may still report success; nobody may believe it.
                (true, None) => Some((at + 3000, Ok(Outcome::Done(poison)))),
                (true, Some(_)) => return,
                (false, _) => Some((at, Err(Failure::transient("stopped", "as asked")))),
            };
            job.ends = late;
        }
    }

    /// Lets attempts end, or report, whose time has come.
    pub(super) fn end_jobs(&mut self) -> bool {
        let now = self.now();
        let mut moved = false;
        let talking: Vec<AttemptKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.talks.is_some_and(|at| at <= self.now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in talking {
            let Some(job) = self.jobs.get_mut(&key) else {
                continue;
            };
            job.talks = Some(self.now + TALK_MS);
            let token = job.token.clone();
            let news = News::Progress(Progress::default());
            self.core.report(Report { key, token, news }, now);
            moved = true;
        }
        let due = |job: &Job| job.ends.as_ref().is_some_and(|(at, _)| *at <= self.now);
        let ended: Vec<AttemptKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| due(job))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let Some(job) = self.jobs.remove(&key) else {
                continue;
            };
            let Some((_, result)) = job.ends.clone() else {
                continue;
            };
            let token = job.token.clone();
            self.forge(&key, &token);
            match result {
                Ok(Outcome::Done(value)) if job.payload && value["out"] != "poison" => {
                    self.core.report_payload(&key, &token, payload(&value), now);
                }
                result => {
                    let news = News::Ended(result);
                    let (key, token) = (key.clone(), token.clone());
                    self.core.report(Report { key, token, news }, now);
                }
            }
            // The same news again, from a sender that got no answer.
            let news = News::Ended(Ok(Outcome::Done(json!({ "out": "poison, repeated" }))));
            let report = Report {
                key: key.clone(),
                token,
                news,
            };
            self.core.report(report, now);
            self.unacknowledged.push((key, job));
            moved = true;
        }
        moved
    }

    /// Reports that nobody may believe: a wrong fence, an attempt that is over, another run's.
    fn forge(&mut self, key: &AttemptKey, token: &Token) {
        let now = self.now();
        let wrong = Token::new([0xab; 16]);
        let earlier = AttemptKey {
            attempt: key.attempt.wrapping_sub(1),
            ..key.clone()
        };
        let nobody = AttemptKey {
            run: RunId::new(1, &[7; 10]),
            ..key.clone()
        };
        for (key, token) in [(key.clone(), &wrong), (earlier, token), (nobody, token)] {
            let news = News::Ended(Ok(Outcome::Done(json!({ "out": "poison, forged" }))));
            let token = token.clone();
            self.core.report(Report { key, token, news }, now);
        }
    }
}

/// A pretended payload file holds itself in its hash. What expressions see is known beside it.
fn payload(value: &Value) -> Output {
    let lengths = value["list"].as_array().map(|list| list.len() as u64);
    Output::Payload {
        sha256: value.to_string(),
        bytes: value.to_string().len() as u64,
        artifacts: json!({}),
        known: value.clone(),
        lengths: lengths
            .map(|length| ("list".to_owned(), length))
            .into_iter()
            .collect(),
    }
}

/// The value, read from its payload file if it is in one.
fn filled(value: InputValue) -> Value {
    match value {
        InputValue::Value(value) => value,
        InputValue::Payload { sha256, pointer } => {
            let file: Value = serde_json::from_str(&sha256).unwrap();
            file.pointer(&pointer).cloned().unwrap_or(Value::Null)
        }
        InputValue::Fields(_) => unreachable!("no run here is a batch"),
        InputValue::List(items) => items.into_iter().map(filled).collect(),
    }
}
