//! What the daemon does beside running steps: archives what ended long ago, and takes scheduled backups.
//! Nothing here can stop a run; what fails is logged loudly and tried again.

use std::sync::Arc;
use std::time::Duration;

use sealflow_executors::log;
use sealflow_storage::journal::{Retention, SurrealJournal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::environment::Context;
use crate::span::now_ms;
use crate::{backup, config};

/// How often a failed backup is tried again, at most.
const AGAIN: Duration = Duration::from_secs(600);

/// Starts the tasks. They end soon after `stop` is cancelled.
pub(crate) fn start(cx: &Context, journal: &Arc<SurrealJournal>, stop: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    // Also where nothing goes by age: what a person archived leaves payloads behind.
    let retention = policy(&cx.config.retention);
    let (kept, ends) = (journal.clone(), stop.clone());
    tasks.spawn(async move {
        ends.run_until_cancelled(retain(&kept, retention)).await;
    });
    let (watched, ends) = (cx.clone(), stop.clone());
    tasks.spawn(async move {
        ends.run_until_cancelled(logs(&watched)).await;
    });
    if cx.config.backup.every.is_some() {
        let (cx, journal, stop) = (cx.clone(), journal.clone(), stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(backups(&cx, &journal)).await;
        });
    }
    tasks
}

/// What programs in child processes said may take so much of the disk.
const LOGS: u64 = 4 << 30;

async fn logs(cx: &Context) {
    loop {
        let folder = cx.home.logs();
        match tokio::task::spawn_blocking(move || log::prune(&folder, LOGS)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(runs)) => tracing::info!(runs, "logs of old runs removed"),
            Ok(Err(error)) => tracing::warn!(%error, "logs of old runs cannot be removed"),
            Err(error) => tracing::warn!(%error, "logs of old runs cannot be removed"),
        }
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

/// What the configuration says of retention.
pub(crate) fn policy(config: &config::Retention) -> Retention {
    Retention {
        archive_after: config.archive_after.map(|span| span.0),
        delete_archives_after: config.delete_archives_after.map(|span| span.0),
    }
}

/// How long between two passes: often enough that nothing stays much longer than it should.
fn pause(policy: Retention) -> Duration {
    let spans = [policy.archive_after, policy.delete_archives_after];
    let shortest = spans.into_iter().flatten().min().unwrap_or(Duration::MAX);
    (shortest / 10).clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

async fn retain(journal: &SurrealJournal, policy: Retention) {
    loop {
        tokio::time::sleep(pause(policy)).await;
        match journal.retain(policy, now_ms()).await {
            Ok(done) if done.archived + done.removed + done.swept.files > 0 => tracing::info!(
                archived = done.archived,
                removed = done.removed,
                kept_for_artifacts = done.kept,
                payloads_removed = done.swept.files,
                "retention"
            ),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "retention failed; it is tried again"),
        }
    }
}

/// How long until the next backup is due.
fn due(every: Duration, taken_at: Option<u64>, now: u64) -> Duration {
    let Some(taken_at) = taken_at else {
        return Duration::ZERO;
    };
    // A clock that was set back makes no backup wait for longer than one span.
    every.saturating_sub(Duration::from_millis(now.saturating_sub(taken_at)))
}

async fn backups(cx: &Context, journal: &SurrealJournal) {
    let Some(every) = cx.config.backup.every else {
        return;
    };
    loop {
        let taken_at = backup::Record::read(&cx.home).taken_at;
        tokio::time::sleep(due(every.0, taken_at, now_ms())).await;
        match backup::take(cx, journal, now_ms()).await {
            Ok(file) => tracing::info!(file = %file.display(), "backup taken"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "THE BACKUP FAILED; it is tried again. `sealflow doctor` shows it too"
                );
                tokio::time::sleep(every.0.min(AGAIN)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_come_often_enough_and_not_too_often() {
        let after = |secs| Retention {
            archive_after: Some(Duration::from_secs(secs)),
            delete_archives_after: None,
        };
        assert_eq!(pause(after(1)), Duration::from_secs(1));
        assert_eq!(pause(after(600)), Duration::from_secs(60));
        assert_eq!(pause(after(90 * 86_400)), Duration::from_secs(3600));
    }

    #[test]
    fn backups_are_due_by_the_last_one_that_succeeded() {
        let hour = Duration::from_secs(3600);
        assert_eq!(due(hour, None, 5), Duration::ZERO);
        assert_eq!(due(hour, Some(1_000), 1_001_000), Duration::from_secs(2600));
        assert_eq!(due(hour, Some(1_000), 9_000_000), Duration::ZERO);
        assert_eq!(due(hour, Some(9_000_000), 1_000), hour);
    }
}
