//! A journal that is watched: what it commits, when, and which runs have ended by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sealflow_engine::event::{Entry, Event};
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{
    ArtifactRow, Batch, Journal, JournalError, JournalFuture, OpenRun, RunFilter, StoredGraph,
};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::site::SiteEntry;
use sealflow_storage::journal::SurrealJournal;
use tokio::sync::{Notify, Semaphore};

use super::noop::Starts;

/// A run's step.
pub(super) type Place = (RunId, String);

/// A journal that is watched.
pub(super) struct Observed {
    journal: Arc<SurrealJournal>,
    commits: AtomicU64,
    /// When each success was durable.
    durable: Mutex<Vec<(Place, Instant)>>,
    /// Runs that ended or came to rest.
    settled: AtomicUsize,
    room: Semaphore,
    progress: Notify,
}

impl Observed {
    pub(super) fn new(journal: Arc<SurrealJournal>, concurrency: usize) -> Self {
        Self {
            journal,
            commits: AtomicU64::new(0),
            durable: Mutex::default(),
            settled: AtomicUsize::new(0),
            room: Semaphore::new(concurrency),
            progress: Notify::new(),
        }
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until another run may be open.
    pub(super) async fn room(&self) {
        // It is given back when a run ends; the semaphore is never closed.
        if let Ok(permit) = self.room.acquire().await {
            permit.forget();
        }
    }

    /// How often a run ended or came to rest.
    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Acquire)
    }

    /// Waits until that happened so often.
    pub(super) async fn until_settled(&self, runs: usize) {
        while self.settled() < runs {
            let progress = self.progress.notified();
            if self.settled() < runs {
                progress.await;
            }
        }
    }

    /// Ends when nothing was committed for so long.
    pub(super) async fn stalled(&self, after: Duration) -> Duration {
        loop {
            let before = self.commits();
            tokio::time::sleep(after).await;
            if self.commits() == before {
                return after;
            }
        }
    }

    pub(super) async fn close(&self) -> Result<(), JournalError> {
        self.journal.close().await
    }

    /// For each success the time from its start, and for each start the time from the success before it; in
    /// milliseconds.
    pub(super) fn latencies(&self, starts: &Starts) -> (Vec<f64>, Vec<f64>) {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let durable: HashMap<&Place, Instant> = durable.iter().map(|(place, at)| (place, *at)).collect();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (mut latency, mut handoff) = (Vec::new(), Vec::new());
        for (place, at) in starts.all() {
            if let Some(done) = durable.get(&place) {
                latency.push(ms(done.saturating_duration_since(at)));
            }
            let before = super::noop::before(&place.1).map(|step| (place.0.clone(), step));
            if let Some(done) = before.and_then(|place| durable.get(&place).copied()) {
                handoff.push(ms(at.saturating_duration_since(done)));
            }
        }
        (latency, handoff)
    }

    fn committed(&self, batch: &Batch) {
        let now = Instant::now();
        self.commits.fetch_add(1, Ordering::Relaxed);
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        for (run, entry) in &batch.entries {
            for event in &entry.events {
                if let Event::AttemptSucceeded { step, .. } = event {
                    durable.push(((run.clone(), step.to_string()), now));
                }
            }
        }
        drop(durable);
        let settled = |(_, row): &&(u64, RunRow)| row.status.is_final() || row.rest.is_some();
        let settled = batch.runs.values().filter(settled).count();
        if settled > 0 {
            self.settled.fetch_add(settled, Ordering::Release);
            self.room.add_permits(settled);
            self.progress.notify_one();
        }
    }
}

impl Journal for Observed {
    fn commit<'a>(&'a self, batch: &'a Batch) -> JournalFuture<'a, ()> {
        Box::pin(async move {
            self.journal.commit(batch).await?;
            self.committed(batch);
            Ok(())
        })
    }

    fn site_tail(&self, limit: u32) -> JournalFuture<'_, Vec<SiteEntry>> {
        self.journal.site_tail(limit)
    }

    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>> {
        self.journal.run(run)
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>> {
        self.journal.runs(filter)
    }

    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>> {
        self.journal.open_runs()
    }

    fn open_histories<'a>(&'a self, after: Option<&'a RunId>, limit: u32) -> JournalFuture<'a, Vec<OpenRun>> {
        self.journal.open_histories(after, limit)
    }

    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>> {
        self.journal.steps(run)
    }

    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>> {
        self.journal.entries(run, from, limit)
    }

    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>> {
        self.journal.graph(hash)
    }

    fn artifacts<'a>(&'a self, subject: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>> {
        self.journal.artifacts(subject)
    }

    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>> {
        self.journal.find_key(key)
    }

    fn put_payload<'a>(&'a self, bytes: &'a [u8]) -> JournalFuture<'a, String> {
        self.journal.put_payload(bytes)
    }

    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>> {
        self.journal.payload(sha256)
    }
}
