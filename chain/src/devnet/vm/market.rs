//! The built-in market, as far as a sector's data needs it: balances, deals that are published, and deals whose data is in a
//! sector (chain.md §1.1, §1.5). Payments, deals that nobody activated and those of ended sectors are not settled.

use fvm_ipld_encoding::{from_slice, to_vec};

use crate::types::state::ActorError;
use crate::types::{
    ActorID, Address, BitField, ChainEpoch, Cid, PaddedPieceSize, RawBytes, SectorNumber, TokenAmount, Zero,
    market,
};

use super::super::root::{Kind, MARKET};
use super::Vm;

/// Bounds of a deal's duration.
const DURATION: std::ops::RangeInclusive<ChainEpoch> =
    crate::policy::LIFETIME_MIN..=crate::policy::EXPIRATION_AHEAD_MAX;
/// The longest label of a deal.
const LABEL_BYTES: usize = 256;

/// A piece that is in a sector now, and what its notification says.
pub(super) struct Added {
    pub(super) sector: SectorNumber,
    /// The end of the sector.
    pub(super) expiration: ChainEpoch,
    pub(super) cid: Cid,
    pub(super) size: PaddedPieceSize,
    /// CBOR of the deal's number.
    pub(super) payload: RawBytes,
}

impl Vm<'_> {
    /// The market's state. A network that was begun by an older version has none yet.
    fn market(&self) -> Result<market::State, ActorError> {
        match self.root.actors.get(&MARKET).and_then(|actor| actor.head) {
            Some(head) => self.store.load(&head).map_err(ActorError::illegal_state),
            None => market::State::new(self.store),
        }
    }

    fn save_market(&mut self, state: &market::State) -> Result<(), ActorError> {
        let head = self.store.save(state).map_err(ActorError::illegal_state)?;
        if let Some(actor) = self.root.actors.get_mut(&MARKET) {
            actor.head = Some(head);
        }
        Ok(())
    }

    /// AddBalance: the value is there already.
    pub(super) fn add_market_balance(
        &mut self,
        value: &TokenAmount,
        of: &Address,
    ) -> Result<RawBytes, ActorError> {
        if !value.is_positive() {
            let text = "balance to add must be greater than zero".to_owned();
            return Err(ActorError::illegal_argument(text));
        }
        let id = self.resolved(of)?;
        let mut state = self.market()?;
        state.add_balance_to_escrow_table(self.store, &Address::new_id(id), value)?;
        self.save_market(&state)?;
        Ok(RawBytes::default())
    }

    /// PublishStorageDeals: a deal that cannot be is left out.
    pub(super) fn publish_deals(
        &mut self,
        caller: ActorID,
        params: market::PublishStorageDealsParams,
    ) -> Result<RawBytes, ActorError> {
        let Some(first) = params.deals.first() else {
            return Err(ActorError::illegal_argument("empty deals parameter".into()));
        };
        let provider = self.provider(&first.proposal.provider)?;
        self.open_miner(provider, caller)?.only_controllers()?;
        let mut state = self.market()?;
        let (mut ids, mut valid) = (Vec::new(), BitField::new());
        for (at, deal) in params.deals.into_iter().enumerate() {
            // As in the actor, its reason is not told.
            match self.publish(&mut state, provider, deal) {
                Ok(id) => {
                    ids.push(id);
                    valid.set(at as u64);
                }
                Err(error) => tracing::info!(deal = at, %error, "a deal is not published"),
            }
        }
        if ids.is_empty() {
            return Err(ActorError::illegal_argument("All deal proposals invalid".into()));
        }
        self.save_market(&state)?;
        let told = market::PublishStorageDealsReturn {
            ids,
            valid_deals: valid,
        };
        let bytes = to_vec(&told).map_err(|e| ActorError::serialization(e.to_string()))?;
        Ok(RawBytes::new(bytes))
    }

    fn provider(&self, address: &Address) -> Result<ActorID, ActorError> {
        let id = self.root.resolve(address);
        let id = id.filter(|id| {
            self.root
                .actors
                .get(id)
                .is_some_and(|one| one.kind == Kind::Miner)
        });
        id.ok_or_else(|| {
            ActorError::illegal_argument("deal provider is not a storage miner actor".to_owned())
        })
    }

    fn publish(
        &mut self,
        state: &mut market::State,
        provider: ActorID,
        deal: market::ClientDealProposal,
    ) -> Result<u64, ActorError> {
        self.check_deal(&deal, provider)?;
        let mut proposal = deal.proposal;
        proposal.client = Address::new_id(self.resolved(&proposal.client)?);
        proposal.provider = Address::new_id(provider);
        let cid = proposal_cid(&proposal)?;
        if state.has_pending_deal(self.store, &cid)? {
            let text = format!("cannot publish duplicate deals {cid}");
            return Err(ActorError::illegal_argument(text));
        }
        // What fails here leaves nothing.
        let mut changed = state.clone();
        changed.lock_client_and_provider_balances(self.store, &proposal)?;
        let id = changed.generate_storage_deal_id();
        changed.put_pending_deals(self.store, &[cid])?;
        changed.put_deals_by_epoch(self.store, &[(proposal.start_epoch, id)])?;
        changed.put_deal_proposals(self.store, &[(id, proposal)])?;
        *state = changed;
        Ok(id)
    }

    fn check_deal(&self, deal: &market::ClientDealProposal, provider: ActorID) -> Result<(), ActorError> {
        let refuse = |text: String| Err(ActorError::illegal_argument(text));
        let proposal = &deal.proposal;
        let signed = to_vec(proposal).map_err(|e| ActorError::serialization(e.to_string()))?;
        let client = self.root.resolve(&proposal.client);
        let key = client.and_then(|id| self.root.actors.get(&id)?.address);
        let Some(key) = key else {
            return refuse(format!("failed to resolve client address {}", proposal.client));
        };
        if let Err(reason) = deal.client_signature.verify(&signed, &key) {
            return refuse(format!("signature proposal invalid: {reason}"));
        }
        if self.root.resolve(&proposal.provider) != Some(provider) {
            return refuse("cannot publish deals from multiple providers in one batch".into());
        }
        if proposal.label.len() > LABEL_BYTES {
            return refuse(format!("deal label can be at most {LABEL_BYTES} bytes"));
        }
        if let Err(reason) = proposal.piece_size.validate() {
            return refuse(format!("proposal piece size is invalid: {reason}"));
        }
        if !market::is_piece_cid(&proposal.piece_cid) {
            return refuse("proposal PieceCID invalid".into());
        }
        if self.epoch > proposal.start_epoch {
            return refuse("deal start epoch has already elapsed".into());
        }
        if !DURATION.contains(&proposal.duration()) {
            return refuse("deal duration out of bounds".into());
        }
        let amounts = [
            &proposal.storage_price_per_epoch,
            &proposal.client_collateral,
            &proposal.provider_collateral,
        ];
        if amounts.iter().any(|amount| amount.is_negative()) {
            return refuse("an amount of the deal is negative".into());
        }
        let least = self.provider_collateral(proposal.piece_size);
        if proposal.provider_collateral < least {
            return refuse(format!("provider collateral out of bounds: {least} at least"));
        }
        Ok(())
    }

    fn provider_collateral(&self, size: PaddedPieceSize) -> TokenAmount {
        let (raw, _) = self.root.total_power();
        let money = &self.net.economics;
        let bounds = market::policy::deal_provider_collateral_bounds(
            &self.net.policy,
            size,
            &raw,
            &money.baseline,
            &money.circulating,
        );
        bounds.0.max(TokenAmount::zero())
    }

    /// SectorContentChanged, which miners send: tells of each piece whether the market takes it for its deal.
    pub(super) fn sector_content_changed(
        &mut self,
        provider: ActorID,
        added: &[Added],
    ) -> Result<Vec<bool>, ActorError> {
        let mut state = self.market()?;
        let mut accepted = Vec::with_capacity(added.len());
        for piece in added {
            let activated = self.activate_deal(&mut state, provider, piece);
            if let Err(error) = &activated {
                tracing::info!(provider, sector = piece.sector, %error, "a notification is rejected");
            }
            accepted.push(activated.is_ok());
        }
        self.save_market(&state)?;
        Ok(accepted)
    }

    fn activate_deal(
        &self,
        state: &mut market::State,
        provider: ActorID,
        piece: &Added,
    ) -> Result<(), ActorError> {
        let refuse = |text: String| Err(ActorError::illegal_argument(text));
        let deal: u64 = from_slice(piece.payload.bytes())
            .map_err(|e| ActorError::serialization(format!("the payload is no deal ID: {e}")))?;
        let Some(proposal) = state.find_proposal(self.store, deal)? else {
            return refuse(format!("deal {deal} not found"));
        };
        if state.find_deal_state(self.store, deal)?.is_some() {
            return refuse(format!("deal {deal} is active already"));
        }
        if !state.has_pending_deal(self.store, &proposal_cid(&proposal)?)? {
            return refuse(format!("deal {deal} is not pending"));
        }
        if proposal.piece_cid != piece.cid || proposal.piece_size != piece.size {
            return refuse(format!(
                "deal {deal} is about piece {} of {} bytes, not about {} of {}",
                proposal.piece_cid, proposal.piece_size.0, piece.cid, piece.size.0
            ));
        }
        if proposal.provider != Address::new_id(provider) {
            return refuse(format!("deal {deal} has provider {}", proposal.provider));
        }
        if self.epoch > proposal.start_epoch {
            return refuse(format!(
                "deal {deal} had to begin at {}, which has passed",
                proposal.start_epoch
            ));
        }
        if proposal.end_epoch > piece.expiration {
            return refuse(format!(
                "deal {deal} ends at {}, after its sector at {}",
                proposal.end_epoch, piece.expiration
            ));
        }
        let begun = market::DealState {
            sector_number: piece.sector,
            sector_start_epoch: self.epoch,
            last_updated_epoch: -1,
            slash_epoch: -1,
        };
        state.put_deal_states(self.store, &[(deal, begun)])?;
        state.put_sector_deal_ids(self.store, provider, &[(piece.sector, vec![deal])])
    }
}

/// What a proposal is known by.
fn proposal_cid(proposal: &market::DealProposal) -> Result<Cid, ActorError> {
    let bytes = to_vec(proposal).map_err(|e| ActorError::serialization(e.to_string()))?;
    Ok(crate::message::cid_of(&bytes))
}
