//! Moving sectors from one store to others. In this order, so that at every moment a sector is whole in one of them:
//! a mark in the target says what comes there and from where; the files are copied, the description last; all of it is
//! read back, and looked at as a proof of spacetime would; then the source goes to its trash, the description first;
//! then the mark goes. Doing it again after a kill goes on with what the mark says.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use sealflow_engine::artifact::placement::{Among, NoPlace, Wish};
use sealflow_engine::artifact::{Artifact, ArtifactStore, PUTTING, SCRATCH, StoreError, Stores};
use sealflow_engine::crash;
use sealflow_engine::durable;
use sealflow_stages::Putting;
use sealflow_stages::sectors::SectorId;

use crate::home::Home;
use crate::sectors::{self, Depth, Held, Index};
use crate::span::now_ms;

/// The step that marks of moves name: no step of a workflow has this name.
const STEP: &str = "store drain";

/// What came of a sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It is in this store now, and why there.
    To(String, String),
    /// Another store had it already, and no further one could take it: there are fewer copies now.
    Fewer(String),
}

/// Moves sectors out of a store.
pub(crate) struct Mover<'a> {
    pub(crate) home: &'a Home,
    pub(crate) stores: &'a Stores,
    pub(crate) from: Arc<dyn ArtifactStore>,
    /// The stores that may take them.
    pub(crate) among: Among,
    /// Whether a sector may go that another store has too, where no further one takes it.
    pub(crate) fewer: bool,
}

