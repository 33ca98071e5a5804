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

/// Sends what `build` gives, unless this passage has sent something: one passage of a run through a step sends one message,
/// also if that failed. Attempts cannot tell which of them reported a failure (each look at the chain is one), so another
/// message needs another passage: an edge of the workflow, or a person who goes back.
pub(super) async fn once(
    access: &Access,
    attempt: &AttemptKey,
    miner: ActorId,
    build: impl AsyncFnOnce() -> Result<Wanted, Failure>,
) -> Result<Sent, Failure> {
    let key = key(attempt)?;
    let Some(record) = access.messager.record(key.clone()).await.map_err(unavailable)? else {
        let wanted = build().await?;
        let intent = intent(access, key, miner, wanted).await?;
        access.messager.submit(intent).await.map_err(unavailable)?;
        return Ok(Sent::Waits);
    };
    match ended(&record) {
        None => Ok(Sent::Waits),
        Some(Ok(landing)) => Ok(Sent::Landed(landing)),
        Some(Err(mut failure)) => {
            let hint = format!(
                "; `sealflow run rewind {} {}` sends another message",
                attempt.run, attempt.step
            );
            failure.message.push_str(&hint);
            Err(failure)
        }
    }
}

fn key(attempt: &AttemptKey) -> Result<Key, Failure> {
    let text = format!("{}/{}/{}", attempt.run, attempt.step, attempt.visit);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sealflow_chain::message::SignedMessage;
    use sealflow_chain::messager::{
        Batch, FeePolicy, MemoryStore, MessageStore, MessagerConfig, Signer, start,
    };
    use sealflow_chain::node::{Client, ClientConfig, Endpoint, FollowConfig};
    use sealflow_chain::types::Message;
    use sealflow_chain::wallet::WalletError;
    use sealflow_engine::id::{RunId, StepName};
    use tokio_util::sync::CancellationToken;

    use super::*;

    struct Nobody;

    impl Signer for Nobody {
        fn sign(&self, message: &Message) -> Result<SignedMessage, WalletError> {
            Err(WalletError::NoKey {
                address: message.from,
            })
        }
    }

    #[tokio::test]
    async fn a_message_that_failed_is_not_sent_again_by_looking_at_it() {
        let attempt = |number, visit| AttemptKey {
            run: RunId::new(1, &[7; 10]),
            step: StepName::new("submit_precommit").unwrap(),
            visit,
            attempt: number,
        };
        let intent = Intent {
            key: key(&attempt(1, 1)).unwrap(),
            from: Address::new_id(100),
            to: Address::new_id(1000),
            value: TokenAmount::from_atto(1),
            method: 28,
            params: Default::default(),
            fees: FeePolicy::default(),
            expires: None,
        };
        let state = State::Failed {
            code: "signing_denied".to_owned(),
            reason: "no rule".to_owned(),
        };
        let record = Record {
            intent,
            number: 1,
            revision: 1,
            state,
            nonce: None,
            versions: Vec::new(),
            note: String::new(),
        };
        let store = MemoryStore::default();
        let batch = Batch {
            records: vec![record],
            ..Batch::default()
        };
        store.commit(&batch).await.unwrap();
        let node = Endpoint::parse("http://127.0.0.1:9").unwrap();
        let client = Arc::new(Client::new(ClientConfig::new(vec![node])).unwrap());
        let stop = CancellationToken::new();
        let running = start(
            MessagerConfig::default(),
            FollowConfig::default(),
            store,
            client.clone(),
            Arc::new(Nobody),
            stop.clone(),
        );
        let running = running.await.unwrap();
        let access = Access {
            client,
            messager: running.messager,
        };
        let another = async || Err(Failure::permanent("built", "another message"));
        // It waited for many looks, each of which was an attempt.
        for number in [2, 3, 9] {
            let looking = attempt(number, 1);
            let sent = once(&access, &looking, ActorId(1000), another);
            let failure = sent.await.err().unwrap();
            assert_eq!(failure.code, "message_failed", "{failure}");
            assert!(failure.message.contains("run rewind"), "{failure}");
        }
        // Another passage sends another.
        let back = attempt(10, 2);
        let sent = once(&access, &back, ActorId(1000), another);
        assert_eq!(sent.await.err().unwrap().code, "built");
        stop.cancel();
    }
}
