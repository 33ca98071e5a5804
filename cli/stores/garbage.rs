//! What nothing needs any more: what runs left half put, replicas that a later try of the same sector replaced, and what
//! has been in the trash for long enough. Only what is known for what it is is taken: by the mark that was set before
//! the first byte was put, by the journal, and by the descriptions beside the files.

use std::collections::BTreeSet;

use sealflow_engine::artifact::{Artifact, ArtifactStore, PUTTING, SCRATCH, StoreError, Stores};
use sealflow_engine::crash;
use sealflow_engine::id::Subject;
use sealflow_stages::Putting;
use sealflow_stages::sectors::{CACHE, SEALED, SectorId};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::api::{ArtifactView, Source};
use crate::sectors::Index;

/// Something that is done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    pub(crate) store: String,
    /// `trash`, `delete` or `unmark`.
    pub(crate) action: &'static str,
    /// The key; of what is deleted, the one that it had.
    pub(crate) key: String,
    /// Its name in the trash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trash: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) why: String,
}

/// What the journal knows: it is asked before anything is done.
pub(crate) struct Needed<'a> {
    source: &'a Source,
    /// Runs that have not ended.
    runs: BTreeSet<String>,
    /// What they are about.
    subjects: BTreeSet<String>,
}

impl<'a> Needed<'a> {
    pub(crate) async fn by(source: &'a Source) -> anyhow::Result<Self> {
        let open = source.open_runs().await?;
        Ok(Self {
            runs: open.iter().map(|run| run.run.clone()).collect(),
            subjects: open.into_iter().map(|run| run.subject).collect(),
            source,
        })
    }

    /// Whether a run is about this now.
    pub(crate) fn is_busy(&self, subject: &str) -> bool {
        self.subjects.contains(subject)
    }

    async fn rows(&self, subject: &str) -> anyhow::Result<Vec<(String, Artifact)>> {
        let Ok(subject) = Subject::new(subject) else {
            return Ok(Vec::new());
        };
        let rows = self.source.artifacts(&subject).await?.into_iter();
        let one =
            |row: ArtifactView| Some((row.kind, serde_json::from_value::<Artifact>(row.artifact).ok()?));
        Ok(rows.filter_map(one).collect())
    }
}

/// Looks for garbage in a store.
pub(crate) struct Collector<'a> {
    pub(crate) stores: &'a Stores,
    pub(crate) index: &'a Index,
    pub(crate) needed: &'a Needed<'a>,
    /// What came to the trash before this is removed, in milliseconds since 1970.
    pub(crate) before_ms: u64,
    pub(crate) now_ms: u64,
    pub(crate) dry_run: bool,
}

