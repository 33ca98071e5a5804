//! The sectors of a partition after a look at their files. Of a sector whose files cannot be had or are damaged the next
//! copy is taken, from whatever store has one; it is a fault when there is none.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;

use super::fetch::Remote;
use super::lookup;
use super::prove::{self, Good, Job, Reasons, TaskReplica};
use crate::remote::patient;
use crate::replica;
use crate::types::{Place, PostProof, Replica, SectorNumber};

/// The sectors of a partition after a look at their files.
pub(super) struct Looked {
    /// Those that can be proved, as far as can be seen.
    pub(super) good: Good,
    /// Why not, of the others.
    pub(super) reasons: Reasons,
    /// Those whose files are in stores without local paths.
    pub(super) remote: Remote,
    bytes: u64,
    copies: BTreeMap<SectorNumber, Copies>,
    /// Stores that did not answer: they are not asked for copies of every sector.
    silent: BTreeSet<String>,
}

/// A sector's copies.
struct Copies {
    first: Replica,
    /// The stores that were not looked at yet, the next one last.
    left: Vec<String>,
    /// What was wrong with copies before the one that is taken now.
    wrong: Vec<String>,
}

/// Looks at the files of every replica. A store that is not configured is no fault of the sector. Blocks.
pub(super) fn look(cx: &StageContext, job: &Job<'_>) -> Result<Looked, Failure> {
    prove::check_count(job)?;
    let mut looked = Looked::of(cx, job.proof_type, &job.partition.replicas);
    let (known, elsewhere): (Vec<Replica>, Vec<Replica>) =
        job.partition.replicas.iter().cloned().partition(|replica| {
            [&replica.sealed, &replica.cache]
                .iter()
                .all(|place| cx.stores.get(&place.store).is_ok())
        });
    let mut failed = looked.take(cx, &known)?;
    for replica in elsewhere {
        let unknown = cx
            .stores
            .get(&replica.sealed.store)
            .and(cx.stores.get(&replica.cache.store));
        if let Err(error) = unknown {
            failed.insert(replica.sector, error.to_string());
        }
    }
    let unknown: Vec<_> = failed
        .keys()
        .copied()
        .filter(|sector| looked.is_unknown(cx, *sector))
        .collect();
    looked.fail(cx, failed)?;
    for sector in unknown {
        if let (Some(copies), false) = (looked.copies.get(&sector), looked.good.contains_key(&sector)) {
            cx.stores.get(&copies.first.sealed.store)?;
            cx.stores.get(&copies.first.cache.store)?;
        }
    }
    Ok(looked)
}

/// Brings what the challenges need of sectors that are in stores without local paths. One whose ranges cannot be had
/// is good no more, unless another copy is; before V1_2 that changes the challenges of the others. Blocks.
pub(super) fn bring(cx: &StageContext, job: &Job<'_>, looked: &mut Looked) -> Result<(), Failure> {
    while !looked.remote.is_empty() && !looked.good.is_empty() {
        let asked = prove::challenges(&prove::task(job, &looked.good, false), looked.good.keys())?;
        let failed = looked.remote.bring(&asked);
        if failed.is_empty() {
            break;
        }
        looked.fail(cx, failed)?;
    }
    Ok(())
}

impl Looked {
    fn of(cx: &StageContext, proof: PostProof, replicas: &[Replica]) -> Self {
        let copies = replicas.iter().map(|replica| {
            let own = &replica.sealed.store;
            let mut left: Vec<String> = cx
                .stores
                .candidates(own)
                .map(|store| store.name().to_owned())
                .collect();
            left.retain(|name| name != own || *name != replica.cache.store);
            left.reverse();
            let copies = Copies {
                first: replica.clone(),
                left,
                wrong: Vec::new(),
            };
            (replica.sector, copies)
        });
        Self {
            good: Good::new(),
            reasons: Reasons::new(),
            remote: Remote::of(proof),
            bytes: proof.sector_bytes(),
            copies: copies.collect(),
            silent: BTreeSet::new(),
        }
    }

