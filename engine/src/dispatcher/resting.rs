//! Taking up runs that rested, and what waits for them meanwhile.

use tokio::sync::{Mutex, Semaphore};

use super::*;

/// How many runs are read at the same time, if many are due at once.
const AT_ONCE: usize = 32;

/// Runs that are being read, and what is wanted of them.
pub(super) struct Recalls {
    /// Graphs that runs share: there are few.
    graphs: Arc<Mutex<Graphs>>,
    room: Arc<Semaphore>,
    wanted: HashMap<RunId, Vec<Request>>,
}

impl Recalls {
    pub(super) fn new(graphs: Graphs) -> Self {
        Self {
            graphs: Arc::new(Mutex::new(graphs)),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            wanted: HashMap::new(),
        }
    }
}

impl Dispatcher {
    /// Gives a request back, unless it is about a run that rests: then it is taken when the run is there.
    pub(super) fn wait_for_recall(&mut self, request: Request) -> Option<Request> {
        let run = match &request {
            Request::Operate(run, ..) | Request::Live(run, _) => run.clone(),
            _ => return Some(request),
        };
        if !self.core.recall(&run) {
            return Some(request);
        }
        self.recalls.wanted.entry(run).or_default().push(request);
        None
    }

    /// Reads a run that rests.
    pub(super) fn recall(&self, run: RunId) {
        let (journal, back) = (self.journal.clone(), self.internal_in.clone());
        let (graphs, room) = (self.recalls.graphs.clone(), self.recalls.room.clone());
        let task = async move {
            let Ok(_room) = room.acquire().await else { return };
            let state = loop {
                match read(&*journal, &run, &graphs).await {
                    Ok(state) => break state,
                    Err(error) => {
                        tracing::warn!(%run, %error, "a run that rested cannot be read; trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            discard(back.send(Internal::Recalled(run, Box::new(state))).await);
        };
        drop(tokio::spawn(task));
    }

    /// A run is there again, or cannot be understood; what was wanted of it is done.
    pub(super) fn recalled(&mut self, run: &RunId, state: Result<RunState, String>) {
        match state {
            Ok(state) => self.core.restore(state, self.clock.now()),
            Err(why) => self.core.lose_resting(run, why),
        }
        for request in self.recalls.wanted.remove(run).unwrap_or_default() {
            self.take_request(request);
        }
    }
}

async fn read(
    journal: &dyn Journal,
    run: &RunId,
    graphs: &Mutex<Graphs>,
) -> Result<Result<RunState, String>, JournalError> {
    let entries = match all_entries(journal, run).await {
        Ok(entries) => Ok(entries),
        Err(JournalError::Corrupt(why)) => Err(why),
        Err(error) => return Err(error),
    };
    replay(journal, run, entries, &mut *graphs.lock().await).await
}
