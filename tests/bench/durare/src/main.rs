//! Chains of steps that do nothing, on durare with SQLite. Its own setting, `synchronous = NORMAL`, loses acknowledged steps
//! at a power cut; here it is FULL, so that every step is on disk before the next one starts, as with the others.
//! Usage: bench-durare FILE RUNS STEPS CONCURRENCY. Prints one JSON object.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use durare::{DurableContext, DurableEngine, SqliteProvider, WorkflowOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::Semaphore;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[durare::step]
async fn nothing(ctx: &DurableContext, at: u32) -> durare::Result<u32> {
    Ok(at)
}

#[durare::workflow]
async fn chain(ctx: DurableContext, steps: u32) -> durare::Result<u32> {
    for at in 0..steps {
        nothing(&ctx, at).await?;
    }
    Ok(steps)
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("FILE RUNS STEPS CONCURRENCY");
    let file = next()?;
    let (runs, steps, concurrency): (u32, u32, usize) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let options = SqliteConnectOptions::from_str(&format!("sqlite://{file}"))?
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(60));
    let pool = SqlitePoolOptions::new().max_connections(5).connect_with(options).await?;
    let engine = Arc::new(DurableEngine::new(Arc::new(SqliteProvider::from_pool(pool.clone()))).await?);

    let room = Arc::new(Semaphore::new(concurrency));
    let begun = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for run in 0..runs {
        let permit = room.clone().acquire_owned().await?;
        let engine = engine.clone();
        all.spawn(async move {
            let id = WorkflowOptions::with_id(format!("run-{run}"));
            let done = engine.start_with(Chain, steps, id).await?.await?;
            drop(permit);
            durare::Result::Ok(done)
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (counted,): (i64,) = sqlx::query_as("SELECT count(*) FROM operation_outputs").fetch_one(&pool).await?;
    let wanted = i64::from(runs) * i64::from(steps);
    if counted != wanted {
        return Err(format!("{counted} of {wanted} steps are in the database").into());
    }
    let rate = wanted as f64 / seconds;
    println!(
        "{}",
        serde_json::json!({
            "engine": "durare", "version": "0.5.0", "load": { "runs": runs, "steps": steps, "concurrency": concurrency },
            "seconds": seconds, "steps_per_second": rate,
            "durability": "SQLite, WAL, synchronous=FULL; every step is committed before the next one starts",
        })
    );
    Ok(())
}