    fn is_unknown(&self, cx: &StageContext, sector: SectorNumber) -> bool {
        let first = self.copies.get(&sector).map(|copies| &copies.first);
        first.is_some_and(|first| {
            cx.stores.get(&first.sealed.store).is_err() || cx.stores.get(&first.cache.store).is_err()
        })
    }

    /// Looks at these copies, and gives what is wrong with those that cannot be proved.
    fn take(&mut self, cx: &StageContext, replicas: &[Replica]) -> Result<Reasons, Failure> {
        self.remote.add(cx, replicas)?;
        let one = |replica: &Replica| {
            let opened = TaskReplica {
                sector_id: replica.sector.0,
                comm_r: replica.comm_r.0,
                sealed_file: lookup::local_path(&cx.stores, &replica.sealed)?,
                cache_dir: lookup::local_path(&cx.stores, &replica.cache)?,
            };
            let wrong = replica::wrong(&opened.sealed_file, &opened.cache_dir, replica.comm_r, self.bytes);
            Ok((replica.sector, opened, wrong))
        };
        let local = replicas
            .par_iter()
            .filter(|replica| !self.remote.has(replica.sector));
        let looked: Vec<_> = local.map(one).collect::<Result<_, Failure>>()?;
        let mut failed = Reasons::new();
        for (sector, opened, wrong) in looked {
            match wrong {
                None => drop(self.good.insert(sector, opened)),
                Some(reason) => drop(failed.insert(sector, reason)),
            }
        }
        let remote = replicas.iter().map(|replica| replica.sector);
        let remote = remote.filter(|sector| self.remote.has(*sector)).collect();
        self.remote.look(remote, &mut self.good, &mut failed);
        Ok(failed)
    }

    /// Takes the next copy of each of these sectors, which cannot be proved as they are. Says whether there was one for
    /// any of them. Blocks.
    pub(super) fn fail(&mut self, cx: &StageContext, failed: Reasons) -> Result<bool, Failure> {
        let (mut failed, mut found) = (failed, false);
        while !failed.is_empty() {
            let mut next = Vec::new();
            for (sector, reason) in failed {
                self.good.remove(&sector);
                self.remote.forget(sector);
                if let Some(copies) = self.copies.get_mut(&sector) {
                    copies.wrong.push(reason);
                }
                match self.next(cx, sector) {
                    Some(replica) => next.push(replica),
                    None => self.give_up(sector),
                }
            }
            failed = self.take(cx, &next)?;
            for replica in next
                .iter()
                .filter(|replica| !failed.contains_key(&replica.sector))
            {
                let wrong = self
                    .copies
                    .get(&replica.sector)
                    .map(|copies| copies.wrong.join("; "));
                let (sector, store) = (replica.sector.0, &replica.sealed.store);
                tracing::warn!(sector, store, wrong, "another copy of a sector is taken");
                found = true;
            }
        }
        Ok(found)
    }

    fn give_up(&mut self, sector: SectorNumber) {
        let wrong = self.copies.get(&sector).map(|copies| copies.wrong.join("; "));
        self.reasons.insert(sector, wrong.unwrap_or_default());
    }

    /// The next copy of a sector that a store has.
    fn next(&mut self, cx: &StageContext, sector: SectorNumber) -> Option<Replica> {
        let copies = self.copies.get_mut(&sector)?;
        while let Some(name) = copies.left.pop() {
            let Ok(store) = cx.stores.get(&name) else {
                continue;
            };
            if self.silent.contains(&name) {
                continue;
            }
            let asked = patient(&**store, store.stat(&copies.first.sealed.key));
            match tokio::runtime::Handle::current().block_on(asked) {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(store = name, %error, "a store is not asked for copies");
                    self.silent.insert(name);
                    continue;
                }
            }
            let place = |place: &Place| Place {
                store: name.clone(),
                key: place.key.clone(),
            };
            return Some(Replica {
                sealed: place(&copies.first.sealed),
                cache: place(&copies.first.cache),
                ..copies.first.clone()
            });
        }
        None
    }
}
