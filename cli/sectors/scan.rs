//! Bringing the index up to date by what the stores list.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use sealflow_engine::artifact::{ArtifactStore, SCRATCH, StoreError, Stores};
use sealflow_stages::sectors::{FOLDERS, SectorId};

use super::{Index, Size};
use crate::home::Home;

/// Keys of one store that are looked at at once.
const AT_ONCE: usize = 32;

/// The index, and what could not be seen.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) index: Index,
    /// Stores that did not answer, and why. What was known of them is still in the index.
    pub(crate) silent: Vec<(String, StoreError)>,
}

/// What one store has: keys that are new or gone, and the size of each. Nothing is a key that is gone.
type Seen = BTreeMap<(SectorId, String), Option<Size>>;

/// Lists all stores, and looks at what is new. With `anew` everything is looked at.
pub(crate) async fn refresh(stores: &Stores, home: &Home, anew: bool) -> anyhow::Result<Scan> {
    let known = Index::read(home);
    let all: Vec<_> = stores.iter().filter(|store| store.name() != SCRATCH).collect();
    let looked = all.iter().map(|store| look(&***store, &known, anew));
    let looked = futures::future::join_all(looked).await;
    let (mut seen, mut silent) = (Vec::new(), Vec::new());
    for (store, result) in all.iter().zip(looked) {
        match result {
            Ok(changes) => seen.push((store.name().to_owned(), changes)),
            Err(error) => silent.push((store.name().to_owned(), error)),
        }
    }
    let names: BTreeSet<String> = all.iter().map(|store| store.name().to_owned()).collect();
    let index = Index::change(home, |index| {
        for (store, changes) in seen {
            for ((id, key), size) in changes {
                let held = index.held(id, &store);
                match size {
                    Some(size) => {
                        let old = held.files.get(&key);
                        // A digest that was found by reading is kept while the size is the same.
                        let digest = size.digest.or_else(|| {
                            old.filter(|old| old.bytes == size.bytes && !anew)
                                .and_then(|old| old.digest.clone())
                        });
                        let bytes = size.bytes;
                        if held
                            .files
                            .insert(key, Size { bytes, digest })
                            .is_some_and(|old| old.bytes != bytes)
                        {
                            held.checked = None;
                        }
                    }
                    None => {
                        held.files.remove(&key);
                        held.checked = None;
                    }
                }
            }
        }
        // A store that is not configured any more holds nothing that could be had.
        for held in index.sectors.values_mut() {
            held.retain(|store, _| names.contains(store));
        }
        index.clone()
    })?;
    Ok(Scan { index, silent })
}

/// What is new in a store, and what is gone.
async fn look(store: &dyn ArtifactStore, known: &Index, anew: bool) -> Result<Seen, StoreError> {
    let mut listed = BTreeSet::new();
    for folder in FOLDERS {
        let mut after: Option<String> = None;
        loop {
            let names = store.list(folder, after.as_deref()).await?;
            for name in &names {
                listed.extend(SectorId::of_name(name).map(|id| (id, format!("{folder}/{name}"))));
            }
            match names.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
    }
    let before: BTreeSet<(SectorId, String)> = known
        .sectors()
        .into_iter()
        .filter_map(|(id, held)| Some((id, held.get(store.name())?)))
        .flat_map(|(id, held)| held.files.keys().map(move |key| (id, key.clone())))
        .collect();
    // What is not listed any more is looked at too: a server's list may be older than what is there.
    let wanted: Vec<(SectorId, String)> = match anew {
        true => listed.union(&before).cloned().collect(),
        false => listed.symmetric_difference(&before).cloned().collect(),
    };
    let one = |(id, key): (SectorId, String)| async move {
        let found = store.stat(&key).await?;
        let size = found.map(|stat| Size {
            bytes: stat.bytes(),
            digest: stat
                .files
                .first()
                .filter(|_| !stat.is_folder)
                .and_then(|file| file.digest.clone()),
        });
        Ok::<_, StoreError>(((id, key), size))
    };
    let all: Vec<Result<_, StoreError>> = stream::iter(wanted)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    all.into_iter().collect()
}
