//! Which stores take something that is to be kept: those that may, that have room for it beside what is under way, and
//! of them by weight against what is free. Room is reserved before bytes move. A reservation is held by the attempt
//! that moves them and ends with it, however it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ArtifactStore, DRAINING, SCRATCH, StoreError, Stores};

/// How long a store may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most copies.
pub const MOST_COPIES: u64 = 16;

/// The word for all stores.
pub const ANY: &str = "any";

/// The stores that may take something, as a step names them: `NAME`, `NAME,NAME` or `any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Among {
    /// All that are configured.
    Any,
    /// These.
    Named(Vec<String>),
}

impl Among {
    /// Reads what a step says.
    ///
    /// # Errors
    /// Empty names, or the same twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == ANY {
            return Ok(Self::Any);
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let twice = |at: usize| names[..at].contains(&names[at]);
        if names.iter().any(String::is_empty) || (0..names.len()).any(twice) {
            return Err(format!(
                "`{text}` names no stores; write `NAME`, several as `NAME,NAME`, or `{ANY}`"
            ));
        }
        Ok(Self::Named(names))
    }

    /// The stores of these names, in the order of the configuration.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn of<'a>(&self, stores: &'a Stores) -> Result<Vec<&'a Arc<dyn ArtifactStore>>, StoreError> {
        match self {
            Self::Any => Ok(stores.iter().filter(|store| store.name() != SCRATCH).collect()),
            Self::Named(names) => names.iter().map(|name| stores.get(name)).collect(),
        }
    }
}

/// What is to be kept.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The stores that may take it.
    pub among: Among,
    /// In how many of them.
    pub copies: u64,
    /// Whose sector it is.
    pub miner: Option<u64>,
    /// How large it is.
    pub bytes: u64,
    /// A key that tells that a store has an earlier form of it, which is best written over.
    pub known_by: Option<String>,
    /// Stores that are not to take it.
    pub not: Vec<String>,
}

/// A store that takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub store: String,
    /// Why this one, in words.
    pub why: String,
}

/// Why no place was found.
#[derive(Debug)]
pub enum NoPlace {
    /// What was asked for cannot be: unknown stores, stores that may not take it, more copies than stores.
    Never(StoreError),
    /// There may be a place later.
    NotNow(StoreError),
}

/// How a store stands to what is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    store: String,
    weight: u32,
    /// Bytes that it has room for; nothing if it has no limit that it knows.
    room: Option<u64>,
    /// Whether it has an earlier form of it.
    known: bool,
}

/// Why a store does not take it, and whether that may change by itself.
struct Refusal {
    store: String,
    why: String,
    passing: bool,
}

/// Room that is promised to attempts of this process, by the number of the promise.
#[derive(Debug, Default)]
pub(super) struct Reserved(Mutex<Promises>);

#[derive(Debug, Default)]
struct Promises {
    last: u64,
    open: BTreeMap<u64, (String, u64)>,
}

impl Reserved {
    fn open(&self) -> MutexGuard<'_, Promises> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The promises as they are now.
    fn seen(&self) -> BTreeMap<u64, (String, u64)> {
        self.open().open.clone()
    }
}

impl Promises {
    /// What is promised of a store now or was when `seen` was taken: bytes that were written since then may not be
    /// in the free space that was measured after it.
    fn of(&self, store: &str, seen: &BTreeMap<u64, (String, u64)>) -> u64 {
        let earlier = |id: &u64| seen.get(id).map_or(0, |(_, bytes)| *bytes);
        let now = self.open.iter().filter(|(_, (name, _))| name == store);
        let now: u64 = now.map(|(id, (_, bytes))| (*bytes).max(earlier(id))).sum();
        let gone = seen
            .iter()
            .filter(|(id, (name, _))| name == store && !self.open.contains_key(id));
        now + gone.map(|(_, (_, bytes))| bytes).sum::<u64>()
    }
}

/// Room in stores that is promised to who holds this.
#[derive(Debug)]
pub struct Reservation {
    table: Arc<Reserved>,
    ids: Vec<(String, u64)>,
}

