//! All messages that a storage provider sends, by actor, number and type of parameters (chain.md §1.2, §1.5
//! to §1.7). A new message is one line here.

use std::fmt;

use fvm_ipld_encoding::{from_slice, to_vec};

use crate::address::{MARKET_ACTOR, POWER_ACTOR};
use crate::types::{Address, MethodNum, Protocol, RawBytes, market, miner, power};

use super::error::{BuildError, DecodeError};

/// The kind of actor that a destination stands for, as far as one can know without the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A storage miner: any ID or actor address that is not a built-in singleton's.
    Miner,
    /// The power actor, f04.
    Power,
    /// The built-in market, f05.
    Market,
    /// Another singleton (IDs below 100).
    Singleton,
    /// A key address, or a contract: it can only be paid.
    Account,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Miner => "miner",
            Self::Power => "power",
            Self::Market => "market",
            Self::Singleton => "singleton",
            Self::Account => "account",
        })
    }
}

/// The first ID of an actor that is no singleton.
const FIRST_USER_ID: u64 = 100;

/// The kind of actor that a message to this address is decoded for. That an ID really is a miner is for the
/// caller to know: a signing policy names its destinations.
pub fn actor_of(to: &Address) -> Actor {
    match to.protocol() {
        _ if *to == POWER_ACTOR => Actor::Power,
        _ if *to == MARKET_ACTOR => Actor::Market,
        Protocol::ID if to.id().is_ok_and(|id| id < FIRST_USER_ID) => Actor::Singleton,
        Protocol::ID | Protocol::Actor => Actor::Miner,
        _ => Actor::Account,
    }
}

