//! Where work is done: executors of the daemon's own process, which die with it, and machines that fall
//! silent, come back with what they did meanwhile, or come back with nothing.

use serde_json::{Value, json};

use super::flows::{POISON, works};
use super::world::World;
use crate::core::Dispatch;
use crate::executor::{ExecutorSpec, Machine, News, Report, SUSPECT_AFTER_MS, machine_of};
use crate::failure::Failure;
use crate::id::{AttemptKey, Token};
use crate::resource::Resources;
use crate::run::InputValue;
use crate::stage::{Outcome, Verdict, Wake};

/// How often a machine gives a sign of life.
const SIGN_MS: u64 = 5000;

/// How a machine stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Standing {
    /// It is registered, and gives its next sign of life then.
    Here(u64),
    /// It works on, but nobody hears of it until then.
    CutOff(u64),
    /// Its work is gone; it comes back then.
    Dead(u64),
    /// The daemon was started again: it registers then.
    Returns(u64),
}

impl Standing {
    fn due(self) -> u64 {
        match self {
            Self::Here(at) | Self::CutOff(at) | Self::Dead(at) | Self::Returns(at) => at,
        }
    }
}

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) name: String,
    pub(super) standing: Standing,
    /// When the present daemon last heard of it.
    pub(super) heard: Option<u64>,
}

/// An attempt at work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) executor: String,
    pub(super) ends: u64,
    pub(super) result: Result<Outcome<Value>, Failure>,
    /// It has ended, and keeps its result until somebody takes it.
    pub(super) told: bool,
}

pub(super) fn own() -> Vec<ExecutorSpec> {
    vec![ExecutorSpec::new("main", machine("here", 3, 5), 3)]
}

fn machine(name: &str, cpu: u32, memory: u64) -> Machine {
    let capacity = Resources {
        cpu,
        memory,
        ..Resources::default()
    };
    let name = name.to_owned();
    Machine { name, capacity }
}

pub(super) fn slots(executor: &str) -> usize {
    if machine_of(executor).is_some() { 2 } else { 3 }
}

impl World {
    /// An attempt begins.
    pub(super) fn begin(&mut self, dispatch: Dispatch) {
        let now = self.now();
        let Dispatch {
            executor,
            key,
            token,
            stage,
            many,
            input,
            ..
        } = dispatch;
        let remote = machine_of(&executor);
        let reached = remote.is_none_or(|name| self.is_here(name));
        if !self.core.begin(&key, &token, now) {
            let news = News::Lost("it was stopped before it started".to_owned());
            self.core.report(Report { key, token, news }, now);
            return;
        }
        if !reached {
            // The command never arrives; the machine does not know of it when it is back.
            self.stats.count("a command got lost");
            return;
        }
        let input = InputValue::Fields(input).at_hand().unwrap();
        let result = self.result(&key, stage.as_str(), many, &input);
        let job = Job {
            token,
            executor,
            ends: self.now + self.dice.below(8000),
            result,
            told: false,
        };
        self.jobs.insert(key, job);
    }

    fn result(
        &mut self,
        key: &AttemptKey,
        stage: &str,
        many: bool,
        input: &Value,
    ) -> Result<Outcome<Value>, Failure> {
        // What was tried a few times succeeds.
        let shaky = key.attempt <= 4;
        if shaky && self.dice.one_in(8) {
            return Err(Failure::transient("shaky", "try again"));
        }
        if shaky && self.dice.one_in(30) {
            return Err(Failure::permanent("wrong", "look at it"));
        }
        if shaky && self.dice.one_in(12) {
            let wake = Wake::At(self.now().wall_ms + 1000 + self.dice.below(5000));
            self.stats.count("parked");
            return Ok(Outcome::Park(wake));
        }
        if !many {
            let number = works(stage, input).unwrap();
            return Ok(Outcome::Done(json!({ "number": number })));
        }
        self.stats.count("batch");
        let members = input["members"].as_array().unwrap().clone();
        if members.len() > 1 {
            self.stats.count("batch of several");
        }
        let serves = self.store.runs[&key.run].fold().unwrap().members;
        let verdicts = members.iter().zip(serves).map(|(member, served)| {
            if served.key.attempt <= 3 && self.dice.one_in(6) {
                self.stats.count("a member failed alone");
                return Verdict::Failed(Failure::transient("shaky", "this one only"));
            }
            Verdict::Done(json!({ "number": works(stage, member).unwrap() }))
        });
        let verdicts: Vec<Verdict> = verdicts.collect();
        Ok(Outcome::Done(json!({ "verdicts": verdicts })))
    }

    fn is_here(&self, name: &str) -> bool {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.is_some_and(|machine| matches!(machine.standing, Standing::Here(_)))
    }

    fn reached(&self, executor: &str) -> bool {
        machine_of(executor).is_none_or(|name| self.is_here(name))
    }

    /// An attempt is asked to stop; of one that is out of reach nobody hears the request.
    pub(super) fn stop(&mut self, key: &AttemptKey) {
        let at = self.now + 10;
        let stubborn = self.dice.one_in(4);
        let superseded = self.store.runs.get(&key.run).is_some_and(|logged| {
            let state = logged.fold().unwrap();
            let current = state.find(&key.step).and_then(|ix| state.current_key(ix));
            current.as_ref() != Some(key)
        });
        let reached = |job: &Job| machine_of(&job.executor).is_none_or(|name| self.is_here(name));
        let reached = self.jobs.get(key).is_some_and(reached);
        let Some(job) = self.jobs.get_mut(key).filter(|_| reached) else {
            return;
        };
        if stubborn {
            // It goes on; of one that was superseded nobody may believe what it reports.
            if superseded {
                job.ends = at + 4000;
                job.result = Ok(Outcome::Done(json!({ "number": POISON })));
            }
        } else {
            job.ends = at;
            job.result = Err(Failure::transient("stopped", "as asked"));
        }
        job.told = false;
    }