impl Reservation {
    /// What of the room in a store is still to be filled.
    pub fn left(&self, store: &str, bytes: u64) {
        let mut promises = self.table.open();
        for (_, id) in self.ids.iter().filter(|(name, _)| name == store) {
            if let Some((_, left)) = promises.open.get_mut(id) {
                *left = bytes;
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut promises = self.table.open();
        for (_, id) in &self.ids {
            promises.open.remove(id);
        }
    }
}

impl Stores {
    /// Bytes that are promised of a store to attempts of this process.
    pub fn reserved(&self, store: &str) -> u64 {
        self.reserved.open().of(store, &BTreeMap::new())
    }

    /// Chooses stores, and reserves room in them.
    ///
    /// # Errors
    /// Too few stores take it: each is named with why not.
    pub async fn choose(&self, wish: &Wish) -> Result<(Vec<Chosen>, Reservation), NoPlace> {
        let among = wish.among.of(self).map_err(NoPlace::Never)?;
        let seen = self.reserved.seen();
        let (offers, refused) = ask_all(among, wish).await;
        let mut promises = self.reserved.open();
        let with_room = |offer: Offer| Offer {
            room: offer
                .room
                .map(|free| free.saturating_sub(promises.of(&offer.store, &seen))),
            ..offer
        };
        let offers: Vec<Offer> = offers.into_iter().map(with_room).collect();
        let chosen = rank(offers, wish.bytes, wish.copies).map_err(|small| no_place(wish, small, refused))?;
        let mut ids = Vec::new();
        for one in &chosen {
            promises.last += 1;
            let id = promises.last;
            promises.open.insert(id, (one.store.clone(), wish.bytes));
            ids.push((one.store.clone(), id));
        }
        drop(promises);
        let table = self.reserved.clone();
        Ok((chosen, Reservation { table, ids }))
    }

    /// Reserves room in stores that were chosen before.
    pub fn reserve(&self, stores: &[Chosen], bytes: u64) -> Reservation {
        let mut promises = self.reserved.open();
        let mut ids = Vec::new();
        for one in stores {
            promises.last += 1;
            let id = promises.last;
            promises.open.insert(id, (one.store.clone(), bytes));
            ids.push((one.store.clone(), id));
        }
        drop(promises);
        Reservation {
            table: self.reserved.clone(),
            ids,
        }
    }
}

/// Asks all at once, so that one that hangs keeps nobody waiting for longer than itself.
async fn ask_all(among: Vec<&Arc<dyn ArtifactStore>>, wish: &Wish) -> (Vec<Offer>, Vec<Refusal>) {
    let mut asked = tokio::task::JoinSet::new();
    for store in among {
        let (store, wish) = (store.clone(), wish.clone());
        asked.spawn(async move {
            let name = store.name().to_owned();
            let refused = |why: String, passing| {
                let store = name.clone();
                Refusal { store, why, passing }
            };
            match tokio::time::timeout(PATIENCE, ask(&*store, &wish)).await {
                Err(_) => Err(refused(format!("no answer in {} s", PATIENCE.as_secs()), true)),
                Ok(Ok(offer)) => Ok(offer),
                Ok(Err((why, passing))) => Err(refused(why, passing)),
            }
        });
    }
    let (mut offers, mut refused) = (Vec::new(), Vec::new());
    for answer in asked.join_all().await {
        match answer {
            Ok(offer) => offers.push(offer),
            Err(refusal) => refused.push(refusal),
        }
    }
    refused.sort_by(|a, b| a.store.cmp(&b.store));
    (offers, refused)
}

/// How a store stands to a wish; or why it does not take it, and whether that may pass.
async fn ask(store: &dyn ArtifactStore, wish: &Wish) -> Result<Offer, (String, bool)> {
    let policy = store.policy();
    let never = |why: &str| Err((why.to_owned(), false));
    if wish.not.iter().any(|name| name == store.name()) {
        return never("it is not to take it");
    }
    if policy.read_only {
        return never("it is for reading only (`read_only` in the configuration)");
    }
    if let Some(miner) = wish.miner.filter(|miner| !policy.admits(*miner)) {
        let why = format!(
            "it takes no sectors of f0{miner} (`allow_miners` and `deny_miners` in the configuration)"
        );
        return Err((why, false));
    }
    if policy.weight == 0
        && (wish.among == Among::Any || matches!(&wish.among, Among::Named(all) if all.len() > 1))
    {
        return never("its weight is 0: it is only taken where a step names it alone");
    }
    // Who is told of it is told which store it is.
    let passing = |error: StoreError| match error {
        StoreError::Refused { what, .. } => (what, false),
        StoreError::Unavailable { what, .. } => (what, true),
        StoreError::BadKey(_) => (error.to_string(), false),
        _ => (error.to_string(), true),
    };
    if store.mark(DRAINING).await.map_err(passing)?.is_some() {
        return never("it is being drained (`sealflow store drain`)");
    }
    let known = match &wish.known_by {
        Some(key) => store.stat(key).await.map_err(passing)?.is_some(),
        None => false,
    };
    Ok(Offer {
        store: store.name().to_owned(),
        weight: policy.weight,
        room: store.free().await.map_err(passing)?,
        known,
    })
}

/// The best of the offers: those that have an earlier form of it, then by weight against what is free, then by name.
/// If they are too few, those that have too little room.
fn rank(offers: Vec<Offer>, bytes: u64, copies: u64) -> Result<Vec<Chosen>, Vec<Offer>> {
    let (mut good, small): (Vec<Offer>, Vec<Offer>) = offers
        .into_iter()
        .partition(|offer| offer.room.is_none_or(|room| room >= bytes));
    let wanted = usize::try_from(copies).unwrap_or(usize::MAX);
    if good.len() < wanted {
        return Err(small);
    }
    // A store without a limit counts as much as the emptiest that has one.
    let most = good.iter().filter_map(|offer| offer.room).max().unwrap_or(1);
    let score = |offer: &Offer| u128::from(offer.weight) * u128::from(offer.room.unwrap_or(most));
    good.sort_by(|a, b| {
        let by = |offer: &Offer| (offer.known, score(offer));
        by(b).cmp(&by(a)).then_with(|| a.store.cmp(&b.store))
    });
    let count = good.len();
    let why = |offer: &Offer| {
        let room = match offer.room {
            Some(room) => format!("{room} bytes free beside what is reserved"),
            None => "no limit".to_owned(),
        };
        let first = if offer.known {
            "has an earlier form of it; "
        } else {
            ""
        };
        format!(
            "{first}weight {}, {room}; of {count} that can take it",
            offer.weight
        )
    };
    let chosen = good.iter().take(wanted).map(|offer| Chosen {
        store: offer.store.clone(),
        why: why(offer),
    });
    Ok(chosen.collect())
}

/// What to say when too few stores take it.
fn no_place(wish: &Wish, small: Vec<Offer>, refused: Vec<Refusal>) -> NoPlace {
    let passing = !small.is_empty() || refused.iter().any(|one| one.passing);
    let mut whys: Vec<(String, String)> = refused.into_iter().map(|one| (one.store, one.why)).collect();
    for offer in small {
        let room = offer.room.unwrap_or(0);
        let why = format!(
            "{} bytes do not fit into the {room} that are free and not reserved",
            wish.bytes
        );
        whys.push((offer.store, why));
    }
    let one = matches!(&wish.among, Among::Named(names) if names.len() == 1);
    let (store, what) = match &whys[..] {
        [(store, why)] if one => (store.clone(), why.clone()),
        _ => {
            let all: Vec<String> = whys
                .iter()
                .map(|(store, why)| format!("{store}: {why}"))
                .collect();
            let all = if all.is_empty() {
                "there are too few".to_owned()
            } else {
                all.join("; ")
            };
            (
                wish.among.to_string(),
                format!("{} of them wanted. {all}", wish.copies),
            )
        }
    };
    if passing {
        NoPlace::NotNow(StoreError::Unavailable { store, what })
    } else {
        NoPlace::Never(StoreError::Refused { store, what })
    }
}

impl fmt::Display for Among {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(ANY),
            Self::Named(names) => f.write_str(&names.join(",")),
        }
    }
}