macro_rules! calls {
    (
        with { $( $(#[$doc:meta])* $name:ident($params:ty) = $actor:ident $number:literal; )* }
        without { $( $(#[$doc2:meta])* $name2:ident = $actor2:ident $number2:literal; )* }
    ) => {
        /// What a message asks an actor to do.
        pub enum Call {
            /// Pays the destination and nothing else: method 0 of any actor.
            Send,
            $( $(#[$doc])* $name($params), )*
            $( $(#[$doc2])* $name2, )*
        }

        impl Call {
            /// The names of all messages, as [`Call::name`] gives them.
            pub const NAMES: &[&str] = &["Send", $( stringify!($name), )* $( stringify!($name2), )*];

            /// The method's name, as the network says it.
            pub fn name(&self) -> &'static str {
                match self {
                    Self::Send => "Send",
                    $( Self::$name(_) => stringify!($name), )*
                    $( Self::$name2 => stringify!($name2), )*
                }
            }

            /// The method's number.
            pub fn number(&self) -> MethodNum {
                match self {
                    Self::Send => 0,
                    $( Self::$name(_) => $number, )*
                    $( Self::$name2 => $number2, )*
                }
            }

            /// The actor that understands it; nothing for a payment, which all do.
            pub fn actor(&self) -> Option<Actor> {
                match self {
                    Self::Send => None,
                    $( Self::$name(_) => Some(Actor::$actor), )*
                    $( Self::$name2 => Some(Actor::$actor2), )*
                }
            }

            /// The parameters as they stand in a message. A method without parameters has no bytes.
            ///
            /// # Errors
            /// The encoder refuses, for example a proof type that has no number.
            pub fn params(&self) -> Result<RawBytes, BuildError> {
                let bytes = match self {
                    Self::Send => return Ok(RawBytes::default()),
                    $( Self::$name(params) => to_vec(params), )*
                    $( Self::$name2 => return Ok(RawBytes::default()), )*
                };
                bytes.map(RawBytes::new).map_err(|e| BuildError::new(self.name(), e.to_string()))
            }

            fn read(actor: Actor, number: MethodNum, bytes: &[u8]) -> Result<Self, DecodeError> {
                match (actor, number) {
                    (_, 0) => Ok(Self::Send),
                    $( (Actor::$actor, $number) => from_slice::<$params>(bytes).map(Self::$name).map_err(|e| {
                        DecodeError::Undecodable { method: stringify!($name), reason: e.to_string() }
                    }), )*
                    $( (Actor::$actor2, $number2) => Ok(Self::$name2), )*
                    (actor, method) => Err(DecodeError::UnknownMethod { actor, method }),
                }
            }
        }
    };
}

calls! {
    with {
        /// Registers sealed sectors and locks a deposit for each.
        PreCommitSectorBatch2(miner::PreCommitSectorBatchParams2) = Miner 28;
        /// Proves pre-committed sectors and activates their data.
        ProveCommitSectors3(miner::ProveCommitSectors3Params) = Miner 34;
        /// Replaces committed capacity by data.
        ProveReplicaUpdates3(miner::ProveReplicaUpdates3Params) = Miner 35;
        /// Registers and proves non-interactive sectors in one message.
        ProveCommitSectorsNI(miner::ProveCommitSectorsNIParams) = Miner 36;
        /// Proves the sectors of a deadline's partitions.
        SubmitWindowedPoSt(miner::SubmitWindowedPoStParams) = Miner 5;
        /// Says in advance which sectors cannot be proved.
        DeclareFaults(miner::DeclareFaultsParams) = Miner 10;
        /// Says which faulty sectors will be proved again.
        DeclareFaultsRecovered(miner::DeclareFaultsRecoveredParams) = Miner 11;
        /// Ends sectors before their time, for a fee.
        TerminateSectors(miner::TerminateSectorsParams) = Miner 9;
        /// Lengthens the life of sectors.
        ExtendSectorExpiration2(miner::ExtendSectorExpiration2Params) = Miner 32;
        /// Gives old sectors the full quality of new ones (network version 29 on).
        UpgradeSectorQuality(miner::UpgradeSectorQualityParams) = Miner 37;
        /// Removes dead sectors from partitions.
        CompactPartitions(miner::CompactPartitionsParams) = Miner 19;
        /// Marks sector numbers as used.
        CompactSectorNumbers(miner::CompactSectorNumbersParams) = Miner 20;
        /// Fails unless the sector is proven.
        CheckSectorProven(miner::CheckSectorProvenParams) = Miner 13;
        /// Shows that an optimistically accepted window proof is wrong.
        DisputeWindowedPoSt(miner::DisputeWindowedPoStParams) = Miner 24;
        /// Shows two blocks of one miner that exclude each other.
        ReportConsensusFault(miner::ReportConsensusFaultParams) = Miner 15;
        /// Changes the worker key after a delay, and the control addresses at once.
        ChangeWorkerAddress(miner::ChangeWorkerAddressParams) = Miner 3;
        /// Proposes or confirms another owner.
        ChangeOwnerAddress(miner::ChangeOwnerAddressParams) = Miner 23;
        /// Proposes or confirms who receives the balance.
        ChangeBeneficiary(miner::ChangeBeneficiaryParams) = Miner 30;
        /// Pays available balance out.
        WithdrawBalance(miner::WithdrawBalanceParams) = Miner 16;
        /// Changes the peer ID.
        ChangePeerID(miner::ChangePeerIDParams) = Miner 4;
        /// Changes the multiaddresses.
        ChangeMultiaddrs(miner::ChangeMultiaddrsParams) = Miner 18;
        /// Makes a miner; the value is its deposit.
        CreateMiner(power::CreateMinerParams) = Power 2;
        /// Pays the value into the market's account of a client or a provider.
        AddBalance(market::AddBalanceParams) = Market 2;
        /// Publishes deals that clients signed.
        PublishStorageDeals(market::PublishStorageDealsParams) = Market 4;
    }
    without {
        /// Makes a due change of the worker key effective.
        ConfirmChangeWorkerAddress = Miner 21;
        /// Pays fee debt.
        RepayDebt = Miner 22;
        /// Reads owner, worker and control addresses.
        ControlAddresses = Miner 2;
        /// Reads who receives the balance.
        GetBeneficiary = Miner 31;
    }
}

impl Call {
    /// Reads the parameters of a message to `to`, strictly: they must be exactly what [`Call::params`] makes.
    ///
    /// # Errors
    /// The method is unknown, the bytes are no parameters of it, or not in the canonical form.
    pub fn decode(to: &Address, number: MethodNum, bytes: &[u8]) -> Result<Self, DecodeError> {
        let call = Self::read(actor_of(to), number, bytes)?;
        let method = call.name();
        match call.params() {
            Ok(again) if again.bytes() == bytes => Ok(call),
            _ => Err(DecodeError::NotCanonical { method }),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.params().map(|p| hex::encode(p.bytes())).unwrap_or_default();
        write!(f, "{}({params})", self.name())
    }
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.params() == other.params()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINER: Address = Address::new_id(1000);

    #[test]
    fn numbers_are_those_of_the_published_methods() {
        use miner::Method;
        for (ours, theirs) in [
            (Call::RepayDebt.number(), Method::RepayDebt as u64),
            (
                Call::ConfirmChangeWorkerAddress.number(),
                Method::ConfirmChangeWorkerAddress as u64,
            ),
            (Call::GetBeneficiary.number(), Method::GetBeneficiary as u64),
            (Call::ControlAddresses.number(), Method::ControlAddresses as u64),
        ] {
            assert_eq!(ours, theirs);
        }
        // The others are compared where each is built: see `vectors.rs`.
    }

    #[test]
    fn who_is_meant_by_an_address() {
        let key = crate::address::parse("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y").unwrap();
        for (to, actor) in [
            (MINER, Actor::Miner),
            (Address::new_actor(b"robust"), Actor::Miner),
            (POWER_ACTOR, Actor::Power),
            (MARKET_ACTOR, Actor::Market),
            (Address::new_id(99), Actor::Singleton),
            (Address::new_id(100), Actor::Miner),
            (key, Actor::Account),
        ] {
            assert_eq!(actor_of(&to), actor, "{to}");
        }
    }

    #[test]
    fn methods_that_nobody_sends_are_unknown() {
        for removed in [1, 6, 7, 8, 12, 14, 17, 25, 26, 27, 29, 33, 38, 3_302_309_124] {
            assert_eq!(
                Call::decode(&MINER, removed, &[]),
                Err(DecodeError::UnknownMethod {
                    actor: Actor::Miner,
                    method: removed
                })
            );
        }
        assert!(Call::decode(&POWER_ACTOR, 28, &[0x81, 0x80]).is_err());
        assert!(Call::decode(&Address::new_id(1), 2, &[]).is_err());
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let good = hex::decode("818183030043e86801").unwrap();
        assert_eq!(Call::decode(&MINER, 10, &good).unwrap().name(), "DeclareFaults");
        let mut longer = good.clone();
        longer.push(0);
        let mut wide = good.clone();
        wide.splice(3..4, [0x18, 0x03]);
        for (bad, what) in [
            (&good[..good.len() - 1], "cut"),
            (&longer[..], "trailing byte"),
            (&wide[..], "a number that is longer than needed"),
            (&[][..], "empty"),
            (&[0x80][..], "no fields"),
        ] {
            let error = Call::decode(&MINER, 10, bad).unwrap_err();
            assert!(
                !matches!(error, DecodeError::UnknownMethod { .. }),
                "{what}: {error}"
            );
        }
        assert_eq!(
            Call::decode(&MINER, 22, &[0x80]),
            Err(DecodeError::NotCanonical { method: "RepayDebt" })
        );
        assert_eq!(
            Call::decode(&MINER, 0, &[1]),
            Err(DecodeError::NotCanonical { method: "Send" })
        );
    }

    proptest::proptest! {
        #[test]
        fn hostile_parameters_never_panic(number in 0u64..40, bytes in proptest::collection::vec(0u8.., 0..200)) {
            for to in [MINER, POWER_ACTOR] {
                if let Ok(call) = Call::decode(&to, number, &bytes) {
                    assert_eq!(call.params().unwrap().bytes(), &bytes[..]);
                }
            }
        }
    }
}
