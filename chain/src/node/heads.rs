//! From heads to changes: given the head that we knew and the head that there is, what was reverted and what
//! was applied. It walks parents, so it does not matter which notifications were lost, doubled or late.

use std::collections::{HashMap, VecDeque};

use super::error::NodeError;
use super::types::{TipSet, TipSetKey};

/// A step from one head to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadEvent {
    /// The chain changed.
    Changed {
        /// Tipsets that are not on the chain any more, newest first.
        reverted: Vec<TipSet>,
        /// Tipsets that are, oldest first; the last one is the head.
        applied: Vec<TipSet>,
    },
    /// What was known is too far from what is: everything that rests on the chain must be read again.
    Lost {
        /// The head.
        head: TipSet,
    },
}

impl HeadEvent {
    /// The head after the event.
    pub fn head(&self) -> Option<&TipSet> {
        match self {
            Self::Changed { applied, .. } => applied.last(),
            Self::Lost { head } => Some(head),
        }
    }
}

/// Where tipsets come from that were not seen.
pub trait TipSetSource: Sync {
    /// The tipset with that key.
    ///
    /// # Errors
    /// It is not known, or nobody answers.
    fn tipset(&self, key: &TipSetKey) -> impl Future<Output = Result<TipSet, NodeError>> + Send;
}

/// Follows the head.
#[derive(Debug)]
pub struct Tracker {
    head: Option<TipSet>,
    recent: HashMap<TipSetKey, TipSet>,
    order: VecDeque<TipSetKey>,
    depth: usize,
}

impl Tracker {
    /// A tracker that knows `head`, or nothing yet. It makes up for at most `depth` tipsets, and keeps as many.
    pub fn new(head: Option<TipSet>, depth: usize) -> Self {
        let mut tracker = Self {
            head: None,
            recent: HashMap::new(),
            order: VecDeque::new(),
            depth: depth.max(1),
        };
        if let Some(head) = head {
            tracker.learn(head.clone());
            tracker.head = Some(head);
        }
        tracker
    }

    /// The head that is known.
    pub fn head(&self) -> Option<&TipSet> {
        self.head.as_ref()
    }

    /// Keeps a tipset, so that it need not be fetched.
    pub fn learn(&mut self, tipset: TipSet) {
        if self.recent.contains_key(&tipset.key) {
            return;
        }
        self.order.push_back(tipset.key.clone());
        self.recent.insert(tipset.key.clone(), tipset);
        while self.order.len() > self.depth {
            if let Some(oldest) = self.order.pop_front() {
                self.recent.remove(&oldest);
            }
        }
    }

    /// Goes to another head. Nothing comes of a head that is known, or that is below the known one on the same
    /// chain: a node that lags says nothing about the chain.
    ///
    /// # Errors
    /// A tipset cannot be fetched; the known head stays, and the call may be repeated.
    pub async fn advance<S: TipSetSource>(
        &mut self,
        to: TipSet,
        source: &S,
    ) -> Result<Option<HeadEvent>, NodeError> {
        self.learn(to.clone());
        let Some(known) = self.head.clone() else {
            self.head = Some(to.clone());
            return Ok(Some(HeadEvent::Changed {
                reverted: Vec::new(),
                applied: vec![to],
            }));
        };
        let Some((reverted, applied)) = self.between(known, to.clone(), source).await? else {
            self.head = Some(to.clone());
            return Ok(Some(HeadEvent::Lost { head: to }));
        };
        if applied.is_empty() {
            return Ok(None);
        }
        self.head = Some(to);
        Ok(Some(HeadEvent::Changed { reverted, applied }))
    }

