//! The children of one executor: which one takes a task, when a dead one is started again, and when it is enough.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealflow_engine::failure::Failure;
use sealflow_engine::stage::panicked;
use tokio::time::Instant;

use super::cgroup::{self, Host, Wanted};
use super::child::{Child, Counts, Start};
use super::settings::{OnMissing, SIDE_DAEMON, Settings};
use crate::log::{Log, executor_log};

/// A stage, and the GPUs that its children see.
type Kind = (String, Option<Vec<u8>>);

/// A place for one child.
#[derive(Default)]
struct Slot {
    /// Held while a child is started, so that others wait for that one.
    child: tokio::sync::Mutex<Option<Arc<Child>>>,
    /// The same child, to be looked at without waiting.
    seen: Mutex<Option<Arc<Child>>>,
}

/// The children of one executor.
pub(super) struct Pool {
    name: String,
    settings: Settings,
    host: Host,
    /// What this host cannot give of the placement.
    lacking: Vec<String>,
    slots: Mutex<BTreeMap<Kind, Vec<Arc<Slot>>>>,
    counts: Arc<Counts>,
    health: Mutex<Health>,
    log: Arc<Log>,
}

/// Counts the children of this process: no two share their control groups.
static SERIAL: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
struct Health {
    /// Deaths since the last answer.
    deaths: u32,
    /// No child is started before.
    not_before: Option<Instant>,
    /// Why it refuses, until somebody says that it may be used again.
    broken: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(name: String, settings: Settings) -> Arc<Self> {
        let log = Arc::new(Log::new(executor_log(&settings.logs, &name)));
        let host = Host::find();
        host.sweep();
        let lacking = lacking(&host, &name, &settings);
        if !lacking.is_empty() {
            let what = lacking.join(", ");
            tracing::warn!(executor = name, what, on_missing = ?settings.on_missing, "this host cannot confine children as asked");
        }
        Arc::new(Self {
            name,
            settings,
            host,
            lacking,
            slots: Mutex::default(),
            counts: Arc::default(),
            health: Mutex::default(),
            log,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The child that has the least to do, started if it does not run.
    pub(super) async fn child(
        self: &Arc<Self>,
        stage: &str,
        gpus: Option<Vec<u8>>,
        log: Arc<Log>,
    ) -> Result<Arc<Child>, Failure> {
        let (pool, stage) = (self.clone(), stage.to_owned());
        // A task of its own: an attempt that does not wait any longer leaves no child half started.
        let start = tokio::spawn(async move { pool.find(&stage, gpus.as_deref(), &log).await });
        start.await.map_err(panicked)?
    }

    async fn find(&self, stage: &str, gpus: Option<&[u8]>, log: &Log) -> Result<Arc<Child>, Failure> {
        let slot = self.least_loaded((stage.to_owned(), gpus.map(<[u8]>::to_vec)));
        let mut place = slot.child.lock().await;
        if let Some(child) = place.as_ref().filter(|child| child.is_alive()) {
            return Ok(child.clone());
        }
        if let Some(old) = place.take() {
            // It is being stopped: its processors and its GPU are free when it has ended.
            old.wait_end().await;
        }
        self.may_start(log).await?;
        let start = Start {
            stage,
            executor: &self.name,
            gpus,
            settings: &self.settings,
            host: &self.host,
            log: self.log.clone(),
            counts: self.counts.clone(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        };
        match Child::start(start).await {
            Ok(child) => {
                if !child.missing().is_empty() {
                    let text = child.missing().join(", ");
                    tracing::warn!(
                        executor = self.name,
                        lacking = text,
                        "a child is less confined than asked"
                    );
                }
                *locked(&slot.seen) = Some(child.clone());
                *place = Some(child.clone());
                Ok(child)
            }
            Err(failure) => {
                self.failed(&failure);
                Err(failure)
            }
        }
    }

    fn least_loaded(&self, kind: Kind) -> Arc<Slot> {
        let mut slots = locked(&self.slots);
        let of_kind = slots.entry(kind).or_default();
        while of_kind.len() < self.settings.children.max(1) {
            of_kind.push(Arc::default());
        }
        // One that is being started has the most to do: nobody knows how long it takes.
        let load = |slot: &&Arc<Slot>| match slot.child.try_lock() {
            Ok(child) => child
                .as_ref()
                .filter(|child| child.is_alive())
                .map_or(0, |child| child.load()),
            Err(_) => usize::MAX,
        };
        of_kind.iter().min_by_key(load).cloned().unwrap_or_default()
    }

    /// Waits until a child may be started.
    async fn may_start(&self, log: &Log) -> Result<(), Failure> {
        let until = {
            let health = locked(&self.health);
            if let Some(why) = &health.broken {
                return Err(self.refuse(why));
            }
            health.not_before
        };
        if let Some(until) = until.filter(|until| *until > Instant::now()) {
            let left = until.duration_since(Instant::now());
            log.line("us ", format!("the next child is started in {left:?}").as_bytes());
            tokio::time::sleep_until(until).await;
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> Failure {
        let text = format!(
            "{why}; when that is mended: sealflow executor resume {}",
            self.name
        );
        Failure::critical("executor_broken", text)
    }

    /// A child gave an answer: it works.
    pub(super) fn answered(&self) {
        let mut health = locked(&self.health);
        health.deaths = 0;
        health.not_before = None;
    }

    /// Takes note of how a child failed a request. Of all requests that its end fails one counts.
    pub(super) fn failed_by(&self, child: &Child, failure: &Failure) {
        if !child.counted.swap(true, Ordering::Relaxed) {
            self.failed(failure);
        }
    }

    /// Takes note of a failure; only those of a child itself count.
    pub(super) fn failed(&self, failure: &Failure) {
        let own = [
            "child_died",
            "child_not_ready",
            "child_not_started",
            "protocol_fault",
            "child_silent",
            "out_of_memory",
        ];
        if !own.contains(&failure.code.as_ref()) {
            return;
        }
        let mut health = locked(&self.health);
        health.deaths = health.deaths.saturating_add(1);
        let pause = self.settings.restart.pause(health.deaths);
        health.not_before = Some(Instant::now() + pause);
        if health.deaths >= self.settings.restart.give_up_after && !self.settings.side_daemon {
            let why = format!(
                "executor `{}` refuses: its children died {} times without one answer, at last: {}",
                self.name, health.deaths, failure.message
            );
            tracing::error!(executor = self.name, why, "an executor refuses");
            self.log.line("us ", why.as_bytes());
            health.broken = Some(why);
        }
    }

    /// Whether it had refused.
    pub(super) fn resume(&self) -> bool {
        std::mem::take(&mut *locked(&self.health)).broken.is_some()
    }

    /// What people should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!("runs `{}`", self.settings.command.join(" "))];
        notes.extend(locked(&self.health).broken.clone());
        let then = match self.settings.on_missing {
            OnMissing::Refuse if self.settings.placement.needs_groups() => "nothing runs here",
            _ => "children run without",
        };
        notes.extend(
            self.lacking
                .iter()
                .map(|what| format!("this host lacks {what}: {then}")),
        );
        for ((stage, gpus), slots) in &*locked(&self.slots) {
            for slot in slots {
                let Some(child) = locked(&slot.seen).clone() else {
                    continue;
                };
                let gpus = gpus
                    .as_ref()
                    .map(|gpus| format!(", GPUs {gpus:?}"))
                    .unwrap_or_default();
                let state = match child.is_alive().then(|| child.pid()).flatten() {
                    Some(pid) => format!("pid {pid}, {} open", child.load()),
                    None => "not running".to_owned(),
                };
                notes.push(format!("child for {stage}: {state}{gpus}"));
                notes.extend(
                    child
                        .missing()
                        .iter()
                        .map(|what| format!("not confined by {what}")),
                );
            }
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        notes.push(format!(
            "{} answers, {} children ended, {} lines that are no answers, {} answers that nobody asked for",
            count(&counts.answers),
            count(&counts.deaths),
            count(&counts.noise),
            count(&counts.unknown_ids)
        ));
        notes.push(format!("log: {}", self.log.path().display()));
        notes
    }

    /// Starts side daemons, and starts them again whenever they end.
    pub(super) fn keep_side_daemons(self: Arc<Self>) {
        if !self.settings.side_daemon {
            return;
        }
        let keep = async move {
            loop {
                match self
                    .child(SIDE_DAEMON, self.settings.gpus.clone(), self.log.clone())
                    .await
                {
                    Ok(child) => {
                        let began = Instant::now();
                        let text = child.wait_end().await;
                        if began.elapsed() > self.settings.restart.most {
                            self.answered();
                        }
                        self.failed(&Failure::transient("child_died", text));
                    }
                    Err(failure) => {
                        tracing::warn!(executor = self.name, %failure, "a side daemon does not run");
                        // One that the host refuses has no pause of its own.
                        tokio::time::sleep(self.settings.restart.first).await;
                    }
                }
            }
        };
        drop(tokio::spawn(keep));
    }
}

/// What the host cannot give, found out before there is a child.
fn lacking(host: &Host, name: &str, settings: &Settings) -> Vec<String> {
    let wanted = settings.placement.wanted();
    if wanted == Wanted::default() {
        return Vec::new();
    }
    let groups = host.make(&format!("{name}.{}.0", std::process::id()), &wanted);
    groups.dirs.iter().for_each(|dir| cgroup::remove(dir));
    groups.missing
}

/// Ends when a child has done nothing for that long; never if no time is given.
pub(super) async fn silent(child: &Child, limit: Option<Duration>) -> String {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let (mut last, mut since) = (child.activity(), Instant::now());
    loop {
        tokio::time::sleep(limit / 10).await;
        let now = child.activity();
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() >= limit {
            return format!("for {limit:?} it neither computed nor read nor wrote");
        }
    }
}
