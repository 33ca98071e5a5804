//! Where a step keeps something, and putting it there. The choice is written down before bytes move, so that it is the
//! same when the attempt is repeated after a kill; and in each store a mark says what is being put there, so that what
//! a run leaves behind that never came to its end is known for what it is.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use sealflow_engine::artifact::placement::{Among, Chosen, MOST_COPIES, NoPlace, Reservation, Wish};
use sealflow_engine::artifact::{Artifact, ArtifactStore, DRAINING, PUTTING};
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;
use sealflow_engine::{crash, durable};
use serde::{Deserialize, Serialize};

use crate::progress;
use crate::types::ActorId;

/// The store that takes what no other is named for.
pub(crate) const DEFAULT: &str = "store";

/// A store that keeps something, and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "kept")]
pub struct Kept {
    /// The store.
    pub store: String,
    /// Why this one.
    pub why: String,
}

/// What a step asks for.
pub(crate) struct Asked<'a> {
    /// The stores that may take it, as the step names them.
    pub(crate) stores: Option<&'a str>,
    /// In how many.
    pub(crate) copies: Option<u64>,
    /// All bytes.
    pub(crate) bytes: u64,
    /// What begins to count when this key is there: it is put last.
    pub(crate) counts: &'a str,
    /// All keys, the one that counts last.
    pub(crate) keys: Vec<String>,
}

/// The choice, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    among: String,
    copies: u64,
    chosen: Vec<Kept>,
}

/// What is being put into a store, as its mark says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Putting {
    /// The version of this form: 1.
    pub version: u32,
    /// What the run is about.
    pub subject: String,
    /// The run.
    pub run: String,
    /// The step.
    pub step: String,
    /// The keys, the one that counts last.
    pub keys: Vec<String>,
    /// The store that it is moved out of, if it is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Stores that keep something, with room reserved in them.
pub(crate) struct Keep {
    pub(crate) chosen: Vec<Kept>,
    keys: Vec<String>,
    mark: String,
    held: Reservation,
    bytes: u64,
}

impl Keep {
    /// Chooses the stores, or takes those that were chosen before.
    pub(crate) async fn choose(cx: &StageContext, asked: Asked<'_>) -> Result<Self, Failure> {
        let text = asked.stores.unwrap_or(DEFAULT);
        let bad = |why: String| Failure::permanent("bad_input", why);
        let among = Among::parse(text).map_err(|why| bad(format!("`store`: {why}")))?;
        let copies = asked.copies.unwrap_or(1);
        if !(1..=MOST_COPIES).contains(&copies) {
            return Err(bad(format!(
                "`copies` is {copies}; it must be 1 to {MOST_COPIES}"
            )));
        }
        let path = record_path(cx)?;
        let mut chosen = earlier(cx, &path, &among, copies).await?;
        let held = cx.stores.reserve(&told(&chosen), asked.bytes);
        let missing = copies.saturating_sub(chosen.len() as u64);
        let mut more = None;
        if missing > 0 {
            let wish = Wish {
                copies: missing,
                miner: miner_of(cx),
                bytes: asked.bytes,
                known_by: Some(asked.counts.to_owned()),
                not: chosen.iter().map(|one| one.store.clone()).collect(),
                among: among.clone(),
            };
            let (new, room) = cx.stores.choose(&wish).await.map_err(NoPlace::error)?;
            chosen.extend(new.into_iter().map(|one| Kept {
                store: one.store,
                why: one.why,
            }));
            more = Some(room);
            write_record(&path, &among, copies, &chosen)?;
            for one in &chosen {
                tracing::info!(subject = %cx.subject, step = %cx.key.step, store = one.store, why = one.why, "kept here");
            }
        }
        crash::point("keep.chosen");
        // One promise for all of them.
        let held = match more {
            None => held,
            Some(_) => cx.stores.reserve(&told(&chosen), asked.bytes),
        };
        let keep = Self {
            mark: format!("{PUTTING}{}", asked.counts.replace('/', "+")),
            keys: asked.keys,
            bytes: asked.bytes,
            chosen,
            held,
        };
        keep.say_so(cx).await?;
        Ok(keep)
    }

    /// Marks the stores.
    async fn say_so(&self, cx: &StageContext) -> Result<(), Failure> {
        let putting = Putting {
            version: 1,
            subject: cx.subject.as_str().to_owned(),
            run: cx.key.run.to_string(),
            step: cx.key.step.to_string(),
            keys: self.keys.clone(),
            from: None,
        };
        let text = serde_json::to_vec(&putting).unwrap_or_default();
        for one in &self.chosen {
            cx.stores
                .get(&one.store)?
                .set_mark(&self.mark, Some(&text))
                .await?;
            crash::point("keep.marked");
        }
        Ok(())
    }

