//! A journal beside the model store: it is given what is durable in the model, and must say the same.

use tokio::runtime::Handle;

use super::Next;
use super::store::Store;
use crate::clock::{Clock, Now};
use crate::core::Core;
use crate::dispatcher;
use crate::journal::{Batch, Journal, JournalError, RunFilter};

/// What the world asks of a journal.
pub(super) trait Backend {
    /// Commits what has become durable.
    fn commit(&mut self, batch: &Batch) -> Result<(), String>;
    /// Another daemon takes the journal; what this one still commits must be refused, if there is anything.
    fn fence(&mut self, late: &Batch) -> Result<(), String>;
    /// The daemon has ended; the next one brings a new core to where the journal is.
    fn restore(&mut self, core: &mut Core, now: Now) -> Result<(), String>;
    /// Compares all of it with the model.
    fn compare(&self, store: &Store) -> Result<(), String>;
}

/// Gives the next daemon's journal, and the one before it if it goes on.
type Follow<J> = Box<dyn FnMut(J, Next) -> (J, Option<J>)>;

/// A journal, and how to open it again.
pub(super) struct OnJournal<J> {
    runtime: Handle,
    journal: Option<J>,
    next: Follow<J>,
    /// Whether the next daemon is there already.
    followed: bool,
}

/// The time of a moment.
struct At(Now);

impl Clock for At {
    fn now(&self) -> Now {
        self.0
    }
}

impl<J: Journal> OnJournal<J> {
    pub(super) fn new(runtime: Handle, first: J, next: Follow<J>) -> Self {
        Self {
            runtime,
            journal: Some(first),
            next,
            followed: false,
        }
    }

    fn journal(&self) -> Result<&J, String> {
        self.journal
            .as_ref()
            .ok_or_else(|| "the journal is gone".to_owned())
    }

    fn ask<T>(&self, asked: impl Future<Output = Result<T, JournalError>>) -> Result<T, String> {
        self.runtime
            .block_on(asked)
            .map_err(|error| format!("the journal: {error}"))
    }

    fn follow(&mut self, how: Next) -> Result<Option<J>, String> {
        let journal = self.journal.take().ok_or("the journal is gone")?;
        let (next, before) = (self.next)(journal, how);
        self.journal = Some(next);
        Ok(before)
    }
}

impl<J: Journal> Backend for OnJournal<J> {
    fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        self.ask(self.journal()?.commit(batch))
    }

    fn fence(&mut self, late: &Batch) -> Result<(), String> {
        let before = self.follow(Next::Beside)?.ok_or("the first one is gone")?;
        self.followed = true;
        if late.is_empty() {
            return Ok(());
        }
        match self.runtime.block_on(before.commit(late)) {
            Err(JournalError::Fenced(_)) => Ok(()),
            other => Err(format!("a late commit was not refused: {other:?}")),
        }
    }

    fn restore(&mut self, core: &mut Core, now: Now) -> Result<(), String> {
        if !std::mem::take(&mut self.followed) {
            self.follow(Next::Restart)?;
        }
        let clock = At(now);
        let restored = dispatcher::restore(core, self.journal()?, &clock);
        self.ask(restored).map(drop)
    }

    fn compare(&self, store: &Store) -> Result<(), String> {
        let journal = self.journal()?;
        let rows = self.ask(journal.runs(&RunFilter::default()))?;
        if rows.len() != store.runs.len() {
            return Err(format!("{} runs instead of {}", rows.len(), store.runs.len()));
        }
        for row in rows {
            let run = row.run.clone();
            let logged = store
                .runs
                .get(&run)
                .ok_or_else(|| format!("{run} is not in the model"))?;
            if row != *logged.row() {
                return Err(format!("row {row:?} instead of {:?}", logged.row()));
            }
            let entries = self.ask(dispatcher::all_entries(journal, &run))?;
            if entries != logged.entries {
                return Err(format!("the entries of {run} are others"));
            }
            if let Some(key) = &row.key
                && self.ask(journal.find_key(key))?.as_ref() != Some(&run)
            {
                return Err(format!("{run} is not found by its key"));
            }
            let state = logged.fold()?;
            for step in self.ask(journal.steps(&run))? {
                if step != crate::rows::step_row(&state, step.ix) {
                    return Err(format!(
                        "{run}: the row of a step is not what its entries give: {step:?}"
                    ));
                }
            }
        }
        let site = self.ask(journal.site_tail(u32::MAX))?;
        if site == store.site {
            Ok(())
        } else {
            Err("the entries of the installation are others".to_owned())
        }
    }
}
