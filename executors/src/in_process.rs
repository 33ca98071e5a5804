//! Runs attempts in this process: for light stages, small sectors and a warm prover. Each attempt is a
//! task; its blocking parts run on the runtime's pool, which admission keeps within bounds. A panic
//! becomes a failure. A computation in the proofs library cannot be interrupted: a stopped attempt
//! keeps what it holds until the computation returns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sealflow_engine::artifact::Stores;
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Report, Reports};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, Token};
use sealflow_engine::stage::{StageContext, StageRegistry, panic_text};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

type Running = Arc<Mutex<BTreeMap<AttemptKey, CancellationToken>>>;

/// The executor in this process.
pub struct InProcess {
    spec: ExecutorSpec,
    registry: Arc<StageRegistry>,
    stores: Stores,
    running: Running,
}

impl InProcess {
    /// An executor that runs the stages of `registry` on artifacts in `stores`.
    pub fn new(spec: ExecutorSpec, registry: Arc<StageRegistry>, stores: Stores) -> Self {
        Self {
            spec,
            registry,
            stores,
            running: Running::default(),
        }
    }
}

fn locked(running: &Running) -> std::sync::MutexGuard<'_, BTreeMap<AttemptKey, CancellationToken>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor for InProcess {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    fn start(&self, job: Job, reports: Reports) {
        let cancel = CancellationToken::new();
        if locked(&self.running)
            .insert(job.key.clone(), cancel.clone())
            .is_some()
        {
            return;
        }
        let (running, registry, stores) = (self.running.clone(), self.registry.clone(), self.stores.clone());
        let span = tracing::info_span!("attempt", run = %job.key.run, step = %job.key.step, attempt = job.key.attempt);
        let task = async move {
            let Job {
                key,
                token,
                subject,
                stage,
                input,
                ..
            } = job;
            let offer = {
                let (key, token, reports) = (key.clone(), token.clone(), reports.clone());
                move |progress| {
                    reports.offer(Report {
                        key: key.clone(),
                        token: token.clone(),
                        news: News::Progress(progress),
                    });
                }
            };
            let cx = StageContext::new(key.clone(), subject, stores, cancel, offer);
            let result = match registry.stage(&stage).cloned() {
                // A task of its own, so that a panic ends there.
                Some(stage) => {
                    let run = async move { stage.run(&cx, input).await }.in_current_span();
                    match tokio::spawn(run).await {
                        Ok(result) => result,
                        Err(error) => Err(panicked(error)),
                    }
                }
                None => Err(Failure::permanent(
                    "unknown_stage",
                    format!("this program has no stage `{stage}`"),
                )),
            };
            locked(&running).remove(&key);
            reports
                .send(Report {
                    key,
                    token,
                    news: News::Ended(result),
                })
                .await;
        };
        drop(tokio::spawn(task.instrument(span)));
    }

    fn stop(&self, key: &AttemptKey) {
        if let Some(cancel) = locked(&self.running).get(key) {
            cancel.cancel();
        }
    }

    /// Attempts in this process end with it.
    fn attach(&self, key: &AttemptKey, _: &Token, _: &Reports) -> bool {
        locked(&self.running).contains_key(key)
    }
}

fn panicked(error: tokio::task::JoinError) -> Failure {
    let text = match error.try_into_panic() {
        Ok(payload) => panic_text(&*payload),
        Err(error) => error.to_string(),
    };
    Failure::permanent(
        "panicked",
        format!("{text}; this is a bug of the stage, please report it"),
    )
}
