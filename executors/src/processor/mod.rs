//! Runs attempts in child processes that speak the ext-processor protocol: vendors' programs, or our own
//! `processor` command with other settings. The stage makes ready, checks and publishes here; the child only
//! computes. A child serves any number of requests at once, so how many there are is up to admission.

mod cgroup;
mod child;
pub mod launch;
mod line;
mod placement;
mod pool;
mod settings;
mod tree;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealflow_engine::artifact::Stores;
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Report, Reports};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, Token};
use sealflow_engine::stage::{StageContext, StageRegistry, panicked};
use sealflow_engine::wire::Away;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use cgroup::join_named;
pub use placement::{Placement, parse as parse_cpus};
pub use settings::{OnMissing, Restart, SIDE_DAEMON, STAGE, Settings};

use crate::log::{Log, attempt_log};
use child::{Cause, End};
use pool::Pool;

type Running = Arc<Mutex<BTreeMap<AttemptKey, CancellationToken>>>;

/// An executor whose attempts run in children.
pub struct ExtProcessor {
    spec: ExecutorSpec,
    registry: Arc<StageRegistry>,
    stores: Stores,
    pool: Arc<Pool>,
    running: Running,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ExtProcessor {
    /// An executor that runs the stages of `registry` on artifacts in `stores`. Side daemons are started at once;
    /// other children when there is something to do. Needs a runtime.
    pub fn new(spec: ExecutorSpec, settings: Settings, registry: Arc<StageRegistry>, stores: Stores) -> Self {
        // Its attempts may be ended at any time, because a process can be.
        let spec = ExecutorSpec {
            killable: true,
            ..spec
        };
        let pool = Pool::new(spec.name.clone(), settings);
        pool.clone().keep_side_daemons();
        Self {
            spec,
            registry,
            stores,
            pool,
            running: Running::default(),
        }
    }
}

/// The way of one attempt to its child.
struct Wire<'a> {
    pool: &'a Arc<Pool>,
    stage: &'a str,
    gpus: Option<Vec<u8>>,
    cancel: CancellationToken,
    log: Arc<Log>,
    /// Set when the attempt ended through no fault of the work.
    lost: Mutex<Option<String>>,
}

impl Away for Wire<'_> {
    fn compute(&self, task: String) -> Pin<Box<dyn Future<Output = Result<String, Failure>> + Send + '_>> {
        Box::pin(async move {
            let stopped = || Failure::transient("stopped", "asked to stop");
            let child = tokio::select! {
                child = self.pool.child(self.stage, self.gpus.clone(), self.log.clone()) => child?,
                () = self.cancel.cancelled() => return Err(stopped()),
            };
            let (id, mut answer) = child.compute(task, self.log.clone()).await;
            let settings = self.pool.settings();
            let answer = tokio::select! {
                answer = &mut answer => answer,
                () = self.cancel.cancelled() => {
                    child.stop(Cause::Stopped(id), settings.stop_grace).await;
                    answer.await
                }
                text = pool::silent(&child, settings.silence) => {
                    child.stop(Cause::Fault("child_silent", text), settings.stop_grace).await;
                    answer.await
                }
            };
            match answer {
                Ok(Ok(output)) => {
                    self.pool.answered();
                    Ok(output)
                }
                Ok(Err(End::Failed(failure))) => {
                    self.log.line("us ", failure.to_string().as_bytes());
                    if !child.is_alive() {
                        self.pool.failed_by(&child, &failure);
                    }
                    Err(failure)
                }
                Ok(Err(End::Lost(why))) => {
                    *locked(&self.lost) = Some(why.clone());
                    Err(Failure::transient("lost", why))
                }
                Err(_) => Err(Failure::transient("child_died", "the child is gone")),
            }
        })
    }
}

impl Executor for ExtProcessor {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    fn start(&self, job: Job, reports: Reports) {
        let cancel = CancellationToken::new();
        match locked(&self.running).entry(job.key.clone()) {
            // It runs already, with the token that stops it.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(cancel.clone()),
        };
        let (running, registry, stores) = (self.running.clone(), self.registry.clone(), self.stores.clone());
        let pool = self.pool.clone();
        let span = tracing::info_span!("attempt", run = %job.key.run, step = %job.key.step, attempt = job.key.attempt);
        let task = async move {
            let (key, token) = (job.key.clone(), job.token.clone());
            let run = run(pool, registry, stores, job, cancel, reports.clone()).in_current_span();
            // A task of its own, so that a panic ends there.
            let news = match tokio::spawn(run).await {
                Ok(news) => news,
                Err(error) => News::Ended(Err(panicked(error))),
            };
            locked(&running).remove(&key);
            reports.send(Report { key, token, news }).await;
        };
        drop(tokio::spawn(task.instrument(span)));
    }

    fn stop(&self, key: &AttemptKey) {
        if let Some(cancel) = locked(&self.running).get(key) {
            cancel.cancel();
        }
    }

    /// Children end with this process, and attempts with them.
    fn attach(&self, key: &AttemptKey, _: &Token, _: &Reports) -> bool {
        locked(&self.running).contains_key(key)
    }

    fn notes(&self) -> Vec<String> {
        self.pool.notes()
    }

    fn resume(&self) -> bool {
        self.pool.resume()
    }
}

async fn run(
    pool: Arc<Pool>,
    registry: Arc<StageRegistry>,
    stores: Stores,
    job: Job,
    cancel: CancellationToken,
    reports: Reports,
) -> News {
    let Job {
        key,
        token,
        subject,
        stage,
        many,
        input,
        held,
    } = job;
    let Some(wire) = registry.wire(stage.as_str()).filter(|_| !many).cloned() else {
        let text = format!("stage `{stage}` has no wire form that a child could compute");
        return News::Ended(Err(Failure::permanent("no_wire_form", text)));
    };
    let offer = {
        let (key, token) = (key.clone(), token.clone());
        move |progress| {
            reports.offer(Report {
                key: key.clone(),
                token: token.clone(),
                news: News::Progress(progress),
            });
        }
    };
    let settings = pool.settings();
    let gpus = match held.gpus.is_empty() {
        true => settings.gpus.clone(),
        false => Some(held.gpus.iter().collect()),
    };
    let away = Wire {
        pool: &pool,
        stage: stage.as_str(),
        gpus,
        cancel: cancel.clone(),
        log: Arc::new(Log::new(attempt_log(&settings.logs, &key))),
        lost: Mutex::default(),
    };
    let cx = StageContext::new(key, subject, stores, cancel, offer);
    let result = wire.run_away(&cx, input, settings.resume_layers, &away).await;
    match (result, locked(&away.lost).take()) {
        (Err(_), Some(why)) => News::Lost(why),
        (result, _) => News::Ended(result),
    }
}
