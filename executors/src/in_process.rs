//! Runs attempts in this process: for light stages, small sectors and a warm prover. Each attempt is a
//! task; its blocking parts run on the runtime's pool, which admission keeps within bounds. A panic
//! becomes a failure. A computation in the proofs library cannot be interrupted: a stopped attempt
//! keeps what it holds until the computation returns.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use sealflow_engine::artifact::Stores;
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Report, Reports};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, Token};
use sealflow_engine::stage::{StageContext, StageRegistry, panicked};
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
        match locked(&self.running).entry(job.key.clone()) {
            // It runs already, with the token that stops it.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(cancel.clone()),
        };
        let (running, registry, stores) = (self.running.clone(), self.registry.clone(), self.stores.clone());
        let span = tracing::info_span!("attempt", run = %job.key.run, step = %job.key.step, attempt = job.key.attempt);
        let task = async move {
            let Job {
                key,
                token,
                subject,
                stage,
                many,
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
            let result = match registry.work(&stage, many).cloned() {
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

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use sealflow_engine::executor::Machine;
    use sealflow_engine::id::{RunId, StageName, StepName, Subject};
    use sealflow_engine::resource::{Need, Resources};
    use sealflow_engine::stage::{Claim, Outcome, Stage};
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Input {
        how: String,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Output {}

    struct Ends;

    impl Stage for Ends {
        const NAME: &'static str = "ends";
        const VERSION: u32 = 1;
        const SOURCE: &'static str = "//! Ends as it is told.";
        const CLAIM: Claim = Claim::None;
        type Input = Input;
        type Output = Output;

        fn costs(&self, _: &Value) -> Need {
            Need::default()
        }

        async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
            match input.how.as_str() {
                "panic" => panic!("it broke"),
                "panic in a computation" => cx.blocking(|| panic!("it broke there")).await,
                "stop" => {
                    cx.cancel.cancelled().await;
                    Err(Failure::transient("stopped", "asked to"))
                }
                _ => Ok(Outcome::Done(Output {})),
            }
        }
    }

    fn executor() -> InProcess {
        let machine = Machine {
            name: "test".to_owned(),
            capacity: Resources::default(),
        };
        let spec = ExecutorSpec::new("test", machine, 1);
        InProcess::new(
            spec,
            Arc::new(StageRegistry::default().with(Ends)),
            Stores::default(),
        )
    }

    fn job(how: &str) -> Job {
        Job {
            key: AttemptKey {
                run: RunId::new(1, &[0; 10]),
                step: StepName::new("ends").unwrap(),
                visit: 1,
                attempt: 1,
            },
            token: Token::new([1; 16]),
            subject: Subject::new("x").unwrap(),
            stage: StageName::new("ends").unwrap(),
            many: false,
            input: json!({ "how": how }),
            held: Resources::default(),
        }
    }

    async fn end_of(how: &str, stop: bool) -> Result<Outcome<Value>, Failure> {
        let (sender, mut reports) = mpsc::channel(8);
        let executor = executor();
        executor.start(job(how), Reports::new(sender.clone()));
        // Starting the same attempt again changes nothing.
        executor.start(job(how), Reports::new(sender));
        if stop {
            assert!(executor.attach(&job(how).key, &job(how).token, &Reports::new(mpsc::channel(1).0)));
            executor.stop(&job(how).key);
        }
        let report = reports.recv().await.unwrap();
        assert!(reports.recv().await.is_none(), "an attempt ends once");
        match report.news {
            News::Ended(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn panics_become_failures_and_nothing_else_breaks() {
        for how in ["panic", "panic in a computation"] {
            let failure = end_of(how, false).await.unwrap_err();
            assert_eq!(failure.code, "panicked");
            assert!(failure.message.contains("it broke"), "{failure}");
        }
        assert_eq!(end_of("well", false).await.unwrap(), Outcome::Done(json!({})));
    }

    #[tokio::test]
    async fn a_stopped_attempt_still_ends_with_one_report() {
        assert_eq!(end_of("stop", true).await.unwrap_err().code, "stopped");
    }

    #[tokio::test]
    async fn a_stage_that_is_not_there_fails() {
        let (sender, mut reports) = mpsc::channel(8);
        let executor = executor();
        let job = Job {
            stage: StageName::new("other").unwrap(),
            ..job("well")
        };
        executor.start(job, Reports::new(sender));
        let News::Ended(Err(failure)) = reports.recv().await.unwrap().news else {
            panic!("it ran")
        };
        assert_eq!(failure.code, "unknown_stage");
    }
}
