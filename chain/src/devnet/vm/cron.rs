//! The end of an epoch: what miners asked to be called for (chain.md §6.2).

use crate::types::state::ActorError;
use crate::types::{ActorID, BigInt, Zero};

use super::super::root::CronKind;
use super::Vm;

impl Vm<'_> {
    /// Runs what is due at this epoch. A miner whose call fails loses its power, as on the network.
    pub(in crate::devnet) fn cron(&mut self) {
        let later = self.root.power.cron.split_off(&(self.epoch + 1));
        let due = std::mem::replace(&mut self.root.power.cron, later);
        for (miner, kind) in due.into_values().flatten() {
            let before = self.root.clone();
            if let Err(error) = self.miner_cron(miner, kind) {
                tracing::error!(miner, epoch = self.epoch, %error, "the cron of a miner failed; it loses its power");
                self.root = before;
                if let Some(claim) = self.root.power.claims.get_mut(&miner) {
                    claim.raw = BigInt::zero();
                    claim.qa = BigInt::zero();
                }
            }
        }
    }

    fn miner_cron(&mut self, miner: ActorID, kind: CronKind) -> Result<(), ActorError> {
        let mut call = self.open_miner(miner, super::POWER)?;
        match kind {
            CronKind::ProvingDeadline => call.proving_deadline()?,
            CronKind::EarlyTerminations => {
                if call.process_early_terminations()? {
                    call.schedule_early_terminations();
                }
            }
        }
        call.save()
    }
}