impl Mover<'_> {
    /// Moves one sector. `all` says where it is.
    pub(crate) async fn sector(
        &self,
        id: SectorId,
        all: &std::collections::BTreeMap<String, Held>,
    ) -> anyhow::Result<Moved> {
        let own = all.get(self.from.name()).cloned().unwrap_or_default();
        let keys: Vec<String> = id
            .keys()
            .into_iter()
            .filter(|key| own.files.contains_key(key))
            .collect();
        let mark = format!("{PUTTING}{}", id.description().replace('/', "+"));
        let begun = self.begun(&mark).await?;
        let others: Vec<String> = all
            .iter()
            .filter(|(store, held)| *store != self.from.name() && held.is_described(id))
            .map(|(store, _)| store.clone())
            .collect();
        // The description of the source goes first when it is moved: what is left belongs to a move that was broken off.
        if begun.is_none() && !own.is_described(id) && !others.is_empty() {
            let whole = self.whole(id, &others).await?;
            self.clear(&keys).await?;
            return Ok(Moved::To(whole, "it was moved there before".to_owned()));
        }
        let (to, why) = match begun {
            Some(store) => (store, "it was begun there".to_owned()),
            None => match self.target(id, &own, &others).await {
                Ok(found) => found,
                Err(error) if self.fewer && !others.is_empty() => {
                    let whole = self.whole(id, &others).await.with_context(|| error.to_string())?;
                    self.clear(&keys).await?;
                    return Ok(Moved::Fewer(whole));
                }
                Err(error) => return Err(error.into()),
            },
        };
        let target = self.stores.get(&to)?;
        let putting = Putting {
            version: 1,
            subject: id.to_string(),
            run: String::new(),
            step: STEP.to_owned(),
            keys: keys.clone(),
            from: Some(self.from.name().to_owned()),
        };
        target
            .set_mark(&mark, Some(&serde_json::to_vec(&putting)?))
            .await?;
        crash::point("move.marked");
        for key in &keys {
            self.copy(key, &own, &**target)
                .await
                .with_context(|| format!("`{key}` to store `{to}`"))?;
            crash::point("move.copied");
        }
        if own.is_described(id) {
            self.whole(id, std::slice::from_ref(&to)).await?;
        }
        crash::point("move.verified");
        self.clear(&keys).await?;
        target.set_mark(&mark, None).await?;
        crash::point("move.done");
        Ok(Moved::To(to, why))
    }

    /// The store that an earlier move of this sector out of here was begun to.
    async fn begun(&self, mark: &str) -> anyhow::Result<Option<String>> {
        for store in self
            .stores
            .iter()
            .filter(|one| one.name() != SCRATCH && one.name() != self.from.name())
        {
            let content = match store.mark(mark).await {
                Ok(content) => content,
                // One that is not asked could only make a second copy.
                Err(StoreError::Unavailable { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let putting = content.and_then(|text| serde_json::from_slice::<Putting>(&text).ok());
            if putting.is_some_and(|putting| putting.from.as_deref() == Some(self.from.name())) {
                return Ok(Some(store.name().to_owned()));
            }
        }
        Ok(None)
    }

    async fn target(
        &self,
        id: SectorId,
        own: &Held,
        others: &[String],
    ) -> Result<(String, String), StoreError> {
        let mut not = others.to_vec();
        not.push(self.from.name().to_owned());
        let wish = Wish {
            among: self.among.clone(),
            copies: 1,
            miner: Some(id.miner.0),
            bytes: own.bytes(),
            known_by: None,
            not,
        };
        let (chosen, _held) = self.stores.choose(&wish).await.map_err(NoPlace::error)?;
        let first = chosen.into_iter().next();
        first
            .map(|one| (one.store, one.why))
            .ok_or_else(|| StoreError::Refused {
                store: self.among.to_string(),
                what: "no store takes it".to_owned(),
            })
    }

    /// Copies a file or folder, and reads back what was written.
    async fn copy(&self, key: &str, own: &Held, target: &dyn ArtifactStore) -> anyhow::Result<()> {
        let stat = self.from.stat(key).await?;
        let Some(stat) = stat else {
            // A source that lost a part of it, where the target has that already, is a move that was broken off.
            let there = target.stat(key).await?;
            anyhow::ensure!(there.is_some(), "it is missing in store `{}`", self.from.name());
            return Ok(());
        };
        let remembered = stat
            .files
            .first()
            .filter(|_| !stat.is_folder)
            .and_then(|file| file.digest.clone());
        let known = own
            .files
            .get(key)
            .and_then(|size| size.digest.clone())
            .or(remembered);
        let source = Artifact {
            store: self.from.name().to_owned(),
            key: key.to_owned(),
            bytes: stat.bytes(),
            digest: known.clone(),
        };
        let (path, fetched) = self.local(&source).await?;
        let put = target.put(key, &path, &|_| {}).await;
        if fetched {
            durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let put = put?;
        if let Some(known) = known.filter(|known| Some(known) != put.digest.as_ref()) {
            let found = put.digest.unwrap_or_default();
            target.trash(key, now_ms()).await?;
            anyhow::bail!(
                "its content in store `{}` is {found} instead of {known}: it is damaged there",
                self.from.name()
            );
        }
        target.verify(&put).await?;
        Ok(())
    }

    /// A local path of something in the source, and whether it was fetched for this.
    async fn local(&self, source: &Artifact) -> anyhow::Result<(PathBuf, bool)> {
        if let Some(path) = self.from.local_path(&source.key)? {
            return Ok((path, false));
        }
        let scratch = self.stores.get(SCRATCH)?;
        let path = scratch
            .local_path(&format!("moving/{}", source.key))?
            .context("the scratch store has no paths")?;
        // What a move that was killed left.
        durable::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        self.from.get(source, &path, &|_| {}).await?;
        Ok((path, true))
    }

    /// The first of these stores in which the sector is whole.
    async fn whole(&self, id: SectorId, stores: &[String]) -> anyhow::Result<String> {
        let mut wrong = Vec::new();
        for name in stores {
            let store = self.stores.get(name)?;
            let mut held = Held::default();
            let check = sectors::check(self.stores, store, id, &mut held, Depth::Quick).await?;
            let fault = check.fault.clone();
            Index::change(self.home, |index| index.note(id, name, &held, check))?;
            match fault {
                None => return Ok(name.clone()),
                Some(fault) => wrong.push(format!("in `{name}`: {fault}")),
            }
        }
        anyhow::bail!(
            "it is not whole elsewhere ({}), so it stays where it is",
            wrong.join("; ")
        )
    }

    /// Moves what is in the source to its trash; what describes it first, so that nobody begins to read there.
    async fn clear(&self, keys: &[String]) -> Result<(), StoreError> {
        let now = now_ms();
        for key in keys.iter().rev() {
            self.from.trash(key, now).await?;
            crash::point("move.trashed");
        }
        Ok(())
    }
}
