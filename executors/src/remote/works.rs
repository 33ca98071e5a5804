//! The executors of this machine as what a worker offers to a daemon elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealflow_engine::artifact::{Artifact, Stores};
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Reports};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, StageName, Subject, Token};
use sealflow_engine::resource::Resources;
use sealflow_engine::stage::{Outcome, Progress, StageRegistry};
use sealflow_executor::{Context, End, Handler, v1};
use tokio::sync::mpsc;

use super::{LOGS, convert};
use crate::inputs::{self, Fetch, Fetching};
use crate::log::{Tail, attempt_log, executor_log};

/// Runs what a daemon orders on executors of this machine.
pub struct Works {
    executors: BTreeMap<String, Arc<dyn Executor>>,
    stores: Stores,
    logs: PathBuf,
}

impl Works {
    /// Takes the executors, and the folder where their programs' logs are.
    pub fn new(executors: Vec<Arc<dyn Executor>>, stores: Stores, logs: PathBuf) -> Self {
        let named = executors.into_iter().map(|one| (one.spec().name.clone(), one));
        Self {
            executors: named.collect(),
            stores,
            logs,
        }
    }

    /// What they offer.
    pub fn offers(&self, registry: &StageRegistry) -> Vec<v1::Offer> {
        self.executors
            .values()
            .map(|one| offer(one.spec(), registry))
            .collect()
    }
}

fn offer(spec: &ExecutorSpec, registry: &StageRegistry) -> v1::Offer {
    let stages = registry.iter().filter(|info| spec.accepts(&info.name));
    let stages = stages.map(|info| v1::StageVersion {
        stage: info.name.to_string(),
        version: spec.versions.get(&info.name).copied().unwrap_or(info.version),
    });
    v1::Offer {
        name: spec.name.clone(),
        stages: stages.collect(),
        concurrency: u32::try_from(spec.slots).unwrap_or(u32::MAX),
        gpus: spec.gpus.iter().map(u32::from).collect(),
        locks: spec.locks.clone(),
        stagger_ms: spec.stagger_ms,
        killable: spec.killable,
        claims: Some(v1::Claims {
            cpu: spec.claims.cpu,
            memory: spec.claims.memory,
            disk: spec.claims.disk,
            gpus: spec.claims.gpus,
        }),
    }
}

/// What a machine has, as the contract says it.
pub fn capacity(capacity: Resources) -> v1::Resources {
    let disk = (capacity.disk != u64::MAX).then_some(capacity.disk);
    v1::Resources {
        disk,
        ..convert::resources(capacity)
    }
}

/// The order as the engine's executors take it.
fn job(job: sealflow_executor::Job) -> Result<(AttemptKey, Token, Job), String> {
    let (key, token) = convert::key(Some(&job.attempt))?;
    let input =
        serde_json::from_slice(&job.input).map_err(|error| format!("the input is not JSON: {error}"))?;
    let made = Job {
        key: key.clone(),
        token: token.clone(),
        subject: Subject::new(&job.subject).map_err(|error| error.to_string())?,
        stage: StageName::new(&job.stage).map_err(|error| error.to_string())?,
        many: job.many,
        input,
        held: Resources {
            cpu: job.held.cpu,
            memory: job.held.memory,
            disk: job.held.disk.unwrap_or_default(),
            gpus: job
                .held
                .gpus
                .iter()
                .filter_map(|gpu| u8::try_from(*gpu).ok())
                .collect(),
        },
    };
    Ok((key, token, made))
}

fn failed(failure: Failure) -> End {
    End::Failed(sealflow_executor::Failure {
        class: failure.class.as_str(),
        code: failure.code.into_owned(),
        message: failure.message,
    })
}

fn progress(progress: Progress) -> v1::Progress {
    v1::Progress {
        phase: progress.phase,
        done: progress.done,
        total: progress.total,
        unit: progress.unit,
        estimate_seconds: progress.estimate_seconds,
    }
}

fn encoded<T: serde::Serialize>(value: &T, end: impl FnOnce(Vec<u8>) -> End) -> End {
    match serde_json::to_vec(value) {
        Ok(bytes) => end(bytes),
        Err(error) => failed(Failure::permanent("bad_output", error.to_string())),
    }
}

/// Fetches what one attempt takes.
struct Through(Context);

impl Fetch for Through {
    fn fetch<'a>(&'a self, artifact: &'a Artifact, to: &'a Path) -> Fetching<'a> {
        let wanted = convert::from_artifact(artifact);
        Box::pin(async move {
            let fetched = self.0.fetch(wanted, to).await;
            let what = |why| format!("{} in {}: {why}", artifact.key, artifact.store);
            fetched.map_err(|why| Failure::transient("artifact_unreachable", what(why)))
        })
    }
}

/// How often what a program said is looked for.
const LOOK: Duration = Duration::from_millis(500);

impl Handler for Works {
    fn open(&self, artifact: &v1::Artifact) -> Result<PathBuf, String> {
        if artifact.store == LOGS {
            let name = artifact.key.strip_prefix("executors/");
            let name = name.and_then(|name| name.strip_suffix(".log"));
            let known = name.filter(|name| self.executors.contains_key(*name));
            let known = known.ok_or("there is no such log")?;
            return Ok(executor_log(&self.logs, known));
        }
        let artifact = convert::to_artifact(artifact.clone());
        self.stores
            .local_path(&artifact)
            .map_err(|error| error.to_string())
    }

    async fn run(&self, ordered: sealflow_executor::Job, cx: Context) -> End {
        let Some(executor) = self.executors.get(&ordered.executor) else {
            return End::Lost(format!(
                "this machine has no executor `{}` any more",
                ordered.executor
            ));
        };
        let (key, _, mut job) = match job(ordered) {
            Ok(job) => job,
            Err(why) => return failed(Failure::permanent("bad_order", why)),
        };
        let through = Through(cx.clone());
        let brought = tokio::select! {
            brought = inputs::bring(&mut job, &self.stores, &through) => brought,
            () = cx.cancelled().cancelled() => return End::Lost("stopped before it began".to_owned()),
        };
        if let Err(failure) = brought {
            return failed(failure);
        }
        let (sender, mut reports) = mpsc::channel(64);
        let mut said = Tail::new(attempt_log(&self.logs, &key));
        executor.start(job, Reports::new(sender));
        let mut stopped = false;
        let mut look = tokio::time::interval(LOOK);
        loop {
            let report = tokio::select! {
                report = reports.recv() => report,
                _ = look.tick() => {
                    cx.log(&said.more());
                    continue;
                }
                () = cx.cancelled().cancelled(), if !stopped => {
                    stopped = true;
                    executor.stop(&key);
                    continue;
                }
            };
            let news = report.map(|report| report.news);
            if !matches!(news, Some(News::Progress(_))) {
                cx.log(&said.more());
            }
            match news {
                Some(News::Progress(news)) => cx.progress(progress(news)),
                Some(News::Ended(Ok(Outcome::Done(value)))) => return encoded(&value, End::Done),
                Some(News::Ended(Ok(Outcome::Park(wake)))) => return encoded(&wake, End::Park),
                Some(News::Ended(Err(failure))) => return failed(failure),
                Some(News::Lost(why)) => return End::Lost(why),
                None => return End::Lost("its executor ended without a word".to_owned()),
            }
        }
    }
}
