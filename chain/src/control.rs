//! Which key sends a miner's message: the one that is meant for its purpose and has enough, as Lotus chooses. The miner
//! actor takes messages of its owner, its worker and its control addresses, and of nobody else.

use std::fmt;

use crate::node::{Client, NodeError, TipSetKey};
use crate::types::{Address, TokenAmount};

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pre-commits.
    Precommit,
    /// Proofs of sectors, and updates.
    Commit,
    /// Window proofs, faults and recoveries.
    Post,
}

/// Keys by purpose, the preferred first. For what nobody is named the worker sends; window proofs are sent by the miner's
/// control addresses then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlBook {
    /// For pre-commits.
    pub precommit: Vec<Address>,
    /// For proofs of sectors, and updates.
    pub commit: Vec<Address>,
    /// For window proofs, faults and recoveries.
    pub post: Vec<Address>,
}

impl ControlBook {
    fn named(&self, purpose: Purpose) -> &[Address] {
        match purpose {
            Purpose::Precommit => &self.precommit,
            Purpose::Commit => &self.commit,
            Purpose::Post => &self.post,
        }
    }
}

/// Who could send a message, and why it does or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its key address.
    pub address: Address,
    /// Why it is asked at all.
    pub role: Role,
    /// Whether the miner takes messages of it.
    pub allowed: bool,
    /// What it has.
    pub balance: TokenAmount,
}

/// Why a key is a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The configuration names it for the purpose.
    Named,
    /// A control address of the miner.
    Control,
    /// The miner's worker.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "named in [chain.control]",
            Self::Control => "a control address of the miner",
            Self::Worker => "the miner's worker",
        })
    }
}

/// Who sends, out of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its key address.
    pub from: Address,
    /// What it must have: the message's value, and something for gas.
    pub needed: TokenAmount,
    /// All who were asked, in their order.
    pub candidates: Vec<Candidate>,
}

impl Choice {
    /// Why a candidate does or does not send.
    pub fn reason(&self, candidate: &Candidate) -> String {
        let Candidate {
            balance,
            allowed,
            role,
            ..
        } = candidate;
        let enough = *balance >= self.needed;
        let chosen = candidate.address == self.from;
        match (allowed, chosen, enough) {
            (false, _, _) => format!("{role}, but the miner takes no messages of it"),
            (true, true, true) => format!("{role}; the first with enough"),
            (true, true, false) => format!("{role}; nobody has {} FIL, and it has the most", self.needed),
            (true, false, true) => format!("{role}; another comes first"),
            (true, false, false) => format!("{role}; has {balance} FIL of {} FIL", self.needed),
        }
    }
}

/// What is left for gas beside a message's value, in thousandths of a FIL.
const GAS_MILLI: u64 = 100;

/// Chooses who sends a message of this value.
///
/// # Errors
/// A node does not answer.
pub async fn choose(
    client: &Client,
    miner: &Address,
    purpose: Purpose,
    value: &TokenAmount,
    book: &ControlBook,
    at: &TipSetKey,
) -> Result<Choice, NodeError> {
    let info = client.miner_info(miner, at).await?;
    let mut known = vec![info.worker, info.owner];
    known.extend(&info.control_addresses);
    let named = book.named(purpose).iter().map(|address| (*address, Role::Named));
    let own: &[Address] = match purpose {
        Purpose::Post if book.post.is_empty() => &info.control_addresses,
        _ => &[],
    };
    let control = own.iter().map(|address| (*address, Role::Control));
    let mut candidates: Vec<Candidate> = Vec::new();
    for (address, role) in named.chain(control).chain([(info.worker, Role::Worker)]) {
        let key = client.account_key(&address, at).await?;
        if candidates.iter().any(|other| other.address == key) {
            continue;
        }
        // The miner knows them by their IDs.
        let id = client.lookup_id(&address, at).await?;
        let actor = client.actor(&key, at).await?;
        candidates.push(Candidate {
            address: key,
            role,
            allowed: id.is_some_and(|id| known.contains(&id)),
            balance: actor.map(|actor| actor.balance).unwrap_or_default(),
        });
    }
    let needed = value + TokenAmount::from_nano(GAS_MILLI * 1_000_000);
    Ok(decide(needed, candidates, info.worker))
}

/// The first who may and has enough, else who has the most of those who may.
fn decide(needed: TokenAmount, candidates: Vec<Candidate>, worker: Address) -> Choice {
    let allowed = || candidates.iter().filter(|candidate| candidate.allowed);
    let first = allowed().find(|candidate| candidate.balance >= needed);
    // Of equals the first.
    let most = || {
        allowed()
            .rev()
            .max_by(|one, other| one.balance.cmp(&other.balance))
    };
    Choice {
        from: first.or_else(most).map_or(worker, |candidate| candidate.address),
        needed,
        candidates,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u64, role: Role, allowed: bool, fil: u64) -> Candidate {
        Candidate {
            address: Address::new_id(id),
            role,
            allowed,
            balance: TokenAmount::from_whole(fil),
        }
    }

    fn chosen(candidates: Vec<Candidate>) -> (u64, Vec<String>) {
        let choice = decide(TokenAmount::from_whole(5), candidates, Address::new_id(9));
        let reasons = choice.candidates.iter().map(|one| choice.reason(one));
        (choice.from.id().unwrap(), reasons.collect())
    }

    #[test]
    fn the_first_who_may_and_has_enough_sends() {
        let (from, why) = chosen(vec![
            candidate(1, Role::Named, false, 100),
            candidate(2, Role::Named, true, 1),
            candidate(3, Role::Named, true, 7),
            candidate(9, Role::Worker, true, 50),
        ]);
        assert_eq!(from, 3);
        assert!(why[0].contains("takes no messages"), "{why:?}");
        assert!(why[1].contains("of 5"), "{why:?}");
        assert!(why[2].contains("the first with enough"), "{why:?}");
        assert!(why[3].contains("another comes first"), "{why:?}");
    }

    #[test]
    fn if_nobody_has_enough_the_richest_waits() {
        let (from, why) = chosen(vec![
            candidate(2, Role::Named, true, 1),
            candidate(3, Role::Named, true, 4),
            candidate(9, Role::Worker, true, 4),
        ]);
        assert_eq!(from, 3);
        assert!(why[1].contains("has the most"), "{why:?}");
        let (from, _) = chosen(vec![candidate(1, Role::Named, false, 100)]);
        assert_eq!(from, 9, "the worker, if nobody may");
    }
}
