//! Replicas in stores without local paths: of each the ranges that its challenges need come into files that are empty
//! elsewhere. A sector whose ranges cannot be had is a fault; the others are proved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, future, stream};
use sealflow_engine::artifact::{ArtifactStore, StoreError};
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;

use super::prove::{Good, Reasons, TaskReplica};
use super::ranges::Needed;
use crate::remote::{self, Counter, RemoteReads, Work, patient};
use crate::replica;
use crate::types::{PostProof, Replica, SectorNumber};

/// Sectors of one store that are read at once. The store itself limits its requests.
const AT_ONCE: usize = 32;

/// The auxiliary file holds two nodes.
const P_AUX: u64 = 64;

/// A replica that is elsewhere.
struct Elsewhere {
    replica: Replica,
    sealed: Arc<dyn ArtifactStore>,
    cache: Arc<dyn ArtifactStore>,
    /// The challenges whose ranges are here.
    have: Option<Vec<u64>>,
}

/// The replicas of a partition that are elsewhere, and where their ranges are put.
#[derive(Default)]
pub(super) struct Remote {
    sectors: BTreeMap<SectorNumber, Elsewhere>,
    work: Option<Work>,
    sector_bytes: u64,
    counter: Counter,
}

/// What comes of something for each sector.
type Each<T> = Vec<(SectorNumber, Result<T, String>)>;

impl Remote {
    /// Nothing yet, of sectors of this proof type.
    pub(super) fn of(proof: PostProof) -> Self {
        Self {
            sector_bytes: proof.sector_bytes(),
            ..Self::default()
        }
    }

    /// Takes those that are not in local files.
    pub(super) fn add(&mut self, cx: &StageContext, replicas: &[Replica]) -> Result<(), Failure> {
        for replica in replicas {
            let (sealed, cache) = (
                cx.stores.get(&replica.sealed.store)?,
                cx.stores.get(&replica.cache.store)?,
            );
            let local = sealed.local_path(&replica.sealed.key)?.is_some()
                && cache.local_path(&replica.cache.key)?.is_some();
            if !local {
                let elsewhere = Elsewhere {
                    replica: replica.clone(),
                    sealed: sealed.clone(),
                    cache: cache.clone(),
                    have: None,
                };
                self.sectors.insert(replica.sector, elsewhere);
            }
        }
        if self.work.is_none() && !self.sectors.is_empty() {
            self.work = Some(Work(cx.attempt_dir()?));
        }
        Ok(())
    }