    /// What lies between two heads and the tipset that both rest on; nothing if that is too far or not known.
    async fn between<S: TipSetSource>(
        &mut self,
        mut from: TipSet,
        mut to: TipSet,
        source: &S,
    ) -> Result<Option<(Vec<TipSet>, Vec<TipSet>)>, NodeError> {
        let (mut reverted, mut applied) = (Vec::new(), Vec::new());
        while from.key != to.key {
            if reverted.len() + applied.len() >= self.depth {
                return Ok(None);
            }
            let (from_height, to_height) = (from.height, to.height);
            if from_height >= to_height {
                // A node may have thrown away what was reverted.
                let parent = match self.parent(&from, source).await {
                    Err(error) if error.app().is_some() => return Ok(None),
                    parent => parent?,
                };
                let Some(parent) = parent else { return Ok(None) };
                reverted.push(std::mem::replace(&mut from, parent));
            }
            if to_height >= from_height {
                let Some(parent) = self.parent(&to, source).await? else {
                    return Ok(None);
                };
                applied.push(std::mem::replace(&mut to, parent));
            }
        }
        applied.reverse();
        Ok(Some((reverted, applied)))
    }

    /// The tipset before one, or nothing before the genesis.
    async fn parent<S: TipSetSource>(
        &mut self,
        of: &TipSet,
        source: &S,
    ) -> Result<Option<TipSet>, NodeError> {
        let key = of.parents();
        if *key == TipSetKey::HEAD {
            return Ok(None);
        }
        let parent = match self.recent.get(key) {
            Some(known) => known.clone(),
            None => source.tipset(key).await?,
        };
        // A node that answers with another tipset, or one that is not below, must not lead us in circles.
        if parent.key != *key || parent.height >= of.height {
            return Err(NodeError::Malformed {
                node: "the node".into(),
                method: "ChainGetTipSet",
                reason: format!(
                    "asked for the parent of height {}, it gives {}",
                    of.height, parent.height
                ),
            });
        }
        self.learn(parent.clone());
        Ok(Some(parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Chain, key};

    /// A node that does not answer.
    struct Down;

    impl TipSetSource for Down {
        async fn tipset(&self, _: &TipSetKey) -> Result<TipSet, NodeError> {
            Err(NodeError::NoNode("down".into()))
        }
    }

    /// A node that answers everything with one tipset.
    struct Always(TipSet);

    impl TipSetSource for Always {
        async fn tipset(&self, _: &TipSetKey) -> Result<TipSet, NodeError> {
            Ok(self.0.clone())
        }
    }

    impl TipSetSource for Chain {
        async fn tipset(&self, key: &TipSetKey) -> Result<TipSet, NodeError> {
            self.fetch(key)
        }
    }

    /// Advances with a chain as the node; gives reverted and applied names.
    async fn advance(tracker: &mut Tracker, chain: &Chain, to: &str) -> Option<(Vec<String>, Vec<String>)> {
        let event = tracker.advance(chain.get(to), chain).await.unwrap();
        event.map(|event| match event {
            HeadEvent::Changed { reverted, applied } => (chain.names(&reverted), chain.names(&applied)),
            HeadEvent::Lost { head } => (vec!["lost".into()], chain.names(&[head])),
        })
    }

    fn step(reverted: &[&str], applied: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Some((owned(reverted), owned(applied)))
    }

    /// a1 - a2 - a3 - a4 - a5, and from a2: b3 - b5 (4 is null) - b6.
    fn forked() -> Chain {
        let mut chain = Chain::default();
        chain.line(&["a1", "a2", "a3", "a4", "a5"]);
        chain.add("b3", 3, "a2");
        chain.add("b5", 5, "b3");
        chain.add("b6", 6, "b5");
        chain
    }

    #[tokio::test]
    async fn every_change_comes_once_and_in_order() {
        let chain = forked();
        let mut tracker = Tracker::new(None, 100);
        assert_eq!(advance(&mut tracker, &chain, "a1").await, step(&[], &["a1"]));
        assert_eq!(advance(&mut tracker, &chain, "a2").await, step(&[], &["a2"]));
        assert_eq!(advance(&mut tracker, &chain, "a2").await, None, "a doubled head");
        assert_eq!(
            advance(&mut tracker, &chain, "a4").await,
            step(&[], &["a3", "a4"]),
            "a missed head"
        );
        assert_eq!(
            advance(&mut tracker, &chain, "a3").await,
            None,
            "a node that lags"
        );
        assert_eq!(
            advance(&mut tracker, &chain, "b6").await,
            step(&["a4", "a3"], &["b3", "b5", "b6"])
        );
        assert_eq!(
            advance(&mut tracker, &chain, "a5").await,
            step(&["b6", "b5", "b3"], &["a3", "a4", "a5"]),
            "a fork that is lower but other"
        );
    }

    #[tokio::test]
    async fn a_head_that_was_reverted_while_nobody_looked() {
        let chain = forked();
        let mut tracker = Tracker::new(Some(chain.get("a4")), 100);
        assert_eq!(
            advance(&mut tracker, &chain, "b6").await,
            step(&["a4", "a3"], &["b3", "b5", "b6"])
        );
    }

    #[tokio::test]
    async fn what_cannot_be_made_up_for_is_said() {
        let chain = forked();
        let mut short = Tracker::new(Some(chain.get("a1")), 3);
        assert_eq!(advance(&mut short, &chain, "a5").await, step(&["lost"], &["a5"]));
        let mut other = forked();
        other.add("z1", 1, "");
        other.add("z2", 2, "z1");
        let mut tracker = Tracker::new(Some(other.get("a4")), 100);
        assert_eq!(
            advance(&mut tracker, &other, "z2").await,
            step(&["lost"], &["z2"]),
            "another genesis"
        );
        // The node does not have what it reverted.
        let mut tracker = Tracker::new(Some(chain.get("a4")), 100);
        let mut pruned = forked();
        pruned.forget("a3");
        assert_eq!(
            advance(&mut tracker, &pruned, "b6").await,
            step(&["lost"], &["b6"])
        );
    }

    #[tokio::test]
    async fn a_node_that_fails_changes_nothing() {
        let chain = forked();
        let mut tracker = Tracker::new(Some(chain.get("a1")), 100);
        assert!(tracker.advance(chain.get("a4"), &Down).await.is_err());
        assert_eq!(tracker.head().map(|head| head.height), Some(1));
        let event = tracker.advance(chain.get("a4"), &chain).await.unwrap().unwrap();
        assert!(matches!(event, HeadEvent::Changed { applied, .. } if applied.len() == 3));
    }

    #[tokio::test]
    async fn a_lying_node_does_not_lead_in_circles() {
        let chain = forked();
        let mut tracker = Tracker::new(Some(chain.get("a1")), 100);
        let other = tracker.advance(chain.get("a4"), &Always(chain.get("a4"))).await;
        assert!(matches!(other, Err(NodeError::Malformed { .. })));
        let mut high = chain.get("a3");
        high.height = 9;
        let high = tracker.advance(chain.get("a4"), &Always(high)).await;
        assert!(matches!(high, Err(NodeError::Malformed { .. })));
        assert_ne!(key("a1"), key("a2"));
    }

    proptest::proptest! {
        /// Whatever heads are seen, applying the events gives the chain of the last head that counted.
        #[test]
        fn events_add_up_to_the_chain(
            shape in proptest::collection::vec((0usize..6, 1i64..3), 1..30),
            looks in proptest::collection::vec(0usize..30, 1..30),
        ) {
            let mut chain = Chain::default();
            chain.add("0", 0, "");
            let mut heights = vec![0];
            for (at, (back, up)) in shape.iter().enumerate() {
                let parent = at.saturating_sub(*back);
                let height = heights[parent] + up;
                heights.push(height);
                chain.add(&(at + 1).to_string(), height, &parent.to_string());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let start = chain.get("0");
                let mut tracker = Tracker::new(Some(start.clone()), 1000);
                let mut held = vec![start];
                for look in looks {
                    let to = chain.get(&(look % heights.len()).to_string());
                    let event = tracker.advance(to.clone(), &chain).await.unwrap();
                    let Some(HeadEvent::Changed { reverted, applied }) = event else {
                        // Nothing happened, because it is on the held chain.
                        assert!(held.contains(&to));
                        continue;
                    };
                    for gone in reverted {
                        assert_eq!(held.pop(), Some(gone));
                    }
                    for new in applied {
                        assert_eq!(held.last().map(|last| &last.key), Some(new.parents()));
                        held.push(new);
                    }
                    assert_eq!(held.last(), Some(&to));
                }
            });
        }
    }
}
