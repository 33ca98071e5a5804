//! One message for one passage of a run through a step, whatever is killed meanwhile.

use sealflow_chain::funds;
use sealflow_chain::messager::{Intent, Key, Landing, Record, State};
use sealflow_chain::outcome;
use sealflow_chain::params::Call;
use sealflow_chain::types::{Address, ChainEpoch, TokenAmount};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::AttemptKey;

use super::{Access, failed, node};
use crate::types::ActorId;

/// What is to be sent.
pub(super) struct Wanted {
    pub(super) call: Call,
    /// What it needs of the miner's balance.
    pub(super) needs: TokenAmount,
    /// From this epoch on it is not to land.
    pub(super) expires: Option<ChainEpoch>,
}

/// How far a message is.
pub(super) enum Sent {
    /// Not final yet.
    Waits,
    /// On the chain for good, and its exit code is 0.
    Landed(Landing),
}

/// The most messages that one passage through a step may need, failures before the last one included.
const MOST: u32 = 100;

/// Sends what `build` gives, unless this passage has sent something that did not fail. A message that failed on the
/// chain is reported once; the next attempt then sends another.
pub(super) async fn once(
    access: &Access,
    attempt: &AttemptKey,
    miner: ActorId,
    build: impl AsyncFnOnce() -> Result<Wanted, Failure>,
) -> Result<Sent, Failure> {
    for number in 0..MOST {
        let key = key(attempt, number)?;
        let Some(record) = access.messager.record(key.clone()).await.map_err(unavailable)? else {
            let wanted = build().await?;
            let intent = intent(access, key, miner, wanted).await?;
            access.messager.submit(intent).await.map_err(unavailable)?;
            return Ok(Sent::Waits);
        };
        let failure = match ended(&record) {
            None => return Ok(Sent::Waits),
            Some(Ok(landing)) => return Ok(Sent::Landed(landing)),
            Some(Err(failure)) => failure,
        };
        // Every failure is the end of one attempt.
        if number + 1 >= attempt.attempt {
            return Err(failure);
        }
    }
    Err(Failure::permanent(
        "too_many_messages",
        "this step has sent too many messages",
    ))
}

fn key(attempt: &AttemptKey, number: u32) -> Result<Key, Failure> {
    let text = format!("{}/{}/{}/{number}", attempt.run, attempt.step, attempt.visit);
    Key::try_from(text).map_err(|error| Failure::permanent("bad_key", error.to_string()))
}

/// How a message ended; nothing while it has not.
fn ended(record: &Record) -> Option<Result<Landing, Failure>> {
    match &record.state {
        State::Final(landing) => {
            let exit = landing.receipt.exit_code;
            let method = Call::decode(
                &record.intent.to,
                record.intent.method,
                record.intent.params.bytes(),
            );
            let method = method.as_ref().map_or("", Call::name);
            Some(match outcome::failure(method, exit, None) {
                None => Ok(landing.clone()),
                Some(failure) => Err(failed(failure)),
            })
        }
        State::Failed { code, reason } => {
            let text = format!("the message was given up ({code}): {reason}");
            Some(Err(match code.as_str() {
                "expired" => Failure::rewind("message_expired", text),
                _ => Failure::permanent("message_failed", text),
            }))
        }
        State::Conflict(_) => {
            let text = format!(
                "{}; see `sealflow message show {}`",
                record.note, record.intent.key
            );
            Some(Err(Failure::permanent("nonce_conflict", text)))
        }
        State::Queued | State::Published | State::Landed(_) => None,
    }
}

async fn intent(access: &Access, key: Key, miner: ActorId, wanted: Wanted) -> Result<Intent, Failure> {
    let (client, to) = (&access.client, super::address(miner));
    let head = client.chain_head().await.map_err(node)?;
    let info = client.miner_info(&to, &head.key).await.map_err(node)?;
    let from: Address = client.account_key(&info.worker, &head.key).await.map_err(node)?;
    let available = client.available_balance(&to, &head.key).await.map_err(node)?;
    let value = funds::value(&wanted.needs, &available, funds::Collateral::MinerFirst)
        .map_err(|error| Failure::transient("insufficient_funds", error.to_string()))?;
    let params = wanted
        .call
        .params()
        .map_err(|error| Failure::permanent("bad_message", error.to_string()))?;
    Ok(Intent {
        key,
        from,
        to,
        value,
        method: wanted.call.number(),
        params,
        fees: sealflow_chain::messager::FeePolicy::default(),
        expires: wanted.expires,
    })
}

fn unavailable(error: sealflow_chain::messager::MessagerError) -> Failure {
    Failure::transient("messager_unavailable", error.to_string())
}
