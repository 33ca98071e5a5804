//! The stores of a process by their names, and where in them something is: what was moved to another store, or has
//! copies in several, is found under its key in the next one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::placement::Reserved;
use super::{Artifact, ArtifactStore, SCRATCH, StoreError};

/// How long a store is asked whether it has something, before the next one is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stores of a process, by name.
#[derive(Clone, Default)]
pub struct Stores {
    all: Arc<Vec<Arc<dyn ArtifactStore>>>,
    pub(super) reserved: Arc<Reserved>,
}

impl Stores {
    /// Takes the stores. The first of two with one name wins.
    pub fn new(stores: Vec<Arc<dyn ArtifactStore>>) -> Self {
        Self {
            all: Arc::new(stores),
            reserved: Arc::default(),
        }
    }

    /// The store of this name.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn get(&self, name: &str) -> Result<&Arc<dyn ArtifactStore>, StoreError> {
        self.all
            .iter()
            .find(|store| store.name() == name)
            .ok_or_else(|| StoreError::Unknown {
                name: name.to_owned(),
                known: self
                    .all
                    .iter()
                    .map(|store| store.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn ArtifactStore>> {
        self.all.iter()
    }

    /// The stores where something may be that was recorded in `store`: that one first, then the others. What is in the
    /// scratch folder is nowhere else.
    pub fn candidates<'a>(&'a self, store: &'a str) -> impl Iterator<Item = &'a Arc<dyn ArtifactStore>> {
        let own = self.all.iter().filter(move |one| one.name() == store);
        let others = self
            .all
            .iter()
            .filter(move |one| store != SCRATCH && one.name() != store && one.name() != SCRATCH);
        own.chain(others)
    }

    /// The local path of an artifact: where it is recorded, or in another store that has it.
    ///
    /// # Errors
    /// An unknown store, or one without local paths.
    pub fn local_path(&self, artifact: &Artifact) -> Result<PathBuf, StoreError> {
        let known = self.get(&artifact.store);
        let own = match &known {
            Ok(store) => store.local_path(&artifact.key)?,
            Err(_) => None,
        };
        if let Some(path) = own.as_ref().filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        for store in self
            .candidates(&artifact.store)
            .filter(|one| one.name() != artifact.store)
        {
            if let Some(path) = store.local_path(&artifact.key)?.filter(|path| path.exists()) {
                return Ok(path);
            }
        }
        known?;
        own.ok_or_else(|| StoreError::Refused {
            store: artifact.store.clone(),
            what: format!(
                "it has no local paths, and this work needs `{}` as a local file",
                artifact.key
            ),
        })
    }

    /// The artifact as it can be had now: where it is recorded, or in the next store that has it whole, by its size.
    ///
    /// # Errors
    /// No store has it. If one of them could not be asked, that is the error, because it may be there.
    pub async fn find(&self, artifact: &Artifact) -> Result<Artifact, StoreError> {
        let mut wrong = self.get(&artifact.store).err();
        let mut passing = None;
        for store in self.candidates(&artifact.store) {
            let error = match whole(&**store, artifact).await {
                Ok(()) => {
                    let store = store.name().to_owned();
                    return Ok(Artifact {
                        store,
                        ..artifact.clone()
                    });
                }
                Err(error) => error,
            };
            if matches!(error, StoreError::Unavailable { .. }) {
                passing.get_or_insert(error);
            } else if store.name() == artifact.store {
                wrong = Some(error);
            }
        }
        Err(passing.or(wrong).unwrap_or_else(|| StoreError::Missing {
            store: artifact.store.clone(),
            key: artifact.key.clone(),
        }))
    }
}

/// Whether a store has an artifact, as far as its size tells.
async fn whole(store: &dyn ArtifactStore, artifact: &Artifact) -> Result<(), StoreError> {
    let (name, key) = (store.name().to_owned(), artifact.key.clone());
    let Ok(found) = tokio::time::timeout(PATIENCE, store.stat(&artifact.key)).await else {
        let what = format!("no answer in {} s", PATIENCE.as_secs());
        return Err(StoreError::Unavailable { store: name, what });
    };
    let Some(found) = found? else {
        return Err(StoreError::Missing { store: name, key });
    };
    if found.bytes() != artifact.bytes {
        let what = format!("it has {} bytes instead of {}", found.bytes(), artifact.bytes);
        return Err(StoreError::Damaged {
            store: name,
            key,
            what,
        });
    }
    Ok(())
}