impl NoPlace {
    /// The error of a store, or of all of them, that says why.
    pub fn error(self) -> StoreError {
        match self {
            Self::Never(error) | Self::NotNow(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStore;

    fn offer(store: &str, weight: u32, room: Option<u64>) -> Offer {
        Offer {
            store: store.to_owned(),
            weight,
            room,
            known: false,
        }
    }

    fn names(offers: Vec<Offer>, bytes: u64, copies: u64) -> Option<Vec<String>> {
        let chosen = rank(offers, bytes, copies).ok()?;
        Some(chosen.into_iter().map(|one| one.store).collect())
    }

    #[test]
    fn names_are_read() {
        assert_eq!(Among::parse("any"), Ok(Among::Any));
        assert_eq!(
            Among::parse("fast, cold"),
            Ok(Among::Named(vec!["fast".to_owned(), "cold".to_owned()]))
        );
        for bad in ["", "a,", "a,,b", "a,a"] {
            assert!(Among::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weight_counts_against_what_is_free() {
        let (a, b) = (offer("a", 1, Some(100)), offer("b", 3, Some(50)));
        let (c, without) = (offer("c", 1, Some(9)), offer("d", 1, None));
        let all = || vec![a.clone(), b.clone(), c.clone(), without.clone()];
        assert_eq!(names(all(), 10, 1).unwrap(), ["b"]);
        assert_eq!(names(all(), 10, 2).unwrap(), ["b", "a"], "ties by name");
        assert_eq!(names(all(), 10, 4), None, "one is too small");
        let known = Offer {
            known: true,
            ..a.clone()
        };
        assert_eq!(names(vec![b.clone(), known], 10, 1).unwrap(), ["a"]);
        assert_eq!(names(vec![without], 10, 1).unwrap(), ["d"]);
    }

    fn wish(among: &str, copies: u64, bytes: u64) -> Wish {
        Wish {
            among: Among::parse(among).unwrap(),
            copies,
            miner: Some(1000),
            bytes,
            known_by: None,
            not: Vec::new(),
        }
    }

    fn stores(policies: &[(&str, super::super::Policy)]) -> Stores {
        let all = policies.iter().map(|(name, policy)| {
            Arc::new(MemoryStore::new(*name).with_policy(policy.clone())) as Arc<dyn ArtifactStore>
        });
        Stores::new(all.collect())
    }

    #[tokio::test]
    async fn room_is_promised_once_and_given_back() {
        let policy = super::super::Policy {
            capacity: Some(100),
            ..Default::default()
        };
        let stores = stores(&[("a", policy.clone()), ("b", policy)]);
        let (first, held) = stores.choose(&wish("any", 1, 60)).await.unwrap();
        let (second, other) = stores.choose(&wish("any", 1, 60)).await.unwrap();
        assert_eq!((first[0].store.as_str(), second[0].store.as_str()), ("a", "b"));
        let Err(NoPlace::NotNow(error)) = stores.choose(&wish("any", 1, 60)).await else {
            panic!("there is no room");
        };
        let text = error.to_string();
        assert!(
            text.contains("a: 60 bytes do not fit into the 40") && text.contains("b: "),
            "{text}"
        );
        // What is written is in the free space of the store; what is left is what is promised.
        held.left("a", 10);
        assert_eq!(stores.reserved("a"), 10);
        drop(held);
        assert_eq!((stores.reserved("a"), stores.reserved("b")), (0, 60));
        assert_eq!(stores.choose(&wish("any", 1, 60)).await.unwrap().0[0].store, "a");
        drop(other);
    }

    #[tokio::test]
    async fn stores_say_why_not() {
        let read_only = super::super::Policy {
            read_only: true,
            ..Default::default()
        };
        let others = super::super::Policy {
            allow_miners: vec![7],
            ..Default::default()
        };
        let stores = stores(&[("a", read_only), ("b", others), ("c", Default::default())]);
        let (chosen, _held) = stores.choose(&wish("any", 1, 1)).await.unwrap();
        assert_eq!(chosen[0].store, "c");
        stores
            .get("c")
            .unwrap()
            .set_mark(DRAINING, Some(b""))
            .await
            .unwrap();
        let Err(NoPlace::Never(error)) = stores.choose(&wish("any", 1, 1)).await else {
            panic!("none takes it");
        };
        let text = error.to_string();
        for part in [
            "a: it is for reading only",
            "b: it takes no sectors of f01000",
            "c: it is being drained",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(
            stores.choose(&wish("a,x", 1, 1)).await,
            Err(NoPlace::Never(StoreError::Unknown { .. }))
        ));
        assert!(matches!(
            stores.choose(&wish("a,b", 3, 1)).await,
            Err(NoPlace::Never(_))
        ));
    }

    #[test]
    fn what_was_written_while_free_space_was_measured_is_counted() {
        let table = Arc::new(Reserved::default());
        table.open().open.insert(1, ("a".to_owned(), 50));
        let seen = table.seen();
        table.open().open.clear();
        table.open().open.insert(2, ("a".to_owned(), 7));
        assert_eq!(table.open().of("a", &seen), 57);
    }
}