    /// Puts files or folders into each of the stores, one store after the other: each is whole before the next is
    /// begun. What counts is the last of them. Gives the artifacts of the first store.
    pub(crate) async fn put(
        &self,
        cx: &StageContext,
        what: &[(&str, &Path)],
    ) -> Result<Vec<Artifact>, Failure> {
        let mut first = Vec::new();
        for (at, one) in self.chosen.iter().enumerate() {
            let store = cx.stores.get(&one.store)?;
            let shows_at_once = store.kind() == "filesystem";
            let phase = match self.chosen.len() {
                1 => format!("copying to `{}`", one.store),
                count => format!("copying to `{}`, {} of {count}", one.store, at + 1),
            };
            out_of_the_way(&**store, what).await?;
            let mut sum = 0;
            for ((key, from), whole) in what.iter().zip(&self.keys) {
                debug_assert_eq!(key, whole);
                let done = |bytes: u64| {
                    progress::bytes(cx, &phase, sum + bytes, self.bytes);
                    if shows_at_once {
                        self.held.left(&one.store, self.bytes.saturating_sub(sum + bytes));
                    }
                };
                let artifact = store.put(key, from, &done).await?;
                sum += artifact.bytes;
                self.held.left(&one.store, self.bytes.saturating_sub(sum));
                crash::point("keep.put");
                if at == 0 {
                    first.push(artifact);
                }
            }
            store.set_mark(&self.mark, None).await?;
            crash::point("keep.whole");
        }
        Ok(first)
    }
}

/// What counts is put last; another one of an earlier try must not count while what it describes is written over.
async fn out_of_the_way(store: &dyn ArtifactStore, what: &[(&str, &Path)]) -> Result<(), Failure> {
    let [.., (key, from)] = what else {
        return Ok(());
    };
    if what.len() == 1 {
        return Ok(());
    }
    let Some(stat) = store.stat(key).await? else {
        return Ok(());
    };
    let wanted = std::fs::read(from).map_err(|error| Failure::io("read", from, &error))?;
    let same = stat.bytes() == wanted.len() as u64 && store.read(key, "", 0..stat.bytes()).await? == wanted;
    if !same {
        tracing::info!(store = store.name(), key, "what an earlier try left is replaced");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        store.trash(key, now).await?;
        crash::point("keep.out_of_the_way");
    }
    Ok(())
}

fn told(chosen: &[Kept]) -> Vec<Chosen> {
    let one = |one: &Kept| Chosen {
        store: one.store.clone(),
        why: String::new(),
    };
    chosen.iter().map(one).collect()
}

/// Where the choice of this step is written down: beside the folders of its attempts.
fn record_path(cx: &StageContext) -> Result<PathBuf, Failure> {
    let own = cx.attempt_dir()?;
    Ok(own.with_file_name(format!("{}.{}.stores.json", cx.key.step, cx.key.visit)))
}

fn write_record(path: &Path, among: &Among, copies: u64, chosen: &[Kept]) -> Result<(), Failure> {
    let record = Record {
        version: 1,
        among: among.to_string(),
        copies,
        chosen: chosen.to_vec(),
    };
    let text = serde_json::to_vec(&record).unwrap_or_default();
    durable::write(path, &text).map_err(|error| Failure::io("write", path, &error))
}

/// The stores that an earlier attempt chose, as far as they still take something.
async fn earlier(cx: &StageContext, path: &Path, among: &Among, copies: u64) -> Result<Vec<Kept>, Failure> {
    let record = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice::<Record>(&bytes).ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::io("read", path, &error)),
    };
    let record = record.filter(|record| {
        (record.version, record.among.as_str(), record.copies) == (1, among.to_string().as_str(), copies)
    });
    let mut kept = Vec::new();
    for one in record.map(|record| record.chosen).unwrap_or_default() {
        let why = match cx.stores.get(&one.store) {
            Err(_) => "it is not configured any more",
            Ok(store) if store.policy().read_only => "it is for reading only now",
            Ok(store) if store.mark(DRAINING).await?.is_some() => "it is being drained now",
            Ok(_) => {
                kept.push(one);
                continue;
            }
        };
        tracing::warn!(subject = %cx.subject, store = one.store, why, "another store is chosen");
    }
    Ok(kept)
}

/// Whose sector the run is about.
fn miner_of(cx: &StageContext) -> Option<u64> {
    let miner = cx.subject.as_str().split('/').next()?;
    miner.parse::<ActorId>().ok().map(|miner| miner.0)
}
