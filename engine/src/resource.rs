//! What work needs and what machines have: declared, compared and added up, never coded.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an attempt needs while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Need {
    /// Cores. Light work that mostly waits needs 0.
    pub cpu: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of scratch space, taken before the work and given back after it.
    pub disk: u64,
    /// GPUs, whichever they are.
    pub gpus: u32,
}

/// An amount of each resource: what a machine has, or what is held of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Cores.
    pub cpu: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of scratch space.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk: u64,
    /// GPUs, by index.
    #[serde(default, skip_serializing_if = "Gpus::is_empty")]
    pub gpus: Gpus,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A set of GPUs of one machine, by index (0 to 63). Stored as a list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct Gpus(u64);

impl Gpus {
    /// The most GPUs that a machine can have.
    pub const MAX: u8 = 64;

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Their indices.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..Self::MAX).filter(move |index| self.0 & (1 << index) != 0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These and those of `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in `other` too.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The first `count` of them.
    #[must_use]
    pub fn first(self, count: u32) -> Self {
        self.iter().take(count as usize).collect()
    }
}

impl FromIterator<u8> for Gpus {
    fn from_iter<T: IntoIterator<Item = u8>>(indices: T) -> Self {
        let valid = indices.into_iter().filter(|index| *index < Self::MAX);
        Self(valid.fold(0, |set, index| set | (1 << index)))
    }
}

impl From<Vec<u8>> for Gpus {
    fn from(indices: Vec<u8>) -> Self {
        indices.into_iter().collect()
    }
}

impl From<Gpus> for Vec<u8> {
    fn from(gpus: Gpus) -> Self {
        gpus.iter().collect()
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A resource of which there is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Which.
    pub what: Kind,
    /// How much is needed.
    pub needed: u64,
    /// How much is free.
    pub free: u64,
    /// How much there is in all.
    pub capacity: u64,
}

/// A resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Cores.
    Cpu,
    /// Bytes of memory.
    Memory,
    /// Bytes of scratch space.
    Disk,
    /// GPUs.
    Gpu,
}

impl Kind {
    /// The name that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Gpu => "gpu",
        }
    }
}

impl Need {
    /// The same, but never more cores than `capacity` has: "all cores" is a fair demand anywhere.
    #[must_use]
    pub fn clamped(self, capacity: Resources) -> Self {
        Self {
            cpu: self.cpu.min(capacity.cpu),
            ..self
        }
    }

    /// What an attempt takes of a machine that has `capacity`, of which `held` is held; or what there is
    /// too little of. Of the GPUs it takes those of the lowest index that are among `gpus`.
    ///
    /// # Errors
    /// Every resource that is lacking.
    pub fn take(self, capacity: Resources, held: Resources, gpus: Gpus) -> Result<Resources, Vec<Lack>> {
        let need = self.clamped(capacity);
        let own = capacity.gpus.and(gpus);
        let free_gpus = own.without(held.gpus);
        let lack = |what, needed: u64, free: u64, capacity: u64| {
            (needed > free).then_some(Lack {
                what,
                needed,
                free,
                capacity,
            })
        };
        let (cpu, memory, disk) = (
            capacity.cpu.saturating_sub(held.cpu),
            capacity.memory.saturating_sub(held.memory),
            capacity.disk.saturating_sub(held.disk),
        );
        let lacks = [
            lack(Kind::Cpu, need.cpu.into(), cpu.into(), capacity.cpu.into()),
            lack(Kind::Memory, need.memory, memory, capacity.memory),
            lack(Kind::Disk, need.disk, disk, capacity.disk),
            lack(
                Kind::Gpu,
                need.gpus.into(),
                free_gpus.count().into(),
                own.count().into(),
            ),
        ];
        let lacks: Vec<Lack> = lacks.into_iter().flatten().collect();
        if !lacks.is_empty() {
            return Err(lacks);
        }
        Ok(Resources {
            cpu: need.cpu,
            memory: need.memory,
            disk: need.disk,
            gpus: free_gpus.first(need.gpus),
        })
    }
}

impl std::ops::AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.disk = self.disk.saturating_add(other.disk);
        self.gpus = self.gpus.with(other.gpus);
    }
}

impl std::ops::SubAssign for Resources {
    fn sub_assign(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_sub(other.cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.disk = self.disk.saturating_sub(other.disk);
        self.gpus = self.gpus.without(other.gpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_taken_by_index_and_only_ones_own() {
        let capacity = Resources {
            cpu: 8,
            memory: 100,
            disk: 10,
            gpus: [0, 1, 3].into_iter().collect(),
        };
        let held = Resources {
            gpus: [0].into_iter().collect(),
            ..Resources::default()
        };
        let need = Need {
            cpu: 64,
            gpus: 1,
            ..Need::default()
        };
        let all: Gpus = (0..Gpus::MAX).collect();
        let taken = need.take(capacity, held, all).unwrap();
        assert_eq!(
            (taken.cpu, Vec::from(taken.gpus)),
            (8, vec![1]),
            "the lowest free index; no more cores than there are"
        );
        let taken = need.take(capacity, held, [3].into_iter().collect()).unwrap();
        assert_eq!(Vec::from(taken.gpus), [3]);
        let lacks = Need {
            gpus: 3,
            disk: 11,
            ..need
        }
        .take(capacity, held, all)
        .unwrap_err();
        let named: Vec<_> = lacks
            .iter()
            .map(|lack| (lack.what.as_str(), lack.needed, lack.free, lack.capacity))
            .collect();
        assert_eq!(named, [("disk", 11, 10, 10), ("gpu", 3, 2, 3)]);
    }

    #[test]
    fn old_holdings_are_read() {
        let old: Resources = serde_json::from_str(r#"{"cpu":2,"memory":7}"#).unwrap();
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"cpu":2,"memory":7}"#);
        let new = Resources {
            gpus: [2].into_iter().collect(),
            disk: 1,
            ..old
        };
        assert_eq!(
            serde_json::to_string(&new).unwrap(),
            r#"{"cpu":2,"memory":7,"disk":1,"gpus":[2]}"#
        );
    }
}
