//! Messages that name sectors by deadline and partition: faults, recoveries, terminations, extensions, and
//! the upkeep of partitions (chain.md §1.6).

use std::collections::HashSet;

use crate::policy::{DEADLINES, DECLARED_PARTITIONS, DECLARED_SECTORS};
use crate::types::{BitField, ChainEpoch, miner};

use super::call::Call;
use super::error::BuildError;

/// Sectors of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct SectorSet {
    /// The deadline, 0 to 47.
    pub deadline: u64,
    /// Its place in the deadline, from zero.
    pub partition: u64,
    /// The sectors' numbers.
    pub sectors: BitField,
}

/// Sectors that get another expiration.
#[derive(Debug, Clone, PartialEq)]
pub struct Extension {
    /// Which.
    pub set: SectorSet,
    /// Sectors with claims, which actors before v19 want to be told apart. Their numbers need not be in the
    /// set.
    pub with_claims: Vec<SectorClaims>,
    /// Not below the present expiration.
    pub expiration: ChainEpoch,
}

/// A sector whose claims are kept or dropped when it is extended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectorClaims {
    /// The sector.
    pub sector: u64,
    /// Claims that stay.
    pub maintain: Vec<u64>,
    /// Claims that end.
    pub drop: Vec<u64>,
}

/// Says in advance that sectors will not be proved.
///
/// # Errors
/// The declaration is empty, too large, or names a partition twice.
pub fn declare_faults(sets: Vec<SectorSet>) -> Result<Call, BuildError> {
    check("DeclareFaults", &sets)?;
    let faults = sets.into_iter().map(|set| miner::FaultDeclaration {
        deadline: set.deadline,
        partition: set.partition,
        sectors: set.sectors,
    });
    Ok(Call::DeclareFaults(miner::DeclareFaultsParams {
        faults: faults.collect(),
    }))
}

/// Says that faulty sectors will be proved again at their next deadline.
///
/// # Errors
/// As for [`declare_faults`].
pub fn declare_recovered(sets: Vec<SectorSet>) -> Result<Call, BuildError> {
    check("DeclareFaultsRecovered", &sets)?;
    let recoveries = sets.into_iter().map(|set| miner::RecoveryDeclaration {
        deadline: set.deadline,
        partition: set.partition,
        sectors: set.sectors,
    });
    Ok(Call::DeclareFaultsRecovered(
        miner::DeclareFaultsRecoveredParams {
            recoveries: recoveries.collect(),
        },
    ))
}

/// Ends sectors before their time. It costs a fee and cannot be undone.
///
/// # Errors
/// As for [`declare_faults`].
pub fn terminate(sets: Vec<SectorSet>) -> Result<Call, BuildError> {
    check("TerminateSectors", &sets)?;
    let terminations = sets.into_iter().map(|set| miner::TerminationDeclaration {
        deadline: set.deadline,
        partition: set.partition,
        sectors: set.sectors,
    });
    Ok(Call::TerminateSectors(miner::TerminateSectorsParams {
        terminations: terminations.collect(),
    }))
}

/// Moves the expiration of sectors.
///
/// # Errors
/// The message is empty, too large, or names a deadline that is none.
pub fn extend(extensions: Vec<Extension>) -> Result<Call, BuildError> {
    const METHOD: &str = "ExtendSectorExpiration2";
    let sizes = extensions.iter().map(|extension| {
        let claims = u64::try_from(extension.with_claims.len()).unwrap_or(u64::MAX);
        (
            extension.set.deadline,
            extension.set.sectors.len().saturating_add(claims),
        )
    });
    check_sizes(METHOD, sizes)?;
    let extensions = extensions.into_iter().map(|extension| {
        let claims = extension
            .with_claims
            .into_iter()
            .map(|claims| miner::SectorClaim {
                sector_number: claims.sector,
                maintain_claims: claims.maintain,
                drop_claims: claims.drop,
            });
        miner::ExpirationExtension2 {
            deadline: extension.set.deadline,
            partition: extension.set.partition,
            sectors: extension.set.sectors,
            sectors_with_claims: claims.collect(),
            new_expiration: extension.expiration,
        }
    });
    Ok(Call::ExtendSectorExpiration2(
        miner::ExtendSectorExpiration2Params {
            extensions: extensions.collect(),
        },
    ))
}

/// Gives sectors that were made before network version 29 the full quality of new ones, with another
/// expiration or the one they have.
///
/// # Errors
/// As for [`declare_faults`].
pub fn upgrade_quality(sets: Vec<(SectorSet, Option<ChainEpoch>)>) -> Result<Call, BuildError> {
    const METHOD: &str = "UpgradeSectorQuality";
    check_sizes(
        METHOD,
        sets.iter().map(|(set, _)| (set.deadline, set.sectors.len())),
    )?;
    let upgrades = sets
        .into_iter()
        .map(|(set, new_expiration)| miner::UpgradeSectorQuality {
            deadline: set.deadline,
            partition: set.partition,
            sectors: set.sectors,
            new_expiration,
        });
    Ok(Call::UpgradeSectorQuality(miner::UpgradeSectorQualityParams {
        upgrades: upgrades.collect(),
    }))
}