impl Collector<'_> {
    /// Looks for all of it in one store, and does away with it.
    pub(crate) async fn store(&self, store: &dyn ArtifactStore) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        self.broken_off(store, &mut found).await?;
        self.superseded(store, &mut found).await?;
        self.old_trash(store, &mut found).await?;
        Ok(found)
    }

    /// What was being put and never came to count, by runs that have ended.
    async fn broken_off(&self, store: &dyn ArtifactStore, found: &mut Vec<Found>) -> anyhow::Result<()> {
        for name in store
            .marks()
            .await?
            .iter()
            .filter(|name| name.starts_with(PUTTING))
        {
            let content = store.mark(name).await?;
            let Some(putting) = content.and_then(|text| serde_json::from_slice::<Putting>(&text).ok()) else {
                continue;
            };
            if putting.version != 1 || self.is_under_way(&putting).await? {
                continue;
            }
            let Some(counts) = putting.keys.last() else {
                continue;
            };
            let whole = store.stat(counts).await?.is_some();
            if !whole {
                let rows = self.needed.rows(&putting.subject).await?;
                let owned = |key: &str| {
                    rows.iter()
                        .any(|(_, own)| own.store == store.name() && own.key == key)
                };
                for key in putting.keys.iter().filter(|key| !owned(key)) {
                    let why = match putting.run.as_str() {
                        "" => "left by a move that was broken off".to_owned(),
                        run => format!("left by {run}, which has ended without it"),
                    };
                    self.trash(store, key, why, found).await?;
                }
            }
            found.push(Found {
                store: store.name().to_owned(),
                action: "unmark",
                key: counts.clone(),
                trash: None,
                bytes: 0,
                why: if whole {
                    "it is whole".to_owned()
                } else {
                    "it is in the trash".to_owned()
                },
            });
            crash::point("collect.before_unmark");
            if !self.dry_run {
                store.set_mark(name, None).await?;
            }
        }
        Ok(())
    }

    /// Whether a run or a move still works on it.
    async fn is_under_way(&self, putting: &Putting) -> anyhow::Result<bool> {
        if self.needed.runs.contains(&putting.run) || self.needed.is_busy(&putting.subject) {
            return Ok(true);
        }
        let Some(from) = &putting.from else {
            return Ok(false);
        };
        // A move is ended by doing it again, while there is something at its source.
        let Ok(from) = self.stores.get(from) else {
            return Ok(false);
        };
        for key in &putting.keys {
            if from.stat(key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replicas that the journal says a later try has replaced, in another store.
    async fn superseded(&self, store: &dyn ArtifactStore, found: &mut Vec<Found>) -> anyhow::Result<()> {
        for (id, stores) in self.index.sectors() {
            let own = stores
                .get(store.name())
                .is_some_and(|held| held.files.contains_key(&id.description()));
            if !own || stores.len() < 2 || self.needed.is_busy(&id.to_string()) {
                continue;
            }
            let rows = self.needed.rows(&id.to_string()).await?;
            let row = |kind: &str| {
                rows.iter()
                    .find(|(own, _)| own == kind)
                    .map(|(_, artifact)| artifact)
            };
            let Some(described) = row("sector_info") else {
                continue;
            };
            let digest = self.description(store, id).await?;
            if digest.is_none() || described.digest.is_none() || digest == described.digest {
                continue;
            }
            if !self
                .is_elsewhere(store, id, described, [row(SEALED), row(CACHE)])
                .await?
            {
                continue;
            }
            for key in [id.description(), id.key(CACHE), id.key(SEALED)] {
                let why = format!("a later try of {id} replaced it, in store `{}`", described.store);
                self.trash(store, &key, why, found).await?;
            }
        }
        Ok(())
    }

    /// Whether another store has the sector as the journal says it is.
    async fn is_elsewhere(
        &self,
        not: &dyn ArtifactStore,
        id: SectorId,
        described: &Artifact,
        files: [Option<&Artifact>; 2],
    ) -> anyhow::Result<bool> {
        for store in self
            .stores
            .iter()
            .filter(|one| one.name() != not.name() && one.name() != SCRATCH)
        {
            let digest = match self.description(&**store, id).await {
                Ok(digest) => digest,
                Err(StoreError::Unavailable { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if digest != described.digest {
                continue;
            }
            let mut whole = true;
            for artifact in files {
                let bytes = match artifact {
                    Some(artifact) => store
                        .stat(&artifact.key)
                        .await?
                        .map(|stat| stat.bytes() == artifact.bytes),
                    None => None,
                };
                whole &= bytes == Some(true);
            }
            if whole {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// SHA-256 of a sector's description in a store.
    async fn description(
        &self,
        store: &dyn ArtifactStore,
        id: SectorId,
    ) -> Result<Option<String>, StoreError> {
        let key = id.description();
        let Some(stat) = store.stat(&key).await? else {
            return Ok(None);
        };
        let text = store.read(&key, "", 0..stat.bytes()).await?;
        Ok(Some(format!("sha256:{}", hex::encode(Sha256::digest(text)))))
    }

    async fn trash(
        &self,
        store: &dyn ArtifactStore,
        key: &str,
        why: String,
        found: &mut Vec<Found>,
    ) -> anyhow::Result<()> {
        let stat = store.stat(key).await?;
        if let Some(stat) = &stat {
            found.push(Found {
                store: store.name().to_owned(),
                action: "trash",
                key: key.to_owned(),
                trash: None,
                bytes: stat.bytes(),
                why,
            });
        }
        // Also what is only half there, and so is not seen.
        if !self.dry_run {
            store.trash(key, self.now_ms).await?;
            crash::point("collect.trashed");
        }
        Ok(())
    }

    /// What has been in the trash for long enough.
    async fn old_trash(&self, store: &dyn ArtifactStore, found: &mut Vec<Found>) -> anyhow::Result<()> {
        for one in store
            .trashed()
            .await?
            .into_iter()
            .filter(|one| one.at_ms < self.before_ms)
        {
            found.push(Found {
                store: store.name().to_owned(),
                action: "delete",
                key: one.key,
                trash: Some(one.id.clone()),
                bytes: one.bytes,
                why: "its time in the trash is over".to_owned(),
            });
            if !self.dry_run {
                store.discard(&one.id).await?;
                crash::point("collect.deleted");
            }
        }
        Ok(())
    }
}
