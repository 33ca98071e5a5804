//! One message for the sectors of one batch, or of one step: what the chain would refuse is left out of it and gets a verdict
//! of its own, the others are sent. The batch's name is the message's key, so a batch sends one message, whatever is killed;
//! and no sector is in two messages that are on their way.

use sealflow_chain::control::Purpose;
use sealflow_chain::messager::{Intent, Landing, Record, State};
use sealflow_chain::node::{Client, NodeError, PrecommitOnChain, SectorInfo, TipSet};
use sealflow_chain::outcome;
use sealflow_chain::params::{BuildError, Call};
use sealflow_chain::policy::MESSAGE_BYTES;
use sealflow_chain::types::{Address, BitField, ChainEpoch, ExitCode, TokenAmount};
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::{Outcome, StageContext};

use super::send::{self, Ended};
use super::{Access, address, failed, node, until};
use crate::types::ActorId;

/// Bytes of a message beside its parameters, with room to spare.
const ENVELOPE: usize = 1024;

/// What a stage that sends sectors says of its message.
pub(super) trait Sectors {
    /// What a member takes.
    type Input;
    /// What it gives.
    type Output;
    /// What of it is in the message.
    type Part: Clone;
    /// The method.
    const METHOD: u64;
    /// What it is for, which says who sends it.
    const PURPOSE: Purpose;

    /// The miner and the sector of a member.
    fn of(input: &Self::Input) -> (ActorId, u64);

