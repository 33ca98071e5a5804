//! What connects us with one machine: the attempts that it was given, and the way to tell it. Contact comes and goes; the
//! attempts stay.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealflow_engine::artifact::Artifact;
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Report, Reports};
use sealflow_engine::id::{AttemptKey, StageName, Token};
use sealflow_engine::stage::Progress;
use sealflow_executor::v1;
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::Status;

use super::convert;
use crate::log::{Log, attempt_log};

/// Orders that wait to be sent. A machine that lets so many pile up is not in contact.
pub(super) const QUEUE: usize = 4096;

pub(super) type Orders = mpsc::Sender<Result<v1::Order, Status>>;

/// An attempt that a machine has.
pub(super) struct Assigned {
    token: Token,
    /// What it is of, once we know: an attempt that it had before our restart is only listed.
    pub(super) work: Option<(StageName, bool)>,
    /// The order to start it, until we know that it was taken.
    order: Option<Box<v1::Start>>,
    /// Its input, for what it fetches.
    input: Value,
    log: Option<Kept>,
}

/// The log of an attempt, as far as it came.
struct Kept {
    log: Log,
    /// The next byte. What comes a second time is before it.
    next: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) session: String,
    pub(super) incarnation: String,
    orders: Option<Orders>,
    assigned: BTreeMap<AttemptKey, Assigned>,
    /// What it said that it has when it registered.
    listed: BTreeMap<AttemptKey, Token>,
    reports: Option<Reports>,
}

/// The link with a machine.
pub(super) struct Link {
    pub(super) machine: String,
    state: Mutex<State>,
}

fn order(what: v1::order::What) -> v1::Order {
    v1::Order { what: Some(what) }
}