    /// Whether an attempt is still known where it was; if it has ended, it is reported again.
    pub(super) fn attach(&mut self, executor: &str, key: &AttemptKey, token: &Token) {
        let known = self.reached(executor);
        let job = self.jobs.get_mut(key).filter(|job| job.token == *token && known);
        if let Some(job) = job {
            self.stats.count("adopted");
            job.told = false;
            return;
        }
        let now = self.now();
        let (key, token) = (key.clone(), token.clone());
        let news = News::Lost("not there any more".to_owned());
        self.core.report(Report { key, token, news }, now);
    }

    /// Lets attempts end whose time has come and who can be heard.
    pub(super) fn end_jobs(&mut self) -> bool {
        let due = |job: &Job| !job.told && job.ends <= self.now && self.reached(&job.executor);
        let due: Vec<AttemptKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| due(job))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &due {
            let now = self.now();
            let Some(job) = self.jobs.get_mut(key) else {
                continue;
            };
            job.told = true;
            let (token, result) = (job.token.clone(), job.result.clone());
            let report = |token: Token, news| Report {
                key: key.clone(),
                token,
                news,
            };
            let poison = || News::Ended(Ok(Outcome::Done(json!({ "number": POISON }))));
            // Somebody who never had the attempt says that it is done.
            if self.core.report(report(Token::new([0xab; 16]), poison()), now) {
                self.wrong.push(format!("{key}: a forged report counts"));
            }
            let counts = self.core.report(report(token.clone(), News::Ended(result)), now);
            self.stats.count(if counts {
                "result taken"
            } else {
                "late result refused"
            });
            // The same news again, from a sender that got no answer.
            self.core.report(report(token, poison()), now);
        }
        !due.is_empty()
    }

    /// Forgets results that are durable, and those that nobody wants.
    pub(super) fn acknowledge(&mut self) -> Result<(), String> {
        let told = self.jobs.iter().filter(|(_, job)| job.told);
        let told: Vec<AttemptKey> = told.map(|(key, _)| key.clone()).collect();
        for key in told {
            let Some(logged) = self.store.runs.get(&key.run) else {
                continue;
            };
            let state = logged.fold()?;
            let current = state.find(&key.step).and_then(|ix| state.current_key(ix));
            let awaited = state.discarding.values().any(|gone| gone.key == key);
            if current.as_ref() != Some(&key) && !awaited {
                self.jobs.remove(&key);
            }
        }
        Ok(())
    }

    /// Machines give signs of life, fall silent, die and come back.
    pub(super) fn machines_move(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.machines.len() {
            if self.machines[at].standing.due() > self.now {
                continue;
            }
            moved = true;
            let name = self.machines[at].name.clone();
            let standing = match self.machines[at].standing {
                Standing::Here(_) => self.sign_of_life(at, &name),
                Standing::CutOff(_) | Standing::Dead(_) | Standing::Returns(_) => {
                    self.register(at, &name);
                    Standing::Here(self.now + SIGN_MS)
                }
            };
            self.machines[at].standing = standing;
        }
        moved
    }

    fn sign_of_life(&mut self, at: usize, name: &str) -> Standing {
        let now = self.now();
        let away = [3000, 15_000, 60_000][usize::try_from(self.dice.below(3)).unwrap()];
        let until = self.now + away;
        if !self.is_calm() && self.dice.one_in(12) {
            match self.dice.below(3) {
                0 => {
                    self.stats.count("machine froze");
                    let on_it = |job: &&mut Job| machine_of(&job.executor) == Some(name) && !job.told;
                    for job in self.jobs.values_mut().filter(on_it) {
                        job.ends += away;
                    }
                    return Standing::CutOff(until);
                }
                1 => {
                    self.stats.count("machine cut off");
                    return Standing::CutOff(until);
                }
                _ => {
                    self.stats.count("machine died");
                    self.jobs.retain(|_, job| machine_of(&job.executor) != Some(name));
                    if self.dice.one_in(2) {
                        self.stats.count("machine said goodbye");
                        self.core.leave(name, now);
                        self.machines[at].heard = None;
                    }
                    return Standing::Dead(until);
                }
            }
        }
        self.core.heard(name, now);
        self.machines[at].heard = Some(self.now);
        Standing::Here(self.now + SIGN_MS)
    }

    fn register(&mut self, at: usize, name: &str) {
        let silent = self.machines[at]
            .heard
            .is_some_and(|heard| self.now - heard > SUSPECT_AFTER_MS);
        self.stats.count(if silent {
            "a suspect came back"
        } else {
            "machine joined"
        });
        let machine = machine(name, 2, 4);
        let executor = format!("all@{name}");
        let spec = ExecutorSpec::new(executor.as_str(), machine.clone(), slots(&executor));
        self.core.join(machine, vec![spec], self.now());
        self.machines[at].heard = Some(self.now);
    }

    /// When machines or attempts have something to say next.
    pub(super) fn next_word(&self) -> Option<u64> {
        let jobs = self.jobs.values();
        let jobs = jobs.filter(|job| !job.told && self.reached(&job.executor));
        let ends = jobs.map(|job| job.ends);
        ends.chain(self.machines.iter().map(|machine| machine.standing.due()))
            .min()
    }
}