    /// What the chain already has of it: then nothing is sent.
    async fn there(view: &View<'_>, input: &Self::Input) -> Result<Option<Self::Output>, Failure>;

    /// What of it is to be sent, or why it cannot be, as far as that can be told without running the message.
    async fn part(view: &View<'_>, input: &Self::Input) -> Result<Self::Part, Failure>;

    /// Whether two can be in one message.
    fn alike(_: &Self::Part, _: &Self::Part) -> bool {
        true
    }

    /// The message.
    fn call(parts: Vec<Self::Part>) -> Result<Call, BuildError>;

    /// What a part needs of the miner's balance.
    fn needs(part: &Self::Part) -> TokenAmount;

    /// From this epoch on it is not to land.
    fn expires(part: &Self::Part) -> Option<ChainEpoch>;

    /// For each sector of a message that ended with exit code 0, in their order: nothing, or why it was refused.
    fn verdicts(returned: &[u8], sectors: usize) -> Result<Vec<Option<ExitCode>>, Failure>;

    /// What it gives once its message is on the chain for good.
    async fn landed(view: &View<'_>, input: &Self::Input, landing: &Landing)
    -> Result<Self::Output, Failure>;
}

/// The chain at one moment, as a miner's messages see it.
pub(super) struct View<'a> {
    pub(super) client: &'a Client,
    pub(super) access: &'a Access,
    /// The miner.
    pub(super) miner: Address,
    /// The moment.
    pub(super) head: TipSet,
    /// Numbers that sectors of the miner have, or had.
    pub(super) allocated: BitField,
}

impl<'a> View<'a> {
    async fn now(access: &'a Access, miner: ActorId) -> Result<Self, Failure> {
        let (client, miner) = (&*access.client, address(miner));
        let head = client.chain_head().await.map_err(node)?;
        let allocated = client.allocated(&miner, &head.key).await.map_err(node)?;
        Ok(Self {
            client,
            access,
            miner,
            head,
            allocated,
        })
    }

    /// A sector as it is pre-committed, if it is.
    pub(super) async fn precommit(&self, sector: u64) -> Result<Option<PrecommitOnChain>, Failure> {
        let found = self.client.precommit(&self.miner, sector, &self.head.key);
        found.await.map_err(node)
    }

    /// A sector as the chain shows it, if it does.
    pub(super) async fn sector(&self, sector: u64) -> Result<Option<SectorInfo>, Failure> {
        let found = self.client.sector(&self.miner, sector, &self.head.key);
        found.await.map_err(node)
    }
}

/// What a message did must be shown by the tipset that shows its receipt; nodes that do not are asked again.
pub(super) fn not_shown(code: &'static str, landing: &Landing, what: &str) -> Failure {
    let text = format!(
        "message {} landed, but the chain does not show {what}",
        landing.cid
    );
    Failure::transient(code, text)
}

/// What is said of each member.
pub(super) type Verdicts<T> = Vec<Result<T, Failure>>;

/// Sends what members ask for, once, and says of each what became of it.
pub(super) async fn together<K: Sectors>(
    access: &Access,
    cx: &StageContext,
    inputs: &[K::Input],
) -> Result<Outcome<Verdicts<K::Output>>, Failure> {
    let Some((miner, _)) = inputs.first().map(K::of) else {
        return Ok(Outcome::Done(Vec::new()));
    };
    if inputs.iter().any(|input| K::of(input).0 != miner) {
        let text = "a batch has sectors of several miners, and a message goes to one: set `key = \"miner\"` of the step's batch";
        return Err(Failure::permanent("several_miners", text));
    }
    let key = send::key(&cx.key)?;
    let known = access.messager.record(key.clone()).await;
    if let Some(record) = known.map_err(send::unavailable)? {
        let Some(ended) = send::ended(&record) else {
            return Ok(later(access).await);
        };
        let view = View::now(access, miner).await?;
        let verdicts = told::<K>(&view, inputs, &record, ended).await?;
        return Ok(Outcome::Done(verdicts));
    }
    let view = View::now(access, miner).await?;
    if elsewhere::<K>(&view, inputs).await? {
        return Ok(later(access).await);
    }
    let (parts, verdicts) = chosen::<K>(&view, inputs).await?;
    if parts.is_empty() {
        return Ok(Outcome::Done(verdicts.into_iter().flatten().collect()));
    }
    let intent = intent::<K>(&view, key, &parts).await?;
    access.messager.submit(intent).await.map_err(send::unavailable)?;
    Ok(later(access).await)
}

/// The same for one.
pub(super) async fn alone<K: Sectors>(
    access: &Access,
    cx: &StageContext,
    input: K::Input,
) -> Result<Outcome<K::Output>, Failure> {
    let verdicts = match together::<K>(access, cx, std::slice::from_ref(&input)).await? {
        Outcome::Park(wake) => return Ok(Outcome::Park(wake)),
        Outcome::Done(verdicts) => verdicts,
    };
    let verdict = verdicts.into_iter().next();
    let verdict = verdict.unwrap_or_else(|| Err(Failure::permanent("bad_output", "there is no verdict")));
    verdict.map(Outcome::Done).map_err(|mut failure| {
        // A batch of its members' next attempts is another batch; here the message's key stays.
        let hint = format!(
            "; `sealflow run rewind {} {}` sends another message",
            cx.key.run, cx.key.step
        );
        failure.message.push_str(&hint);
        failure
    })
}

/// Comes back with the next epoch. A node that does not answer is no failure of what waits.
async fn later<T>(access: &Access) -> Outcome<T> {
    let head = match access.client.chain_head().await {
        Ok(head) => until(access, &head, head.height + 1).await,
        Err(error) => Err(node(error)),
    };
    head.unwrap_or_else(|failure| {
        tracing::debug!(%failure, "a message waits, and the node cannot be asked");
        super::in_a_while()
    })
}

/// Whether a message with one of these sectors is on its way under another key: of a batch that was cancelled.
async fn elsewhere<K: Sectors>(view: &View<'_>, inputs: &[K::Input]) -> Result<bool, Failure> {
    let status = view.access.messager.status().await.map_err(send::unavailable)?;
    let open = status.records.iter().filter(|record| {
        !matches!(record.state, State::Conflict(_))
            && record.intent.to == view.miner
            && record.intent.method == K::METHOD
    });
    let mut sectors = open.flat_map(|record| sectors(&record.intent));
    Ok(sectors.any(|sector| inputs.iter().any(|input| K::of(input).1 == sector)))
}

/// The members of a message, by their place, and the verdicts on the others.
type Chosen<K> = (
    Vec<(usize, <K as Sectors>::Part)>,
    Vec<Option<Result<<K as Sectors>::Output, Failure>>>,
);

/// Who is in the message.
async fn chosen<K: Sectors>(view: &View<'_>, inputs: &[K::Input]) -> Result<Chosen<K>, Failure> {
    let mut verdicts: Vec<Option<Result<K::Output, Failure>>> = Vec::with_capacity(inputs.len());
    let mut parts = Vec::new();
    for (at, input) in inputs.iter().enumerate() {
        verdicts.push(match asked::<K>(view, input).await? {
            Ok(part) => {
                parts.push((at, part));
                None
            }
            Err(verdict) => Some(verdict),
        });
    }
    let (mut good, bad) = judged::<K>(view, parts).await?;
    // What does not fit goes with the next one.
    let first = good.first().map(|(_, part)| part.clone());
    let mut left: Vec<usize> = Vec::new();
    good.retain(|(at, part)| {
        let fits = first.as_ref().is_none_or(|first| K::alike(first, part));
        if !fits {
            left.push(*at);
        }
        fits
    });
    while good.len() > 1 && bytes::<K>(&good)? > MESSAGE_BYTES - ENVELOPE {
        left.extend(good.pop().map(|(at, _)| at));
    }
    let told = bad.into_iter().map(|(at, failure)| (at, Err(failure)));
    for (at, verdict) in told.chain(left.into_iter().map(|at| (at, Err(left_out())))) {
        if let Some(place) = verdicts.get_mut(at) {
            *place = Some(verdict);
        }
    }
    Ok((good, verdicts))
}

/// What is to be sent of a member, or what is said of it at once. Only a node's trouble is a failure of all.
async fn asked<K: Sectors>(
    view: &View<'_>,
    input: &K::Input,
) -> Result<Result<K::Part, Result<K::Output, Failure>>, Failure> {
    if let Some(output) = K::there(view, input).await? {
        return Ok(Err(Ok(output)));
    }
    match K::part(view, input).await {
        Ok(part) => Ok(Ok(part)),
        Err(failure) if is_of_node(&failure) => Err(failure),
        Err(failure) => Ok(Err(Err(failure))),
    }
}

fn is_of_node(failure: &Failure) -> bool {
    ["node_unreachable", "node_timeout", "no_node"].contains(&&*failure.code)
}

fn left_out() -> Failure {
    let text = "it was left out of the message; it is sent with the next one";
    Failure::transient("left_out", text)
}

fn bytes<K: Sectors>(parts: &[(usize, K::Part)]) -> Result<usize, Failure> {
    let call = K::call(parts.iter().map(|(_, part)| part.clone()).collect()).map_err(bad)?;
    Ok(call.params().map_err(bad)?.bytes().len())
}

pub(super) fn bad(error: BuildError) -> Failure {
    Failure::permanent("bad_message", error.to_string())
}

/// Members with their places, and members that are refused.
type Judged<K> = (Vec<(usize, <K as Sectors>::Part)>, Vec<(usize, Failure)>);

/// Runs the message without sending it, and finds those for which it would be refused by halving.
async fn judged<K: Sectors>(view: &View<'_>, parts: Vec<(usize, K::Part)>) -> Result<Judged<K>, Failure> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut open = vec![parts];
    while let Some(mut group) = open.pop() {
        if group.is_empty() {
            continue;
        }
        match simulated::<K>(view, &group).await? {
            Ok(verdicts) => {
                for (part, verdict) in group.into_iter().zip(verdicts) {
                    match verdict {
                        None => good.push(part),
                        // Alone the actor says why.
                        Some(()) => open.push(vec![part]),
                    }
                }
            }
            Err(failure) if group.len() == 1 => bad.extend(group.pop().map(|(at, _)| (at, failure))),
            Err(_) => {
                let rest = group.split_off(group.len() / 2);
                open.extend([rest, group]);
            }
        }
    }
    good.sort_by_key(|(at, _)| *at);
    Ok((good, bad))
}

/// Runs a message without sending it: for each sector whether it would be refused, or why the message would be.
async fn simulated<K: Sectors>(
    view: &View<'_>,
    parts: &[(usize, K::Part)],
) -> Result<Result<Vec<Option<()>>, Failure>, Failure> {
    let all_good = || Ok(Ok(vec![None; parts.len()]));
    let key = send::dry_key()?;
    let intent = intent::<K>(view, key, parts).await?;
    let answer = view.client.dry_run(&intent.message(0), &view.head.key).await;
    let result = match answer {
        Ok(result) => result,
        Err(error) => {
            return refused_by_node(error)
                .map(|failure| failure.map_or_else(|| Ok(vec![None; parts.len()]), Err));
        }
    };
    let text = (!result.error.is_empty()).then_some(result.error.as_str());
    let method = K::call(parts.iter().map(|(_, part)| part.clone()).collect()).map_err(bad)?;
    match outcome::failure(method.name(), result.msg_rct.exit_code, text) {
        // Money may come: the message waits for it, and says so.
        Some(failure) if waits_for_money(failure.code) => all_good(),
        Some(failure) => Ok(Err(failed(failure))),
        None => {
            let verdicts = K::verdicts(&result.msg_rct.returned, parts.len())?;
            let refused = verdicts.into_iter().map(|verdict| verdict.map(|_| ())).collect();
            // One alone that is refused without a failure of the message would be asked for ever.
            match (parts.len(), refused) {
                (1, verdicts) if verdicts == [Some(())] => Ok(Err(alone_refused())),
                (_, verdicts) => Ok(Ok(verdicts)),
            }
        }
    }
}

fn alone_refused() -> Failure {
    Failure::permanent(
        "sector_refused",
        "the chain refuses the sector, and does not say why",
    )
}

fn waits_for_money(code: &str) -> bool {
    ["insufficient_funds", "fee_debt"].contains(&code)
}

/// A node that refuses to run a message says of the message what the actor would; trouble of nodes says nothing of it.
fn refused_by_node(error: NodeError) -> Result<Option<Failure>, Failure> {
    if error.is_node_trouble() {
        return Err(node(error));
    }
    let failure = error.failure();
    Ok((!waits_for_money(failure.code)).then(|| failed(failure)))
}

async fn intent<K: Sectors>(
    view: &View<'_>,
    key: sealflow_chain::messager::Key,
    parts: &[(usize, K::Part)],
) -> Result<Intent, Failure> {
    let call = K::call(parts.iter().map(|(_, part)| part.clone()).collect()).map_err(bad)?;
    let needs: TokenAmount = parts.iter().map(|(_, part)| K::needs(part)).sum();
    let expires = parts.iter().filter_map(|(_, part)| K::expires(part)).min();
    send::intent(view, key, (K::PURPOSE, &call), &needs, expires).await
}

/// The sectors that a message names.
pub(super) fn sectors(intent: &Intent) -> Vec<u64> {
    match Call::decode(&intent.to, intent.method, intent.params.bytes()) {
        Ok(Call::PreCommitSectorBatch2(params)) => {
            params.sectors.iter().map(|sector| sector.sector_number).collect()
        }
        Ok(Call::ProveCommitSectors3(params)) => {
            let activations = params.sector_activations.iter();
            activations.map(|sector| sector.sector_number).collect()
        }
        _ => Vec::new(),
    }
}

/// What is said of each member when the message has ended.
async fn told<K: Sectors>(
    view: &View<'_>,
    inputs: &[K::Input],
    record: &Record,
    ended: Ended,
) -> Result<Verdicts<K::Output>, Failure> {
    let sent = sectors(&record.intent);
    let fates = match &ended {
        Ok(landing) => K::verdicts(&landing.receipt.returned, sent.len())?,
        Err(_) => Vec::new(),
    };
    let mut verdicts = Vec::with_capacity(inputs.len());
    for input in inputs {
        let place = sent.iter().position(|sector| *sector == K::of(input).1);
        let verdict = match (&ended, place) {
            (Ok(landing), Some(at)) if fates.get(at) == Some(&None) => K::landed(view, input, landing).await,
            // Its own reason goes before that of the message.
            (Err(failure), Some(_)) => {
                let why = shared(record, failure, sent.len());
                again::<K>(view, input, &why).await?
            }
            (Ok(_), Some(at)) => {
                let exit = fates.get(at).copied().flatten();
                let failure = exit.and_then(|exit| outcome::failure("the message", exit, None));
                let failure = failure.map_or_else(alone_refused, failed);
                again::<K>(view, input, &failure).await?
            }
            (_, None) => again::<K>(view, input, &left_out()).await?,
        };
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// What a message's failure means for a member against which nothing stands: what another member did to the message is no
/// reason to give it up.
fn shared(record: &Record, failure: &Failure, sectors: usize) -> Failure {
    let of_all = match &record.state {
        // A policy, or a person.
        State::Failed { code, .. } => {
            ["signing_denied", "not_understood", "cancelled"].contains(&code.as_str())
        }
        State::Conflict(_) => true,
        _ => false,
    };
    if sectors == 1 || of_all {
        return failure.clone();
    }
    let text = format!(
        "its message failed because of another sector ({}); it is sent with the next one",
        failure.message
    );
    Failure::transient("left_out", text)
}

/// What is to be said of a member that is not on the chain by this message: what stands against it now, else `why`.
async fn again<K: Sectors>(
    view: &View<'_>,
    input: &K::Input,
    why: &Failure,
) -> Result<Result<K::Output, Failure>, Failure> {
    let part = match asked::<K>(view, input).await? {
        Ok(part) => part,
        Err(verdict) => return Ok(verdict),
    };
    let (_, bad) = judged::<K>(view, vec![(0, part)]).await?;
    Ok(Err(bad
        .into_iter()
        .next()
        .map_or_else(|| why.clone(), |(_, failure)| failure)))
}
