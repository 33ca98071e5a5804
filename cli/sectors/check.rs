//! Looking at one sector in one store: is it whole, and what would a proof of spacetime say of it.

use std::sync::Arc;

use sealflow_engine::artifact::{Artifact, ArtifactStore, READ_LIMIT, SCRATCH, StoreError, Stores};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, RunId, StepName, Subject};
use sealflow_engine::stage::StageContext;
use sealflow_stages::post::check::provable;
use sealflow_stages::sectors::{self, Described, SectorId};
use sealflow_stages::{SectorInfo, UpdateInfo};
use sealflow_storage::store::FilesystemStore;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Check, Held};
use crate::span::now_ms;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Sizes, and the ranges that a proof of spacetime reads.
    Quick,
    /// Every byte.
    Deep,
}

/// Looks at a sector in a store. Gives what it found, with digests that were learnt on the way in `held`.
pub(crate) async fn check(
    stores: &Stores,
    store: &Arc<dyn ArtifactStore>,
    id: SectorId,
    held: &mut Held,
    depth: Depth,
) -> anyhow::Result<Check> {
    let fault = match sectors::described(stores, store.name(), id).await {
        Err(failure) => Some(said(failure)?),
        Ok(described) => fault(store, id, &described, held, depth).await?,
    };
    Ok(Check {
        at_ms: now_ms(),
        deep: depth == Depth::Deep,
        fault,
    })
}

/// A failure as what is wrong with a sector; a store that does not answer says nothing about it.
fn said(failure: Failure) -> anyhow::Result<String> {
    if failure.code == "store_unavailable" || failure.code == "store_refused" {
        anyhow::bail!("{}", failure.message);
    }
    Ok(failure.message)
}

async fn fault(
    store: &Arc<dyn ArtifactStore>,
    id: SectorId,
    described: &Described,
    held: &mut Held,
    depth: Depth,
) -> anyhow::Result<Option<String>> {
    let (Some(replica), Some(bytes)) = (described.replica(id, store.name()), described.sector_bytes()) else {
        let text = format!(
            "nothing describes it: `sealflow sector import {} {id}` checks it and describes it",
            store.name()
        );
        return Ok(Some(text));
    };
    if let Some(wrong) = sizes(&**store, id, described, bytes).await? {
        return Ok(Some(wrong));
    }
    let folder = tempfile::tempdir()?;
    let scratch: Arc<dyn ArtifactStore> = Arc::new(FilesystemStore::new(SCRATCH, folder.path())?);
    let cx = context(id, Stores::new(vec![scratch, store.clone()]))?;
    let checked = provable(&cx, id.miner, bytes, replica).await;
    match checked {
        Err(failure) => return said(failure).map(Some),
        Ok(checked) if checked.fault.is_some() => return Ok(checked.fault),
        Ok(_) => {}
    }
    match depth {
        Depth::Quick => Ok(None),
        Depth::Deep => content(&**store, held).await,
    }
}

/// What a proof of spacetime would say of a sector if it were described like this.
pub(crate) async fn provable_as(
    store: &Arc<dyn ArtifactStore>,
    id: SectorId,
    info: &SectorInfo,
    update: Option<&UpdateInfo>,
) -> anyhow::Result<Option<String>> {
    let described = Described {
        info: Some(info.clone()),
        update: update.cloned(),
    };
    // The replica below an update must be whole too: its data cannot be had without it.
    let without = Described {
        update: None,
        ..described.clone()
    };
    for described in [&without, &described] {
        let found = fault(store, id, described, &mut Held::default(), Depth::Quick).await?;
        if found.is_some() || update.is_none() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What is missing, or has another size than it must have.
async fn sizes(
    store: &dyn ArtifactStore,
    id: SectorId,
    described: &Described,
    sector_bytes: u64,
) -> anyhow::Result<Option<String>> {
    let mut wanted = Vec::new();
    if described.info.is_some() {
        wanted.push((id.key(sectors::SEALED), Some(sector_bytes)));
        wanted.push((id.key(sectors::CACHE), None));
    }
    if described.update.is_some() {
        wanted.push((id.key(sectors::UPDATE), Some(sector_bytes)));
        wanted.push((id.key(sectors::UPDATE_CACHE), None));
    }
    for (key, bytes) in wanted {
        match store.stat(&key).await? {
            None => return Ok(Some(format!("`{key}` is missing"))),
            Some(stat) => {
                let found = stat.bytes();
                if let Some(bytes) = bytes.filter(|bytes| *bytes != found) {
                    return Ok(Some(format!("`{key}` has {found} bytes instead of {bytes}")));
                }
            }
        }
    }
    Ok(None)
}

/// What is not as it was when its digest was taken. Where none was taken, it is now.
async fn content(store: &dyn ArtifactStore, held: &mut Held) -> anyhow::Result<Option<String>> {
    for (key, size) in &mut held.files {
        let Some(stat) = store.stat(key).await? else {
            return Ok(Some(format!("`{key}` is missing")));
        };
        let mut digest = size.digest.clone();
        if digest.is_none() && !stat.is_folder {
            digest = Some(hash(store, key, stat.bytes()).await?);
        }
        let artifact = Artifact {
            store: store.name().to_owned(),
            key: key.clone(),
            bytes: stat.bytes(),
            digest,
        };
        match store.verify(&artifact).await {
            Ok(()) => {}
            Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. })) => {
                return Ok(Some(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        size.digest = artifact.digest;
    }
    Ok(None)
}

/// SHA-256 of a file that nothing remembers the digest of.
async fn hash(store: &dyn ArtifactStore, key: &str, bytes: u64) -> Result<String, StoreError> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < bytes {
        let end = bytes.min(at + READ_LIMIT / 4);
        hash.update(store.read(key, "", at..end).await?);
        at = end;
    }
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// What the stages' code is given to work with.
fn context(id: SectorId, stores: Stores) -> anyhow::Result<StageContext> {
    let key = AttemptKey {
        run: RunId::new(now_ms(), &rand::random()),
        step: StepName::new("check")?,
        visit: 1,
        attempt: 1,
    };
    let subject = Subject::new(&id.to_string())?;
    Ok(StageContext::new(
        key,
        subject,
        stores,
        CancellationToken::new(),
        |_| {},
    ))
}
