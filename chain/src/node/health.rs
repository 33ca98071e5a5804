//! Which node to ask: what is known of each, and the order that follows from it. Pure; time comes from the
//! caller.

use std::time::{Duration, Instant};

use crate::types::ChainEpoch;

/// How long a node that failed is not asked first, doubled with every failure.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// What is known of a node, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Host and port.
    pub node: String,
    /// Height of its head when it was last asked.
    pub height: Option<ChainEpoch>,
    /// How many epochs its head is behind the best node's.
    pub behind: Option<ChainEpoch>,
    /// Failures since its last success.
    pub failures: u32,
    /// Why it is not asked at all.
    pub excluded: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    height: Option<ChainEpoch>,
    failures: u32,
    rests_until: Option<Instant>,
    excluded: Option<String>,
}

impl Health {
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.rests_until = None;
    }

    pub(super) fn failed(&mut self, now: Instant) {
        let rest = REST.saturating_mul(1 << self.failures.min(6)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + rest);
    }

    pub(super) fn saw_head(&mut self, height: ChainEpoch) {
        self.height = Some(height);
    }

    pub(super) fn exclude(&mut self, reason: String) {
        self.excluded = Some(reason);
    }

    pub(super) fn excluded(&self) -> Option<&str> {
        self.excluded.as_deref()
    }
}

/// The nodes that may be asked, best first: those that work and keep up, in the order of the configuration;
/// then those whose head lags; then those that rest after a failure.
pub(super) fn order(nodes: &[Health], lag: ChainEpoch, now: Instant) -> Vec<usize> {
    let best = nodes.iter().filter_map(|node| node.height).max();
    let rank = |node: &Health| {
        let rests = node.rests_until.is_some_and(|until| until > now);
        let lags = match (node.height, best) {
            (Some(height), Some(best)) => best.saturating_sub(height) > lag,
            _ => false,
        };
        (rests, lags)
    };
    let mut usable: Vec<usize> = (0..nodes.len())
        .filter(|at| nodes[*at].excluded.is_none())
        .collect();
    usable.sort_by_key(|at| rank(&nodes[*at]));
    usable
}

pub(super) fn status(names: &[String], nodes: &[Health]) -> Vec<NodeStatus> {
    let best = nodes.iter().filter_map(|node| node.height).max();
    let each = names.iter().zip(nodes).map(|(name, node)| NodeStatus {
        node: name.clone(),
        height: node.height,
        behind: node
            .height
            .zip(best)
            .map(|(height, best)| best.saturating_sub(height)),
        failures: node.failures,
        excluded: node.excluded.clone(),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_first() {
        let now = Instant::now();
        let mut nodes = vec![Health::default(), Health::default(), Health::default()];
        assert_eq!(order(&nodes, 2, now), [0, 1, 2]);
        nodes[0].failed(now);
        assert_eq!(order(&nodes, 2, now), [1, 2, 0]);
        assert_eq!(order(&nodes, 2, now + Duration::from_secs(2)), [0, 1, 2]);
        nodes[0].succeeded();
        for (node, height) in nodes.iter_mut().zip([10, 13, 12]) {
            node.saw_head(height);
        }
        assert_eq!(order(&nodes, 2, now), [1, 2, 0], "three epochs behind the best");
        assert_eq!(order(&nodes, 3, now), [0, 1, 2]);
        nodes[1].failed(now);
        assert_eq!(
            order(&nodes, 2, now),
            [2, 0, 1],
            "one that lags before one that does not answer"
        );
        nodes[2].exclude("another network".into());
        assert_eq!(order(&nodes, 2, now), [0, 1]);
    }

    #[test]
    fn rests_grow_to_a_minute() {
        let now = Instant::now();
        let mut node = Health::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            node.failed(now);
            assert_eq!(node.rests_until, Some(now + Duration::from_secs(seconds)));
        }
    }
}