    /// Forgets a sector: another copy of it is taken.
    pub(super) fn forget(&mut self, sector: SectorNumber) {
        self.sectors.remove(&sector);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    pub(super) fn has(&self, sector: SectorNumber) -> bool {
        self.sectors.contains_key(&sector)
    }

    /// What was read, if anything is elsewhere.
    pub(super) fn reads(&self) -> Option<RemoteReads> {
        (!self.is_empty()).then(|| self.counter.reads(self.sectors.len() as u64))
    }

    fn folder(&self, sector: SectorNumber) -> PathBuf {
        let base = self.work.as_ref().map_or(Path::new(""), |work| work.0.as_path());
        base.join(format!("sector-{}", sector.0))
    }

    fn opened(&self, replica: &Replica) -> TaskReplica {
        let folder = self.folder(replica.sector);
        TaskReplica {
            sector_id: replica.sector.0,
            comm_r: replica.comm_r.0,
            cache_dir: folder.join("cache"),
            sealed_file: folder.join("sealed"),
        }
    }

    /// Looks at some of them: those that can be proved, as far as can be seen, and why not of the others. Blocks.
    pub(super) fn look(&self, sectors: Vec<SectorNumber>, good: &mut Good, reasons: &mut Reasons) {
        let looked = self.each(sectors, |one| self.look_at(one));
        for (sector, result) in looked {
            match result {
                Ok(opened) => drop(good.insert(sector, opened)),
                Err(reason) => drop(reasons.insert(sector, reason)),
            }
        }
    }

    /// Does something for each of these sectors: one store does not wait for another.
    fn each<'a, T: Send, F>(
        &'a self,
        sectors: Vec<SectorNumber>,
        what: impl Fn(&'a Elsewhere) -> F,
    ) -> Each<T>
    where
        F: Future<Output = Result<T, String>>,
    {
        let mut stores: BTreeMap<&str, Vec<&Elsewhere>> = BTreeMap::new();
        for elsewhere in sectors.iter().filter_map(|sector| self.sectors.get(sector)) {
            stores.entry(elsewhere.sealed.name()).or_default().push(elsewhere);
        }
        let what = &what;
        let one = |elsewhere: &'a Elsewhere| async move { (elsewhere.replica.sector, what(elsewhere).await) };
        let store = |all: Vec<&'a Elsewhere>| stream::iter(all).map(one).buffer_unordered(AT_ONCE).collect();
        let all = future::join_all(stores.into_values().map(store));
        let done: Vec<Each<T>> = tokio::runtime::Handle::current().block_on(all);
        done.into_iter().flatten().collect()
    }

    /// Makes the sector's files, empty but for the auxiliary one.
    async fn look_at(&self, one: &Elsewhere) -> Result<TaskReplica, String> {
        let opened = self.opened(&one.replica);
        let text = |error: StoreError| error.to_string();
        let made = |failure: Failure| failure.message;
        let stat = |store: Arc<dyn ArtifactStore>, key: String| async move {
            self.counter.count(0);
            let found = patient(&*store, store.stat(&key)).await?;
            found.ok_or_else(|| StoreError::Missing {
                store: store.name().to_owned(),
                key,
            })
        };
        let Replica { sealed, cache, .. } = &one.replica;
        let found = stat(one.sealed.clone(), sealed.key.clone()).await.map_err(text)?;
        let bytes = found.bytes();
        if found.is_folder || bytes != self.sector_bytes {
            let wanted = self.sector_bytes;
            return Err(format!(
                "`{}` in `{}` has {bytes} bytes instead of {wanted}",
                sealed.key, sealed.store
            ));
        }
        remote::hole(&opened.sealed_file, bytes).map_err(made)?;
        let found = stat(one.cache.clone(), cache.key.clone()).await.map_err(text)?;
        let tree_bytes = self.needed(&[]).map_err(made)?.tree_bytes;
        for name in replica::kept_names(self.sector_bytes) {
            let wanted = if name == replica::P_AUX { P_AUX } else { tree_bytes };
            let file = found.file(&name);
            let bytes = file.map(|file| file.bytes);
            if bytes != Some(wanted) {
                let has = bytes.map_or("is not there".to_owned(), |bytes| format!("has {bytes} bytes"));
                return Err(format!(
                    "`{}/{name}` in `{}` {has}, not {wanted} bytes",
                    cache.key, cache.store
                ));
            }
            remote::hole(&opened.cache_dir.join(&name), wanted).map_err(made)?;
        }
        let (file, to) = (replica::P_AUX, opened.cache_dir.join(replica::P_AUX));
        let whole = std::slice::from_ref(&(0..P_AUX));
        remote::fill(&*one.cache, (&cache.key, file), whole, &to, &self.counter)
            .await
            .map_err(text)?;
        let (comm_r, bytes) = (one.replica.comm_r, self.sector_bytes);
        replica::wrong(&opened.sealed_file, &opened.cache_dir, comm_r, bytes).map_or(Ok(opened), Err)
    }

    fn needed(&self, challenges: &[u64]) -> Result<Needed, Failure> {
        let files = replica::kept_names(self.sector_bytes).len() - 1;
        Needed::of(self.sector_bytes, files, challenges)
    }

    /// Brings what these challenges need of the sectors that are elsewhere, and gives why not of those where that
    /// failed. Blocks.
    pub(super) fn bring(&mut self, challenges: &BTreeMap<SectorNumber, Vec<u64>>) -> Reasons {
        let missing = |(sector, asked): (&SectorNumber, &Vec<u64>)| {
            let one = self.sectors.get(sector)?;
            (one.have.as_ref() != Some(asked)).then_some(*sector)
        };
        let missing: Vec<SectorNumber> = challenges.iter().filter_map(missing).collect();
        let this = &*self;
        let brought = this.each(missing, |one| async move {
            let asked = challenges.get(&one.replica.sector).map_or(&[][..], Vec::as_slice);
            this.bring_one(one, asked).await.map(|()| asked.to_vec())
        });
        let mut failed = Reasons::new();
        for (sector, result) in brought {
            match (result, self.sectors.get_mut(&sector)) {
                (Ok(asked), Some(one)) => one.have = Some(asked),
                (Err(reason), _) => drop(failed.insert(sector, reason)),
                (Ok(_), None) => {}
            }
        }
        failed
    }

    async fn bring_one(&self, one: &Elsewhere, asked: &[u64]) -> Result<(), String> {
        let needed = self.needed(asked).map_err(|failure| failure.message)?;
        let opened = self.opened(&one.replica);
        let Replica {
            sealed,
            cache,
            sector,
            ..
        } = &one.replica;
        let counter = Counter::default();
        let mut result = remote::fill(
            &*one.sealed,
            (&sealed.key, ""),
            &needed.sealed,
            &opened.sealed_file,
            &counter,
        )
        .await;
        let trees = replica::kept_names(self.sector_bytes).into_iter().skip(1);
        for (name, ranges) in trees.zip(&needed.trees) {
            if result.is_err() {
                break;
            }
            let to = opened.cache_dir.join(&name);
            result = remote::fill(&*one.cache, (&cache.key, &name), ranges, &to, &counter).await;
        }
        let reads = counter.reads(1);
        tracing::debug!(
            sector = sector.0,
            bytes = reads.bytes,
            requests = reads.requests,
            of = self.sector_bytes,
            "read the ranges of a sector"
        );
        self.counter.add(reads);
        result.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use filecoin_proofs_api::seal::{add_piece, seal_pre_commit_phase1, seal_pre_commit_phase2};
    use filecoin_proofs_api::{PieceInfo, RegisteredSealProof, UnpaddedBytesAmount};
    use sealflow_engine::testing::MemoryStore;

    use super::super::prove::{Task, prove_one};
    use super::*;
    use crate::proofs::{prover_id, sector_id};
    use crate::types::{ActorId, CommR, Place, PostRandomness};

    /// Seals noise with the library, and gives the replica's commitment.
    fn seal(proof: RegisteredSealProof, folder: &Path) -> CommR {
        let bytes = u64::from(proof.sector_size());
        let unpadded = UnpaddedBytesAmount(bytes / 128 * 127);
        let noise = (0..bytes / 128 * 127).map(|at| ((at * 2_654_435_761) >> 7) as u8);
        let (staged, sealed, cache) = (folder.join("staged"), folder.join("sealed"), folder.join("cache"));
        std::fs::create_dir_all(&cache).unwrap();
        let data: Vec<u8> = noise.collect();
        let file = File::create_new(&staged).unwrap();
        let (piece, _): (PieceInfo, _) = add_piece(proof, data.as_slice(), file, unpadded, &[]).unwrap();
        File::create(&sealed).unwrap();
        let (prover, ticket) = (prover_id(ActorId(1000)), [7; 32]);
        let sector = sector_id(SectorNumber(1));
        let pc1 = seal_pre_commit_phase1(proof, &cache, &staged, &sealed, prover, sector, ticket, &[piece]);
        let pc2 = seal_pre_commit_phase2(pc1.unwrap(), &cache, &sealed).unwrap();
        CommR(pc2.comm_r)
    }

    fn remote(store: &Arc<MemoryStore>, proof: PostProof, comm_r: CommR, work: &Path) -> Remote {
        let place = |kind: &str| Place {
            store: "elsewhere".to_owned(),
            key: format!("{kind}/s-t01000-1"),
        };
        let replica = Replica {
            sector: SectorNumber(1),
            comm_r,
            sealed: place("sealed"),
            cache: place("cache"),
        };
        let elsewhere = Elsewhere {
            replica,
            sealed: store.clone(),
            cache: store.clone(),
            have: None,
        };
        Remote {
            sectors: BTreeMap::from([(SectorNumber(1), elsewhere)]),
            work: Some(Work(work.to_owned())),
            sector_bytes: proof.sector_bytes(),
            counter: Counter::default(),
        }
    }

    fn compare(seal_proof: RegisteredSealProof, most: u64) {
        let folder = tempfile::tempdir().unwrap();
        let comm_r = seal(seal_proof, folder.path());
        let proof = PostProof::window(u64::from(seal_proof.sector_size())).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = Arc::new(MemoryStore::new("elsewhere"));
        for kind in ["sealed", "cache"] {
            let key = format!("{kind}/s-t01000-1");
            runtime
                .block_on(store.put(&key, &folder.path().join(kind), &|_| {}))
                .unwrap();
        }
        let mut remote = remote(&store, proof, comm_r, &folder.path().join("work"));
        let local = TaskReplica {
            sector_id: 1,
            comm_r: comm_r.0,
            cache_dir: folder.path().join("cache"),
            sealed_file: folder.path().join("sealed"),
        };
        let _entered = runtime.enter();
        let (mut good, mut reasons) = (Good::new(), Reasons::new());
        remote.look(vec![SectorNumber(1)], &mut good, &mut reasons);
        assert!(reasons.is_empty(), "{reasons:?}");
        for seed in 0..3 {
            let task = Task::for_test(
                ActorId(1000),
                proof,
                PostRandomness([seed; 32]),
                vec![local.clone()],
            );
            let asked = super::super::prove::challenges(&task, good.keys()).unwrap();
            assert!(remote.bring(&asked).is_empty());
            let asked = &asked[&SectorNumber(1)];
            let (here, there) = (&local, &good[&SectorNumber(1)]);
            let wanted = prove_one(&task, SectorNumber(1), here, asked).unwrap();
            assert!(prove_one(&task, SectorNumber(1), there, asked).unwrap() == wanted);
        }
        let reads = remote.reads().unwrap();
        assert_eq!(reads.bytes, store.bytes_read());
        assert!(reads.bytes <= 3 * most, "{reads:?}");
        let taken = std::fs::metadata(&good[&SectorNumber(1)].sealed_file)
            .unwrap()
            .blocks()
            * 512;
        assert!(taken <= 3 * most, "the file holds {taken} bytes");
        // What is not there any more is a reason, and no other sector's.
        runtime.block_on(store.delete("sealed/s-t01000-1")).unwrap();
        remote.sectors.values_mut().for_each(|one| one.have = None);
        let asked = BTreeMap::from([(SectorNumber(1), vec![0])]);
        let failed = remote.bring(&asked);
        assert!(
            failed[&SectorNumber(1)].contains("has nothing under"),
            "{failed:?}"
        );
    }

    #[test]
    fn ranges_give_the_same_proofs_as_whole_files() {
        // All of a sector of 2 KiB is under one node.
        compare(RegisteredSealProof::StackedDrg2KiBV1_1, 4096);
        // Ten segments of the replica and the tree, and what lies between segments that are near each other.
        let near = 2 * 32768;
        compare(
            RegisteredSealProof::StackedDrg8MiBV1_1,
            10 * 16384 + 18_720 + 64 + near,
        );
    }
}
