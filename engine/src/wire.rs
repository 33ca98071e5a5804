//! Stages whose computing can be done by another process. Such a stage is in three parts: what is made ready
//! here, a pure computation from a task to an answer, and what is checked, made durable and published here. In
//! the process the three run one after the other; a child process or another machine runs the middle one.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureClass};
use crate::stage::{DynResult, Outcome, Progress, Stage, StageContext, decode, encode};

/// Whose messages a stage's task and answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Those of the crate `vc-processors` 0.2, as vendors' programs for Damocles speak them.
    Damocles,
    /// Our own, for stages that have no message there.
    Sealflow,
}

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This process.
    Here,
    /// Another program, which knows nothing but the task.
    Away {
        /// Whether its PC1 goes on behind whole layers that it finds, and gives a layer its name when it is
        /// whole. If not it gets a folder without layers.
        resume_layers: bool,
    },
}

/// What comes next in an attempt.
#[derive(Debug)]
pub enum Next<S: WireStage> {
    /// Nothing: this is how it ended.
    End(Outcome<S::Output>),
    /// The task is to be computed.
    Compute {
        /// What the computation is told.
        task: S::Task,
        /// What is kept here until its answer comes, for example a lock.
        held: S::Held,
    },
}

/// A stage with a wire form.
pub trait WireStage: Stage + Clone {
    /// Whose messages these are.
    const DIALECT: Dialect;
    /// Whether [`WireStage::watch`] does anything.
    const WATCHES: bool = false;
    /// What the computation is told. Its JSON is the `task` of the protocol.
    type Task: Serialize + DeserializeOwned + Send + 'static;
    /// What the computation gives. Its JSON is the `output` of the protocol.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
    /// What is kept here meanwhile.
    type Held: Send + Sync + 'static;

    /// Makes folders and files ready, and says what is to be computed.
    fn prepare(
        &self,
        cx: &StageContext,
        input: &Arc<Self::Input>,
        place: Place,
    ) -> impl Future<Output = Result<Next<Self>, Failure>> + Send;

    /// Looks at the files while the computation goes on, until `stop` is set. Runs on a thread that may block.
    ///
    /// # Errors
    /// The attempt fails when the computation has ended.
    fn watch(
        &self,
        cx: &StageContext,
        input: &Self::Input,
        held: &Self::Held,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        let _ = (cx, input, held, stop);
        Ok(())
    }

    /// Computes. It knows nothing but the task: no run, no stores. Runs on a thread that may block.
    ///
    /// # Errors
    /// The computation fails.
    fn compute(&self, task: Self::Task, reporter: &Reporter) -> Result<Self::Answer, Failure>;

    /// Checks the answer, makes its files durable and publishes them; or asks for more to be computed. Whoever
    /// computed may have been wrong or have lied: what counts afterwards was looked at here. Runs on a thread
    /// that may block.
    ///
    /// # Errors
    /// The answer is not what was asked for.
    fn finish(
        &self,
        cx: &StageContext,
        input: &Self::Input,
        held: Self::Held,
        answer: Self::Answer,
    ) -> Result<Next<Self>, Failure>;
}

/// What a computation may tell, and ask, while it runs.
#[derive(Clone)]
pub struct Reporter {
    tell: Arc<dyn Fn(Progress) + Send + Sync>,
    cancel: CancellationToken,
}

impl Reporter {
    /// One that nobody listens to.
    pub fn silent() -> Self {
        Self {
            tell: Arc::new(|_| {}),
            cancel: CancellationToken::new(),
        }
    }

    /// One that speaks for an attempt in this process.
    pub fn of(cx: &StageContext) -> Self {
        let of = cx.clone();
        Self {
            tell: Arc::new(move |progress| of.progress(progress)),
            cancel: cx.cancel.clone(),
        }
    }

    /// Tells how far it is.
    pub fn progress(&self, progress: Progress) {
        (self.tell)(progress);
    }

    /// Whether the work is still wanted.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// Runs all three parts in this process.
///
/// # Errors
/// As the parts.
pub async fn in_process<S: WireStage>(
    stage: &S,
    cx: &StageContext,
    input: S::Input,
) -> Result<Outcome<S::Output>, Failure> {
    drive(stage, cx, input, Computer::Here).await
}

/// Who computes, and how to reach them.
#[derive(Clone, Copy)]
enum Computer<'a> {
    Here,
    Away { who: &'a dyn Away, resume_layers: bool },
}

impl Computer<'_> {
    fn place(self) -> Place {
        match self {
            Self::Here => Place::Here,
            Self::Away { resume_layers, .. } => Place::Away { resume_layers },
        }
    }

    async fn compute<S: WireStage>(
        self,
        stage: &S,
        cx: &StageContext,
        task: S::Task,
    ) -> Result<S::Answer, Failure> {
        match self {
            Self::Here => {
                let (stage, reporter) = (stage.clone(), Reporter::of(cx));
                cx.blocking(move || stage.compute(task, &reporter)).await
            }
            Self::Away { who, .. } => {
                // Large, so not on a thread that others wait for.
                let text = cx.blocking(move || task_text::<S>(&task)).await?;
                let answer = who.compute(text).await?;
                cx.blocking(move || answer_of::<S>(&answer)).await
            }
        }
    }
}

/// Sets the flag when it goes out of scope: a thread that looks at it ends, however the attempt does.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

