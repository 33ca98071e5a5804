//! A stage of one's own: one type, one line in the registry, one table in a workflow file.
//!
//! `cargo run --release --example custom_stage` runs it in an engine in this process, on a journal in
//! memory. In sealflow itself the stage is a file in `stages/src` and a line in its `registry()`.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use sealflow_engine::artifact::Stores;
use sealflow_engine::clock::SystemClock;
use sealflow_engine::dispatcher::{NewRun, Parts, open};
use sealflow_engine::event::By;
use sealflow_engine::executor::{Executor, ExecutorSpec, Machine};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::Subject;
use sealflow_engine::journal::Journal;
use sealflow_engine::resource::{Need, Resources};
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext, StageRegistry, SubjectKind};
use sealflow_engine::testing::MemoryJournal;
use sealflow_engine::workflow::load;
use sealflow_executors::InProcess;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What the stage takes. Fields are wired by their names; their comments become documentation.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Input {
    /// A text.
    text: String,
}

/// What the stage gives.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Output {
    /// How many words the text has.
    words: u64,
}

/// Counts words, and fails for a reason that is worth another try when there are none yet.
struct CountWords;

impl Stage for CountWords {
    const NAME: &'static str = "count_words";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("custom_stage.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        Need {
            cpu: 1,
            memory: 1 << 20,
            ..Need::default()
        }
    }

    async fn run(&self, _: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        match input.text.split_whitespace().count() as u64 {
            0 => Err(Failure::permanent("no_words", "the text is empty")),
            words => Ok(Outcome::Done(Output { words })),
        }
    }
}

const WORKFLOW: &str = r#"
[workflow]
name    = "words"
subject = "text"

[params]
name = "string"
text = "string"

[steps.count_words]
retry = { max_attempts = 2, backoff = "100ms" }
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let text = SubjectKind {
        name: "text",
        params: &[("name", "string")],
        subject: |params| {
            Subject::new(params["name"].as_str().unwrap_or("")).map_err(|error| error.to_string())
        },
    };
    let registry = StageRegistry::default()
        .with_subject(text)
        .with_type::<String>()
        .with(CountWords);
    let registry = Arc::new(registry);

    let (graph, problems) = load(WORKFLOW, &registry);
    let graph = graph.ok_or_else(|| anyhow::anyhow!("{problems:?}"))?;

    let machine = Machine {
        name: "here".to_owned(),
        capacity: Resources {
            cpu: 2,
            memory: 1 << 30,
            ..Resources::default()
        },
    };
    let spec = ExecutorSpec::new("here", machine, 4);
    let executor: Arc<dyn Executor> = Arc::new(InProcess::new(spec, registry.clone(), Stores::default()));
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::default());
    let parts = Parts {
        journal: journal.clone(),
        registry,
        executors: vec![executor],
        clock: Arc::new(SystemClock::default()),
        seed: [7; 32],
    };
    let (dispatcher, handle) = open(parts).await?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(dispatcher.run(stop.clone()));

    let params = json!({ "name": "greeting", "text": "seal, prove, repeat" });
    let run = handle
        .start_run(NewRun {
            graph: Arc::new(graph),
            source: WORKFLOW.to_owned(),
            params,
            key: None,
            priority: None,
            by: By::default(),
        })
        .await?;
    loop {
        let row = journal
            .run(&run)
            .await?
            .ok_or_else(|| anyhow::anyhow!("the run is gone"))?;
        if row.status.is_final() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let steps = journal.steps(&run).await?;
    let output = serde_json::to_string(&steps[0].output)?;
    writeln(&format!(
        "{run}: {} {} {output}",
        steps[0].step,
        steps[0].status.as_str()
    ))?;
    stop.cancel();
    task.await??;
    Ok(())
}

fn writeln(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")
}