impl Link {
    pub(super) fn new(machine: &str) -> Self {
        Self {
            machine: machine.to_owned(),
            state: Mutex::default(),
        }
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine registers, with these attempts. What an earlier process of it had and this one does not list is gone.
    pub(super) fn register(&self, session: &str, incarnation: &str, listed: BTreeMap<AttemptKey, Token>) {
        let mut state = self.locked();
        if state.incarnation != incarnation {
            state.assigned.retain(|key, _| listed.contains_key(key));
        }
        session.clone_into(&mut state.session);
        incarnation.clone_into(&mut state.incarnation);
        state.orders = None;
        state.listed = listed;
    }

    /// Nobody wants these any more.
    pub(super) fn forget(&self, keys: &[AttemptKey]) {
        let mut state = self.locked();
        for key in keys {
            state.assigned.remove(key);
            state.listed.remove(key);
        }
    }

    /// All attempts that it was given.
    pub(super) fn all(&self) -> Vec<(AttemptKey, Token)> {
        let state = self.locked();
        let assigned = state.assigned.iter();
        assigned
            .map(|(key, one)| (key.clone(), one.token.clone()))
            .collect()
    }

    /// The machine takes orders from here on; what it was given and does not have is ordered again.
    pub(super) fn attend(&self, orders: Orders) {
        let mut state = self.locked();
        let State { assigned, listed, .. } = &*state;
        let missing = assigned.iter().filter(|(key, _)| !listed.contains_key(*key));
        let missing: Vec<v1::Start> = missing
            .filter_map(|(_, one)| one.order.as_deref().cloned())
            .collect();
        state.orders = Some(orders);
        for start in missing {
            state.tell(order(v1::order::What::Start(start)));
        }
    }

    /// Asks the machine to end when nothing runs there any more.
    pub(super) fn drain(&self) {
        self.locked().tell(order(v1::order::What::Drain(v1::Drain {})));
    }

    /// Asks the machine for the bytes of an artifact in its scratch space, or of a log. Says whether there is contact.
    pub(super) fn ask_for(&self, transfer: &str, artifact: v1::Artifact, from: u64) -> bool {
        let what = v1::SendOrder {
            transfer: transfer.to_owned(),
            artifact: Some(artifact),
            from,
        };
        let mut state = self.locked();
        state.tell(order(v1::order::What::Send(what)));
        state.orders.is_some()
    }

    /// Whether an attempt that it was given takes this artifact.
    pub(super) fn takes(&self, key: &AttemptKey, token: &Token, artifact: &Artifact) -> bool {
        let state = self.locked();
        let assigned = state.assigned.get(key).filter(|one| one.token == *token);
        assigned.is_some_and(|one| convert::names(&one.input, artifact))
    }

    /// What a report is about, if the machine was given that.
    pub(super) fn work(&self, key: &AttemptKey) -> Option<(StageName, bool)> {
        self.locked().assigned.get(key)?.work.clone()
    }

    /// The machine tells what an attempt logged. Says whether it was given that.
    pub(super) fn log(&self, key: &AttemptKey, log: &v1::Log, folder: &Path) -> bool {
        let mut state = self.locked();
        let listed = state.listed.contains_key(key);
        let Some(assigned) = state.assigned.get_mut(key) else {
            return listed;
        };
        let kept = assigned.log.get_or_insert_with(|| Kept {
            log: Log::new(attempt_log(folder, key)),
            // After our restart it is not known how much of it is here.
            next: log.offset,
        });
        if kept.next < log.offset {
            let lost = log.offset - kept.next;
            kept.log.line(
                "sealflow",
                format!("{lost} bytes are lost: contact was away too long").as_bytes(),
            );
        }
        let known = usize::try_from(kept.next.saturating_sub(log.offset)).unwrap_or(usize::MAX);
        if let Some(new) = log.text.get(known..).filter(|new| !new.is_empty()) {
            kept.log.text(new);
            kept.next = log.offset + log.text.len() as u64;
        }
        true
    }

    /// The machine says how far an attempt is. Says whether it was given that.
    pub(super) fn progress(&self, key: &AttemptKey, progress: Progress) -> bool {
        let mut state = self.locked();
        let reports = state.reports.clone();
        // What it only listed is asked for in a moment.
        let listed = state.listed.contains_key(key);
        let Some(assigned) = state.assigned.get_mut(key) else {
            return listed;
        };
        assigned.order = None;
        if let Some(reports) = reports {
            let (key, token) = (key.clone(), assigned.token.clone());
            let news = News::Progress(progress);
            reports.offer(Report { key, token, news });
        }
        true
    }
}

impl State {
    /// Sends an order, if there is contact. What is not sent is ordered again when the machine is back.
    fn tell(&mut self, order: v1::Order) {
        if let Some(orders) = &self.orders
            && orders.try_send(Ok(order)).is_err()
        {
            self.orders = None;
        }
    }
}

/// One executor of a machine.
pub(super) struct RemoteExecutor {
    pub(super) spec: ExecutorSpec,
    pub(super) link: Arc<Link>,
}

impl Executor for RemoteExecutor {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    fn start(&self, job: Job, reports: Reports) {
        let Job {
            key,
            token,
            subject,
            stage,
            many,
            input,
            held,
        } = job;
        let bytes = convert::input(input, &self.link.machine);
        let input = serde_json::from_slice(&bytes).unwrap_or_default();
        let version = self.spec.versions.get(&stage).copied().unwrap_or_default();
        let (name, _) = self.spec.name.rsplit_once('@').unwrap_or((&self.spec.name, ""));
        let start = v1::Start {
            attempt: Some(convert::attempt(&key, &token)),
            executor: name.to_owned(),
            subject: subject.to_string(),
            stage: stage.to_string(),
            version,
            many,
            input: bytes.into(),
            held: Some(convert::resources(held)),
        };
        let mut state = self.link.locked();
        if state.assigned.contains_key(&key) {
            return;
        }
        state.reports = Some(reports);
        let assigned = Assigned {
            token,
            work: Some((stage, many)),
            order: Some(Box::new(start.clone())),
            input,
            log: None,
        };
        state.assigned.insert(key, assigned);
        state.tell(order(v1::order::What::Start(start)));
    }

    fn stop(&self, key: &AttemptKey) {
        let mut state = self.link.locked();
        let Some(assigned) = state.assigned.get_mut(key) else {
            return;
        };
        assigned.order = None;
        let attempt = Some(convert::attempt(key, &assigned.token));
        let stop = v1::Stop {
            attempt,
            superseded: false,
        };
        state.tell(order(v1::order::What::Stop(stop)));
    }

    fn attach(&self, key: &AttemptKey, token: &Token, reports: &Reports) -> bool {
        let mut state = self.link.locked();
        let listed = state.listed.get(key) == Some(token);
        let known = state.assigned.get(key).is_some_and(|one| one.token == *token);
        if listed && !known {
            let assigned = Assigned {
                token: token.clone(),
                work: None,
                order: None,
                input: Value::Null,
                log: None,
            };
            state.assigned.insert(key.clone(), assigned);
        }
        state.reports = Some(reports.clone());
        listed || known
    }
}