/// Removes dead sectors from partitions of a deadline.
///
/// # Errors
/// The deadline is none, or no partition is named.
pub fn compact_partitions(deadline: u64, partitions: BitField) -> Result<Call, BuildError> {
    const METHOD: &str = "CompactPartitions";
    check_deadline(METHOD, deadline)?;
    if partitions.is_empty() {
        return Err(BuildError::new(METHOD, "it names no partitions"));
    }
    Ok(Call::CompactPartitions(miner::CompactPartitionsParams {
        deadline,
        partitions,
    }))
}

/// Marks sector numbers as used, so that the chain's record of them is short.
///
/// # Errors
/// No number is named.
pub fn compact_sector_numbers(numbers: BitField) -> Result<Call, BuildError> {
    if numbers.is_empty() {
        return Err(BuildError::new("CompactSectorNumbers", "it names no numbers"));
    }
    Ok(Call::CompactSectorNumbers(miner::CompactSectorNumbersParams {
        mask_sector_numbers: numbers,
    }))
}

pub(super) fn check_deadline(method: &'static str, deadline: u64) -> Result<(), BuildError> {
    if deadline < DEADLINES {
        return Ok(());
    }
    Err(BuildError::new(
        method,
        format!("deadline {deadline} is none; they are 0 to {}", DEADLINES - 1),
    ))
}

/// The first element that comes a second time.
pub(super) fn twice<T: std::hash::Hash + Eq + Copy>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = HashSet::new();
    items.into_iter().find(|item| !seen.insert(*item))
}

fn check(method: &'static str, sets: &[SectorSet]) -> Result<(), BuildError> {
    check_sizes(method, sets.iter().map(|set| (set.deadline, set.sectors.len())))?;
    let places = sets.iter().map(|set| (set.deadline, set.partition));
    if let Some((deadline, partition)) = twice(places) {
        return Err(BuildError::new(
            method,
            format!("partition {partition} of deadline {deadline} comes twice; put its sectors together"),
        ));
    }
    Ok(())
}

/// The actor's limits, for pairs of deadline and number of sectors.
fn check_sizes(
    method: &'static str,
    sets: impl ExactSizeIterator<Item = (u64, u64)>,
) -> Result<(), BuildError> {
    let count = sets.len();
    if count == 0 || count > DECLARED_PARTITIONS {
        return Err(BuildError::new(
            method,
            format!("{count} partitions; a message names 1 to {DECLARED_PARTITIONS}"),
        ));
    }
    let mut sectors = 0u64;
    for (deadline, size) in sets {
        check_deadline(method, deadline)?;
        if size == 0 {
            return Err(BuildError::new(method, "a partition is named without sectors"));
        }
        sectors = sectors.saturating_add(size);
    }
    if sectors > DECLARED_SECTORS {
        return Err(BuildError::new(
            method,
            format!("{sectors} sectors; a message names at most {DECLARED_SECTORS}, so send several"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(deadline: u64, partition: u64, sectors: impl IntoIterator<Item = u64>) -> SectorSet {
        SectorSet {
            deadline,
            partition,
            sectors: BitField::try_from_bits(sectors).unwrap(),
        }
    }

    #[test]
    fn declarations_that_the_actor_would_refuse() {
        for build in [declare_faults, declare_recovered, terminate] {
            assert!(build(vec![set(0, 0, 0..25_000)]).is_ok());
            for (sets, reason) in [
                (vec![], "0 partitions"),
                (vec![set(0, 0, [])], "without sectors"),
                (vec![set(48, 0, [1])], "deadline 48"),
                (vec![set(0, 0, 0..25_001)], "25001 sectors"),
                (vec![set(0, 0, [1]), set(0, 0, [2])], "comes twice"),
                (
                    (0..3001)
                        .map(|partition| set(0, partition, [partition]))
                        .collect(),
                    "3001 partitions",
                ),
            ] {
                let error = build(sets).unwrap_err().to_string();
                assert!(error.contains(reason), "{error}");
            }
        }
    }

    #[test]
    fn a_hostile_bitfield_is_counted_not_walked() {
        let whole = std::iter::once(0..u64::MAX - 1);
        let all = BitField::from_ranges(fvm_ipld_bitfield::iter::Ranges::new(whole));
        let sets = vec![
            SectorSet {
                deadline: 0,
                partition: 0,
                sectors: all.clone(),
            },
            SectorSet {
                deadline: 0,
                partition: 1,
                sectors: all,
            },
        ];
        assert!(declare_faults(sets).unwrap_err().reason.contains("at most 25000"));
    }

    #[test]
    fn upkeep_names_something() {
        assert!(compact_partitions(3, BitField::new()).is_err());
        assert!(compact_partitions(48, BitField::try_from_bits([0]).unwrap()).is_err());
        assert!(compact_sector_numbers(BitField::new()).is_err());
        assert!(extend(vec![]).is_err());
        assert!(upgrade_quality(vec![(set(0, 0, []), None)]).is_err());
    }
}
