//! A message for one passage of a run through a step, or for one batch: its key, who sends it, and how it ended.

use sealflow_chain::control::{self, Purpose};
use sealflow_chain::funds;
use sealflow_chain::messager::{FeePolicy, Intent, Key, Landing, MessagerError, Record, State};
use sealflow_chain::outcome;
use sealflow_chain::params::Call;
use sealflow_chain::types::{ChainEpoch, TokenAmount};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::AttemptKey;

use super::together::View;
use super::{failed, node};

/// How a message ended: on the chain for good, with exit code 0; or not.
pub(super) type Ended = Result<Landing, Failure>;

/// The key of the message of an attempt: one passage of a run through a step sends one message, also if that failed. Attempts
/// cannot tell which of them reported a failure (each look at the chain is one), so another message needs another passage: an
/// edge of the workflow, or a person who goes back. A batch is a run of its own, so its key is the batch's.
pub(super) fn key(attempt: &AttemptKey) -> Result<Key, Failure> {
    named(format!("{}/{}/{}", attempt.run, attempt.step, attempt.visit))
}

/// The key of a message that is only tried.
pub(super) fn dry_key() -> Result<Key, Failure> {
    named("not-sent".to_owned())
}

fn named(text: String) -> Result<Key, Failure> {
    Key::try_from(text).map_err(|error| Failure::permanent("bad_key", error.to_string()))
}

/// How a message ended; nothing while it has not.
pub(super) fn ended(record: &Record) -> Option<Ended> {
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

/// What is asked of the messager: who sends it, and what it carries so that the miner's balance is enough.
pub(super) async fn intent(
    view: &View<'_>,
    key: Key,
    (purpose, call): (Purpose, &Call),
    needs: &TokenAmount,
    expires: Option<ChainEpoch>,
) -> Result<Intent, Failure> {
    let (client, to, at) = (view.client, view.miner, &view.head.key);
    let available = client.available_balance(&to, at).await.map_err(node)?;
    let value = funds::value(needs, &available, funds::Collateral::MinerFirst)
        .map_err(|error| Failure::transient("insufficient_funds", error.to_string()))?;
    let book = &view.access.control;
    let choice = control::choose(client, &to, purpose, &value, book, at)
        .await
        .map_err(node)?;
    for candidate in &choice.candidates {
        let (address, reason) = (candidate.address, choice.reason(candidate));
        tracing::debug!(%key, %address, %reason, "who sends");
    }
    let from = choice.from;
    let params = call
        .params()
        .map_err(|error| Failure::permanent("bad_message", error.to_string()))?;
    Ok(Intent {
        key,
        from,
        to,
        value,
        method: call.number(),
        params,
        fees: FeePolicy::default(),
        expires,
    })
}

pub(super) fn unavailable(error: MessagerError) -> Failure {
    Failure::transient("messager_unavailable", error.to_string())
}
