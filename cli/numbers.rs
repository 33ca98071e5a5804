//! Numbers of new sectors. A run that brings a sector onto the chain and is started without one takes the miner's next: above all that runs of
//! this installation have, and that the chain ever gave. The run is what makes the number taken, in the commit that starts
//! it: a kill before gives it to nobody, and a kill after to nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use sealflow_chain::node::Client;
use sealflow_chain::types::{Address, BitField};
use sealflow_engine::core::Refused;
use sealflow_engine::dispatcher::{Handle, NewRun, RequestError};
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::RunFilter;
use sealflow_stages::types::ActorId;
use serde_json::Value;
use tokio::sync::Mutex;

/// The first number of a miner that has no sectors.
const FIRST: u64 = 1;

/// How many numbers are tried that turn out to be in use.
const TRIES: u32 = 1000;

/// Gives numbers. One at a time, so that two runs that start at once get two.
pub(crate) struct Numbers {
    handle: Handle,
    /// Tells what the chain gave; none where no chain is configured.
    client: Option<Arc<Client>>,
    /// The highest number of each miner's runs, once it was looked for.
    highest: Mutex<BTreeMap<u64, Option<u64>>>,
}

impl Numbers {
    /// Numbers against this chain, if there is one.
    pub(crate) fn new(handle: Handle, client: Option<Arc<Client>>) -> Self {
        Self {
            handle,
            client,
            highest: Mutex::new(BTreeMap::new()),
        }
    }

    /// Starts a run, and gives it a number if it is about a sector and has none. Started again under its key it is the same
    /// run, with the same number.
    ///
    /// # Errors
    /// The run is refused, or the chain does not say which numbers are taken.
    pub(crate) async fn start(&self, new: NewRun) -> anyhow::Result<RunId> {
        let Some(miner) = wants_number(&new) else {
            let (miner, sector) = (miner_of(&new.params), new.params["sector"].as_u64());
            let run = self.handle.start_run(new).await?;
            if let (Some(miner), Some(sector)) = (miner, sector)
                && let Some(highest) = self.highest.lock().await.get_mut(&miner.0)
            {
                *highest = (*highest).max(Some(sector));
            }
            return Ok(run);
        };
        let mut highest = self.highest.lock().await;
        if let Some(key) = &new.key
            && let Some(run) = self.handle.journal().find_key(key).await?
        {
            return Ok(run);
        }
        let known = match highest.get(&miner.0) {
            Some(known) => *known,
            None => self.of_runs(miner).await?,
        };
        let given = self.given(miner).await?;
        let mut number = known
            .max(given.last())
            .map_or(FIRST, |last| last.saturating_add(1));
        for _ in 0..TRIES {
            match self.with(&new, miner, number).await? {
                Ok(run) => {
                    highest.insert(miner.0, Some(number));
                    return Ok(run);
                }
                // A run that was started another way has it.
                Err(Refused::Busy { .. }) => number = number.saturating_add(1),
                Err(refused) => return Err(RequestError::Refused(refused).into()),
            }
        }
        anyhow::bail!("no number was found for a sector of {miner}")
    }

    async fn with(
        &self,
        new: &NewRun,
        miner: ActorId,
        number: u64,
    ) -> anyhow::Result<Result<RunId, Refused>> {
        let subject = Subject::new(&format!("{miner}/{number}"))?;
        if !self.handle.journal().artifacts(&subject).await?.is_empty() {
            // Of a run that is archived.
            let holder = RunId::new(0, &[0; 10]);
            return Ok(Err(Refused::Busy { subject, holder }));
        }
        let mut new = new.clone();
        if let Some(params) = new.params.as_object_mut() {
            params.insert("sector".to_owned(), Value::from(number));
        }
        match self.handle.start_run(new).await {
            Ok(run) => Ok(Ok(run)),
            Err(RequestError::Refused(refused)) => Ok(Err(refused)),
            Err(error) => Err(error.into()),
        }
    }

    /// The highest number that a run of the miner has.
    async fn of_runs(&self, miner: ActorId) -> anyhow::Result<Option<u64>> {
        let runs = self.handle.journal().runs(&RunFilter::default()).await?;
        let numbers = runs.iter().filter_map(|run| {
            let (of, number) = run.subject.as_str().split_once('/')?;
            (of == miner.to_string()).then(|| number.parse().ok())?
        });
        Ok(numbers.max())
    }

    /// The numbers that the chain gave.
    async fn given(&self, miner: ActorId) -> anyhow::Result<BitField> {
        let Some(client) = &self.client else {
            return Ok(BitField::new());
        };
        let what = || format!("which sector numbers of {miner} are taken is not known");
        let head = client.chain_head().await.with_context(what)?;
        let given = client.allocated(&Address::new_id(miner.0), &head.key).await;
        given.with_context(what)
    }
}

/// The miner of a run that pre-commits a sector, and is not told which. Other runs are about sectors that there are.
fn wants_number(new: &NewRun) -> Option<ActorId> {
    let data = new.graph.data();
    let without = new.params.get("sector").is_none_or(Value::is_null);
    let asked = data
        .params
        .iter()
        .any(|param| param.name == "sector" && param.default.is_none());
    let stages = data.steps.iter().filter_map(|step| step.stage.as_ref());
    let precommits = stages
        .into_iter()
        .any(|stage| stage.name.as_str() == "submit_precommit");
    (data.subject == "sector" && without && asked && precommits)
        .then(|| miner_of(&new.params))
        .flatten()
}

fn miner_of(params: &Value) -> Option<ActorId> {
    serde_json::from_value(params.get("miner")?.clone()).ok()
}
