//! Copies one file or folder from where it is to a store, or to several, and verifies it there.
//!
//! **Reads** the artifact.
//!
//! **Writes** it into the store under the given key, or the key it has: under a temporary name,
//! checksummed and made durable before it gets its own. A copy that was broken off goes on. What another
//! program copied is compared with the source byte by byte.
//!
//! **Costs** one core for checksums; the artifact's size in the store.
//!
//! **Fails**
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `bad_input` (permanent): `to_store` or `copies` make no sense; the message says how they are written.
//! - `artifact_missing` (permanent): the artifact is not where it was.
//! - `bad_route` (permanent): asked by another program to copy over something of another kind.
//! - `store_refused` (permanent): the store is for reading only, is being drained, or refuses; of several, too few
//!   take it. The message says why and what to do.
//! - `store_unavailable` (transient): the store does not answer or has no room; of several, too few do. Tried again.
//! - `no_space` (transient): free space in the store; it is tried again.
//! - `no_permission` (permanent): let sealflow write to the store, then retry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keep::{Asked, Keep, Kept};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// What to copy.
    pub artifact: Artifact,
    /// The store to copy to. Of several (`NAME,NAME`, or `any`) those are chosen that take it and have room for it, by
    /// weight against what is free.
    pub to_store: String,
    /// To how many stores; one if nothing is said.
    #[serde(default)]
    pub copies: Option<u64>,
    /// The key to store it under; if nothing is said, the one it has.
    #[serde(default)]
    pub to_key: Option<String>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The copy, in the first of the stores.
    pub transferred: Artifact,
    /// All stores that keep it, under the same key, and why these.
    #[serde(default)]
    pub transferred_to: Vec<Kept>,
}

/// See the module.
#[derive(Clone)]
pub struct Transfer;

impl Stage for Transfer {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("transfer.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The stores that are named in the routes.
    pub stores: BTreeMap<String, StoreInfo>,
    /// What to copy.
    pub routes: Vec<Route>,
}

/// A store, as far as the program that copies must know it.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Its name.
    pub name: String,
    /// What its configuration says of it.
    pub meta: Option<BTreeMap<String, String>>,
}

/// One file or folder to copy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Route {
    /// From where.
    pub src: Item,
    /// To where.
    pub dest: Item,
    /// How.
    pub opt: Option<Options>,
}

/// A place.
#[derive(Debug, Serialize, Deserialize)]
pub struct Item {
    /// The store; none for this host's scratch space.
    pub store_name: Option<String>,
    /// The path there.
    pub uri: PathBuf,
}

/// How to copy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Options {
    /// Whether it is a folder, for information.
    pub is_dir: bool,
    /// Whether a link will do.
    pub allow_link: bool,
}

/// What is copied to where.
pub struct Held {
    from: PathBuf,
    keep: Keep,
}

/// Copies `from` to where it belongs, as far as that is not there yet, and verifies it.
async fn put(cx: &StageContext, input: &Input, keep: &Keep, from: &Path) -> Result<Outcome<Output>, Failure> {
    let key = input.to_key.as_deref().unwrap_or(&input.artifact.key);
    let put = keep.put(cx, &[(key, from)]).await?;
    let transferred = put.into_iter().next();
    let transferred = transferred.ok_or_else(|| Failure::permanent("bad_output", "nothing was kept"))?;
    progress::phase(cx, "verifying");
    for one in &keep.chosen {
        let store = one.store.clone();
        let copy = Artifact {
            store,
            ..transferred.clone()
        };
        cx.stores.get(&one.store)?.verify(&copy).await?;
    }
    Ok(Outcome::Done(Output {
        transferred,
        transferred_to: keep.chosen.clone(),
    }))
}

impl WireStage for Transfer {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = bool;
    type Held = Held;

