//! Daemons that share a journal: waiting for one's turn, and holding the lease while it lasts. docs/standby.md tells
//! operators about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sealflow_engine::journal::JournalError;
use sealflow_engine::stage::StageRegistry;
use sealflow_storage::journal::{OpenError, OpenOptions, SurrealJournal, stand_by};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::read;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::home::Listening;
use crate::machine::Profile;
use crate::{output, wire};

/// What a daemon that shares its journal must not have.
///
/// # Errors
/// Its files would not be seen by the others, or its executors would work in a folder that only this machine has.
pub(crate) fn check(cx: &Context) -> anyhow::Result<()> {
    let wrong = |text: String, hint: &str| Err(CliError::new(Kind::Config, text).hint(hint).into());
    if cx.config.journal.files.is_none() {
        return wrong(
            "[journal] standby = true, but `files` is not set".to_owned(),
            "name a folder that all daemons of the journal reach, for example on NFS",
        );
    }
    let registry = wire::registry(cx);
    let profile = read(&cx.home.machine(), Profile::parse)?;
    let bound = bound(&registry, &profile)?;
    if !bound.is_empty() {
        return wrong(
            format!(
                "[journal] standby = true, and executors of machine.toml do {}: work in this machine's scratch folder, \
                 which the daemon that takes over does not have",
                bound.join(", ")
            ),
            "leave these stages to `sealflow worker`, which outlives the daemon, and give [executors.NAME] only other `stages`",
        );
    }
    Ok(())
}

/// The stages among those of the profile's executors that leave files on the machine.
fn bound(registry: &Arc<StageRegistry>, profile: &Profile) -> anyhow::Result<Vec<String>> {
    let executors = profile.executors(registry)?;
    let here = registry.iter().filter(|info| info.bound);
    let here = here.filter(|info| executors.iter().any(|(spec, _)| spec.accepts(&info.name)));
    Ok(here.map(|info| info.name.to_string()).collect())
}

/// Opens the journal when it is this daemon's turn.
pub(crate) async fn in_turn(
    cx: &Context,
    url: &str,
    options: OpenOptions,
) -> Result<SurrealJournal, OpenError> {
    let told = std::sync::Mutex::new(None);
    let heard = |holder: &str| {
        let Ok(active) = serde_json::from_str::<Listening>(holder) else {
            return;
        };
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.as_ref() == Some(&active.url) {
            return;
        }
        output::note(&format!("standing by for the daemon at {}", active.url));
        tracing::info!(url = active.url, "standing by");
        *told = Some(active.url.clone());
        // Commands of this home ask the one that decides.
        let listening = Listening {
            pid: std::process::id(),
            standby: true,
            ..active
        };
        if let Err(error) = cx.home.set_listening(Some(&listening)) {
            tracing::warn!(%error, "commands of this home do not find the daemon that decides");
        }
    };
    loop {
        let after = stand_by(url, &options, cx.config.journal.takeover.0, &heard).await?;
        let options = OpenOptions {
            after,
            ..options.clone()
        };
        match SurrealJournal::open(url, options).await {
            Err(OpenError::Followed { .. }) => {}
            opened => {
                if let Err(error) = cx.home.set_listening(None) {
                    tracing::warn!(%error, "where this daemon listens");
                }
                return opened;
            }
        }
    }
}

/// The lease of this daemon, as long as it says that it is there.
pub(crate) struct Lease {
    holder: watch::Sender<String>,
    task: Option<JoinHandle<anyhow::Error>>,
    journal: Arc<SurrealJournal>,
}

impl Lease {
    /// Says from now on that this daemon is there, a few times in `term`. Only journals on servers can be shared.
    pub(crate) fn hold(journal: &Arc<SurrealJournal>, term: Duration) -> Self {
        let (holder, said) = watch::channel(String::new());
        let task = journal
            .is_shared()
            .then(|| tokio::spawn(beat(journal.clone(), term, said)));
        Self {
            holder,
            task,
            journal: journal.clone(),
        }
    }

    /// Where this daemon listens, for those who stand by.
    pub(crate) fn listens(&self, listening: &Listening) {
        if let Ok(text) = serde_json::to_string(listening) {
            self.holder.send_replace(text);
        }
    }

    /// Waits until the lease is lost.
    pub(crate) async fn lost(&mut self) -> anyhow::Error {
        match &mut self.task {
            Some(task) => task.await.unwrap_or_else(anyhow::Error::new),
            None => std::future::pending().await,
        }
    }

    /// Gives it back.
    pub(crate) async fn end(self) {
        if let Some(task) = self.task {
            task.abort();
            if let Err(error) = self.journal.release().await {
                tracing::warn!(%error, "the lease was not given back; others wait for its end");
            }
        }
    }
}

/// Ends when the lease is lost: taken over, or perhaps, because nothing was heard of the journal for as long as others wait.
async fn beat(journal: Arc<SurrealJournal>, term: Duration, said: watch::Receiver<String>) -> anyhow::Error {
    let mut last = Instant::now();
    loop {
        let holder = said.borrow().clone();
        // A request that gets no answer must not be waited for longer than others wait for us.
        let left = term.saturating_sub(last.elapsed());
        match tokio::time::timeout(left, journal.beat(&holder)).await {
            Ok(Ok(())) => last = Instant::now(),
            Ok(Err(error @ JournalError::Fenced(_))) => {
                return anyhow::Error::new(error)
                    .context("another daemon decides now; this one can stand by again");
            }
            Ok(Err(error)) => tracing::warn!(%error, "the journal does not answer"),
            Err(_) => {}
        }
        if last.elapsed() >= term {
            let seconds = term.as_secs();
            return anyhow::anyhow!(
                "the journal did not answer for {seconds} s, so that another daemon may decide by now; start this one again"
            );
        }
        tokio::time::sleep(term / 5).await;
    }
}