async fn drive<S: WireStage>(
    stage: &S,
    cx: &StageContext,
    input: S::Input,
    computer: Computer<'_>,
) -> Result<Outcome<S::Output>, Failure> {
    let input = Arc::new(input);
    let mut next = stage.prepare(cx, &input, computer.place()).await?;
    loop {
        let (task, held) = match next {
            Next::End(outcome) => return Ok(outcome),
            Next::Compute { task, held } => (task, held),
        };
        let compute = computer.compute(stage, cx, task);
        let (held, answer) = if S::WATCHES {
            watched(stage, cx, &input, held, compute).await?
        } else {
            (held, compute.await?)
        };
        let (stage2, cx2, input2) = (stage.clone(), cx.clone(), input.clone());
        let finish = move || stage2.finish(&cx2, &input2, held, answer);
        next = cx.blocking(finish).await?;
    }
}

/// Computes while another thread looks at the files.
async fn watched<S: WireStage>(
    stage: &S,
    cx: &StageContext,
    input: &Arc<S::Input>,
    held: S::Held,
    compute: impl Future<Output = Result<S::Answer, Failure>>,
) -> Result<(S::Held, S::Answer), Failure> {
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let (stage, cx2, input, flag) = (stage.clone(), cx.clone(), input.clone(), stop.0.clone());
    let watcher = tokio::task::spawn_blocking(move || {
        let result = stage.watch(&cx2, &input, &held, &flag);
        (held, result)
    });
    let answer = compute.await;
    drop(stop);
    let (held, watched) = watcher.await.map_err(crate::stage::panicked)?;
    let answer = answer?;
    watched?;
    Ok((held, answer))
}

/// Someone who computes tasks elsewhere.
pub trait Away: Send + Sync {
    /// Has a task computed: JSON in, JSON out.
    fn compute(&self, task: String) -> Pin<Box<dyn Future<Output = Result<String, Failure>> + Send + '_>>;
}

/// The object-safe twin of [`WireStage`].
pub trait DynWire: Send + Sync + 'static {
    /// Whose messages these are.
    fn dialect(&self) -> Dialect;

    /// Runs an attempt whose computing `away` does.
    fn run_away<'a>(
        &'a self,
        cx: &'a StageContext,
        input: Value,
        resume_layers: bool,
        away: &'a dyn Away,
    ) -> Pin<Box<dyn Future<Output = DynResult> + Send + 'a>>;

    /// Computes a task here: JSON in, JSON out. Blocks.
    ///
    /// # Errors
    /// A task that is none, or the computation fails.
    fn compute(&self, task: &str, reporter: &Reporter) -> Result<String, Failure>;
}

impl<S: WireStage> DynWire for S {
    fn dialect(&self) -> Dialect {
        S::DIALECT
    }

    fn run_away<'a>(
        &'a self,
        cx: &'a StageContext,
        input: Value,
        resume_layers: bool,
        away: &'a dyn Away,
    ) -> Pin<Box<dyn Future<Output = DynResult> + Send + 'a>> {
        Box::pin(async move {
            let input = decode::<S>(input)?;
            let computer = Computer::Away {
                who: away,
                resume_layers,
            };
            encode::<S>(drive(self, cx, input, computer).await?)
        })
    }

    fn compute(&self, task: &str, reporter: &Reporter) -> Result<String, Failure> {
        let task = serde_json::from_str(task)
            .map_err(|error| Failure::permanent("bad_task", format!("task of `{}`: {error}", S::NAME)))?;
        let answer = WireStage::compute(self, task, reporter)?;
        serde_json::to_string(&answer)
            .map_err(|error| Failure::permanent("bad_output", format!("output of `{}`: {error}", S::NAME)))
    }
}

fn task_text<S: WireStage>(task: &S::Task) -> Result<String, Failure> {
    serde_json::to_string(task)
        .map_err(|error| Failure::permanent("bad_task", format!("task of `{}`: {error}", S::NAME)))
}

fn answer_of<S: WireStage>(answer: &str) -> Result<S::Answer, Failure> {
    serde_json::from_str(answer).map_err(|error| {
        let text = format!("the program answered `{}` with something else: {error}", S::NAME);
        Failure::transient("bad_answer", text)
    })
}

/// The failure that a program's `err_msg` tells of. One that begins like ours, `code (class): …`, keeps its code
/// and class; of anything else nothing is known, so it is tried again.
pub fn failure_of(err_msg: &str) -> Failure {
    let told = || {
        let (head, message) = err_msg.split_once("): ")?;
        let (code, class) = head.split_once(" (")?;
        let slug = !code.is_empty()
            && code.len() <= 64
            && code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let class = match class {
            "transient" => FailureClass::Transient,
            "permanent" => FailureClass::Permanent,
            "critical" => FailureClass::Critical,
            _ => return None,
        };
        slug.then(|| {
            let failure = Failure::new(class, "", message);
            Failure {
                code: Cow::Owned(code.to_owned()),
                ..failure
            }
        })
    };
    told().unwrap_or_else(|| Failure::transient("program_failed", err_msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_class_over_the_wire() {
        let ours = Failure::permanent("no_permission", "open /x: denied");
        let told = failure_of(&ours.to_string());
        assert_eq!(told, ours);
        for other in [
            "open staged file: /x\n\nCaused by:\n    no",
            "",
            "Bad Code (permanent): x",
            "x (rewind): y",
        ] {
            let failure = failure_of(other);
            assert_eq!(
                (failure.code.as_ref(), failure.class),
                ("program_failed", FailureClass::Transient)
            );
            assert_eq!(failure.message, other);
        }
    }
}