    async fn prepare(
        &self,
        cx: &StageContext,
        input: &Arc<Input>,
        place: Place,
    ) -> Result<Next<Self>, Failure> {
        let artifact = cx.stores.find(&input.artifact).await?;
        let store = cx.stores.get(&artifact.store)?.clone();
        let from = match store.local_path(&artifact.key)? {
            Some(path) => path,
            None => {
                let path = cx.attempt_dir()?.join("fetched");
                let total = artifact.bytes;
                let done = |bytes: u64| progress::bytes(cx, "copying", bytes, total);
                durable::remove(&path).map_err(|error| Failure::io("remove", &path, &error))?;
                store.get(&artifact, &path, &done).await?;
                path
            }
        };
        let key = input.to_key.as_deref().unwrap_or(&input.artifact.key);
        let asked = Asked {
            stores: Some(&input.to_store),
            copies: input.copies,
            bytes: input.artifact.bytes,
            counts: key,
            keys: vec![key.to_owned()],
        };
        let keep = Keep::choose(cx, asked).await?;
        let (name, staging) = match &keep.chosen[..] {
            [one] => (one.store.clone(), cx.stores.get(&one.store)?.staging(key)?),
            _ => (String::new(), None),
        };
        // In this process the store copies by itself, and so it does where there are several.
        let (Place::Away { .. }, Some(staging)) = (place, staging) else {
            return put(cx, input, &keep, &from).await.map(Next::End);
        };
        durable::remove(&staging).map_err(|error| Failure::io("remove", &staging, &error))?;
        let is_dir = from.is_dir();
        let item = |store_name: Option<&str>, uri: &Path| Item {
            store_name: store_name.map(str::to_owned),
            uri: uri.to_owned(),
        };
        let info = StoreInfo {
            name: name.clone(),
            meta: None,
        };
        let route = Route {
            src: item(None, &from),
            dest: item(Some(&name), &staging),
            opt: Some(Options {
                is_dir,
                allow_link: false,
            }),
        };
        let task = Task {
            stores: BTreeMap::from([(name, info)]),
            routes: vec![route],
        };
        progress::phase(cx, "copying");
        Ok(Next::Compute {
            task,
            held: Held { from, keep },
        })
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<bool, Failure> {
        let links = std::env::var_os("DISABLE_LINK").is_none();
        for route in &task.routes {
            copy_tree(route, links)?;
        }
        Ok(true)
    }

    fn finish(&self, cx: &StageContext, input: &Input, held: Held, _: bool) -> Result<Next<Self>, Failure> {
        // The store takes what is the same, byte by byte, and copies the rest.
        let put = put(cx, input, &held.keep, &held.from);
        tokio::runtime::Handle::current().block_on(put).map(Next::End)
    }
}

/// Copies or links as Damocles does: what is in the way is removed if it is of the same kind.
fn copy_tree(route: &Route, links: bool) -> Result<(), Failure> {
    let (from, to) = (&route.src.uri, &route.dest.uri);
    let bad = |what: String| Failure::permanent("bad_route", what);
    if !from.is_absolute() || !to.is_absolute() {
        return Err(bad(format!(
            "{} to {}: both must be absolute",
            from.display(),
            to.display()
        )));
    }
    let is_dir = std::fs::metadata(from)
        .map_err(|error| Failure::io("read", from, &error))?
        .is_dir();
    if let Ok(there) = std::fs::symlink_metadata(to) {
        if there.is_dir() != is_dir && !there.is_symlink() {
            return Err(bad(format!(
                "{} and {} are not of one kind",
                from.display(),
                to.display()
            )));
        }
        durable::remove(to).map_err(|error| Failure::io("remove", to, &error))?;
    }
    let above = to.parent().unwrap_or(to);
    std::fs::create_dir_all(above).map_err(|error| Failure::io("make", above, &error))?;
    if links && route.opt.as_ref().is_some_and(|opt| opt.allow_link) {
        return std::os::unix::fs::symlink(from, to).map_err(|error| Failure::io("link", to, &error));
    }
    copy_all(from, to)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Failure> {
    if !from.is_dir() {
        std::fs::copy(from, to).map_err(|error| Failure::io("copy to", to, &error))?;
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(|error| Failure::io("make", to, &error))?;
    for entry in std::fs::read_dir(from).map_err(|error| Failure::io("list", from, &error))? {
        let entry = entry.map_err(|error| Failure::io("list", from, &error))?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form() {
        crate::golden::both_ways::<Transfer>(
            r#"{"stores":{"store1":{"name":"store1","meta":{"Bucket":"sealed"}}},"routes":[{"src":{"store_name":null,"uri":"/mnt/nvme1/store/data/sealed/s-t01000-7"},"dest":{"store_name":"store1","uri":"/mnt/remote/store1/sealed/s-t01000-7"},"opt":null},{"src":{"store_name":"store1","uri":"/mnt/remote/store1/cache/s-t01000-7/p_aux"},"dest":{"store_name":null,"uri":"/mnt/nvme1/store/data/cache/s-t01000-7/p_aux"},"opt":{"is_dir":false,"allow_link":true}}]}"#,
            "true",
        );
    }

    #[test]
    fn copies_and_links_as_damocles_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("from/deep")).unwrap();
        std::fs::write(at("from/deep/file"), "x").unwrap();
        let route = |from: &str, to: &str, allow_link| Route {
            src: Item {
                store_name: None,
                uri: at(from),
            },
            dest: Item {
                store_name: None,
                uri: at(to),
            },
            opt: Some(Options {
                is_dir: true,
                allow_link,
            }),
        };
        copy_tree(&route("from", "to/there", false), true).unwrap();
        std::fs::write(at("to/there/old"), "").unwrap();
        copy_tree(&route("from", "to/there", false), true).unwrap();
        assert!(!at("to/there/old").exists() && at("to/there/deep/file").exists());
        copy_tree(&route("from", "linked", true), true).unwrap();
        assert!(at("linked").is_symlink());
        copy_tree(&route("from", "linked", true), false).unwrap();
        assert!(!at("linked").is_symlink() && at("linked/deep/file").exists());
        let kinds = copy_tree(&route("from/deep/file", "linked", false), true).unwrap_err();
        assert_eq!(kinds.code, "bad_route");
        assert_eq!(
            copy_tree(&route("none", "x", false), true).unwrap_err().code,
            "path_missing"
        );
    }
}
