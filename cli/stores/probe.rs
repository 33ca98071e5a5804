//! Whether a store works: is it reached and let in, can something small be written, read, listed and removed, and has it
//! room.

use sealflow_engine::artifact::{ArtifactStore, DRAINING, StoreError};
use serde::Serialize;

use crate::span::now_ms;

/// How long one question may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// One question, and how it was answered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// What was tried.
    pub(crate) what: &'static str,
    pub(crate) ok: bool,
    /// What was found; of what failed, why and what to do.
    pub(crate) note: String,
}

/// Asks a store all of it. The first thing that fails ends it: what comes after would fail the same way.
pub(crate) async fn probe(store: &dyn ArtifactStore) -> Vec<Line> {
    let mut lines = Vec::new();
    if ask(store, &mut lines).await.is_err() {
        tracing::debug!(store = store.name(), "the store does not work");
    }
    lines
}

/// Notes an answer, and goes on if there was one.
fn noted<T>(
    lines: &mut Vec<Line>,
    what: &'static str,
    answer: Result<T, StoreError>,
    note: impl FnOnce(&T) -> String,
) -> Result<T, ()> {
    match answer {
        Ok(found) => {
            let note = note(&found);
            lines.push(Line { what, ok: true, note });
            Ok(found)
        }
        Err(error) => {
            let note = remedy(&error);
            lines.push(Line {
                what,
                ok: false,
                note,
            });
            Err(())
        }
    }
}

/// A failure with what to do about it.
fn remedy(error: &StoreError) -> String {
    let advice = match error {
        StoreError::Unavailable { .. } => {
            "; see that the server runs, that its address is right and that this machine reaches it"
        }
        StoreError::Missing { .. } => {
            "; what was written a moment ago is not there: the server does not keep what it says"
        }
        StoreError::Damaged { .. } => "; what came back is not what was written: do not keep sectors there",
        _ => "",
    };
    format!("{error}{advice}")
}

async fn patient<T>(
    store: &dyn ArtifactStore,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let waited = tokio::time::timeout(PATIENCE, asked).await;
    waited.unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            store: store.name().to_owned(),
            what: format!("no answer in {} s", PATIENCE.as_secs()),
        })
    })
}

async fn ask(store: &dyn ArtifactStore, lines: &mut Vec<Line>) -> Result<(), ()> {
    let listed = patient(store, store.list("", None)).await;
    noted(lines, "reach it and be let in", listed, |names| {
        match names.len() {
            0 => "it is empty".to_owned(),
            count => format!("{count} names at its top"),
        }
    })?;
    let free = patient(store, store.free()).await;
    noted(lines, "free space", free, |free| match free {
        Some(bytes) => format!("{bytes} bytes"),
        None => "it has no limit that it knows; set `capacity` if there is one".to_owned(),
    })?;
    if store.policy().read_only {
        lines.push(Line {
            what: "write",
            ok: true,
            note: "not tried: it is for reading only".to_owned(),
        });
        return Ok(());
    }
    let key = format!("sealflow-probe/{:x}-{}", now_ms(), std::process::id());
    let result = write(store, &key, lines).await;
    if result.is_err() {
        // What was written must not stay; that it cannot be removed was said already, if so.
        drop(patient(store, store.delete(&key)).await);
    }
    result?;
    let draining = patient(store, store.mark(DRAINING)).await;
    noted(lines, "drained", draining, |mark| match mark {
        Some(_) => "it is being drained: nothing new is put there".to_owned(),
        None => "no".to_owned(),
    })?;
    Ok(())
}

/// Writes something small, and looks for it in every way.
async fn write(store: &dyn ArtifactStore, key: &str, lines: &mut Vec<Line>) -> Result<(), ()> {
    let content: Vec<u8> = (0..1024_u32)
        .flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let io = |what: &'static str, path: &std::path::Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { what, path, source }
    };
    let temporary = std::env::temp_dir();
    let file = tempfile::NamedTempFile::new().map_err(io("make a file in", &temporary));
    let file = noted(lines, "a file to write", file, |_| String::new())?;
    lines.pop();
    let filled = std::fs::write(file.path(), &content).map_err(io("write", file.path()));
    noted(lines, "a file to write", filled, |()| String::new())?;
    lines.pop();
    let put = patient(store, store.put(key, file.path(), &|_| {})).await;
    let artifact = noted(lines, "write", put, |artifact| {
        format!("{} bytes as `{}`", artifact.bytes, artifact.key)
    })?;
    let verified = patient(store, store.verify(&artifact)).await;
    noted(lines, "read it back", verified, |()| "the same".to_owned())?;
    let range = patient(store, store.read(key, "", 1000..3000)).await;
    let range = range.and_then(|bytes| match bytes == content[1000..3000] {
        true => Ok(bytes),
        false => Err(StoreError::Damaged {
            store: store.name().to_owned(),
            key: key.to_owned(),
            what: "a range of it is not what was written there".to_owned(),
        }),
    });
    noted(lines, "read a range", range, |bytes| {
        format!("{} bytes, the same", bytes.len())
    })?;
    let listed = patient(store, store.list("sealflow-probe", None)).await;
    let own = key.rsplit('/').next().unwrap_or_default();
    let listed = listed.and_then(|names| match names.iter().any(|name| name == own) {
        true => Ok(()),
        false => Err(StoreError::Missing {
            store: store.name().to_owned(),
            key: format!("{key} (in its list)"),
        }),
    });
    noted(lines, "list it", listed, |()| "it is listed".to_owned())?;
    let gone = async {
        store.delete(key).await?;
        match store.stat(key).await? {
            None => Ok(()),
            Some(_) => Err(StoreError::Refused {
                store: store.name().to_owned(),
                what: format!("`{key}` is still there after it was removed"),
            }),
        }
    };
    let gone = patient(store, gone).await;
    noted(lines, "remove it", gone, |()| "it is gone".to_owned())?;
    Ok(())
}
