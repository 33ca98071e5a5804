//! Follows the head of the chain over subscriptions that break, nodes that lag, and gaps of any length.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::client::Client;
use super::error::NodeError;
use super::heads::{HeadEvent, TipSetSource, Tracker};
use super::subscribe::{Change, ChangeType, Subscription};
use super::types::{TipSet, TipSetKey};

/// How to follow.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The head that was known last, or nothing.
    pub known: Option<TipSet>,
    /// How many tipsets are made up for at most; beyond that the event is [`HeadEvent::Lost`].
    pub depth: usize,
    /// How often heads are asked for, beside the subscription. Once an epoch is enough.
    pub poll: Duration,
    /// A connection on which nothing arrives for so long is dead.
    pub silence: Duration,
    /// The pause before subscribing again.
    pub pause: Duration,
}

impl Default for FollowConfig {
    /// For epochs of 30 seconds; twice the finality is made up for.
    fn default() -> Self {
        Self {
            known: None,
            depth: 1800,
            poll: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            pause: Duration::from_secs(1),
        }
    }
}

/// The most events that wait for their receiver. Then following waits too, and makes up for it later.
const WAITING: usize = 16;

/// A task that follows the head. It ends when this is dropped.
#[derive(Debug)]
pub struct HeadFollower {
    events: mpsc::Receiver<HeadEvent>,
    task: JoinHandle<()>,
}

impl HeadFollower {
    /// Starts to follow.
    pub fn start(client: Arc<Client>, config: FollowConfig) -> Self {
        let (sender, events) = mpsc::channel(WAITING);
        let follow = Follow {
            tracker: Tracker::new(config.known.clone(), config.depth),
            client,
            config,
            events: sender,
        };
        Self {
            events,
            task: tokio::spawn(follow.run()),
        }
    }

    /// The next event; nothing only after a panic of the task.
    pub async fn next(&mut self) -> Option<HeadEvent> {
        self.events.recv().await
    }
}

impl Drop for HeadFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TipSetSource for Client {
    async fn tipset(&self, key: &TipSetKey) -> Result<TipSet, NodeError> {
        Self::tipset(self, key).await
    }
}

struct Follow {
    client: Arc<Client>,
    config: FollowConfig,
    tracker: Tracker,
    events: mpsc::Sender<HeadEvent>,
}

/// The receiver is gone.
struct Unwanted;

impl Follow {
    async fn run(mut self) {
        while self.session().await.is_ok() {
            tokio::time::sleep(self.config.pause).await;
        }
    }

    /// One subscription, from its beginning to its end.
    async fn session(&mut self) -> Result<(), Unwanted> {
        // Heads first: it says whom to subscribe to, and follows the chain where no node offers WebSocket.
        self.poll().await?;
        let Some(node) = self.client.order().into_iter().next() else {
            return Ok(());
        };
        let opened = Subscription::open(self.client.node(node), self.config.silence).await;
        self.client.note(node, &opened);
        let mut subscription = match opened {
            Ok(subscription) => subscription,
            Err(error) => {
                tracing::warn!(%error, "no subscription to the head; it is asked for instead");
                return Ok(());
            }
        };
        let mut ticks = interval_at(Instant::now() + self.config.poll, self.config.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changes = subscription.next() => match changes {
                    Ok(changes) => self.changed(node, changes).await?,
                    Err(error) => {
                        tracing::info!(%error, "the subscription to the head ended");
                        self.client.note::<()>(node, &Err(error));
                        return Ok(());
                    }
                },
                _ = ticks.tick() => {
                    self.poll().await?;
                    // This node lags or fails: subscribe to a better one.
                    if self.client.order().first() != Some(&node) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn changed(&mut self, node: usize, changes: Vec<Change>) -> Result<(), Unwanted> {
        let mut head = None;
        for change in changes {
            self.tracker.learn(change.tipset.clone());
            if change.kind != ChangeType::Revert {
                head = Some(change.tipset);
            }
        }
        // Reverts without an apply leave a lower head on the same chain, until the next apply.
        let Some(head) = head else { return Ok(()) };
        self.client.saw_head(node, head.height);
        self.advance(head).await
    }

    async fn poll(&mut self) -> Result<(), Unwanted> {
        match self.client.check_heads().await {
            Ok(head) => {
                let known = self.tracker.head().map(|head| head.height);
                // Of two forks of one height the subscription decides.
                if known.is_none_or(|known| head.height > known) {
                    self.advance(head).await?;
                }
            }
            Err(error) => tracing::warn!(%error, "no node gives its head"),
        }
        Ok(())
    }

    async fn advance(&mut self, head: TipSet) -> Result<(), Unwanted> {
        let event = self.tracker.advance(head, self.client.as_ref()).await;
        match event {
            Ok(Some(event)) => self.events.send(event).await.map_err(|_| Unwanted),
            Ok(None) => Ok(()),
            Err(error) => {
                // The next head, or the next look, makes up for it.
                tracing::warn!(%error, "a change of the head is not understood yet");
                Ok(())
            }
        }
    }
}
