//! The lease on a journal that several daemons share: one decides, the others stand by. The fence makes sure that only the
//! newest can commit (`schema::take_fence`); the lease says when the next one's turn is. It is judged by the clock of
//! who waits: clocks of other machines are not compared.

use std::time::{Duration, Instant};

use sealflow_engine::journal::JournalError;
use surrealdb::types::{Object, SurrealValue};

use super::SurrealJournal;
use super::client::Client;
use super::error::OpenError;
use super::options::{OpenOptions, Target, redact};
use super::record::{number, object, text};
use super::schema;

/// How often a beat that a commit got in the way of is tried again.
const TRIES: usize = 20;

/// What is known of the daemon that decides.
#[derive(Debug, Clone, PartialEq, Eq, SurrealValue)]
struct Record {
    epoch: u64,
    commits: Option<u64>,
    beats: Option<u64>,
    released: Option<bool>,
    holder: Option<String>,
}

/// Waits until the daemon that holds the lease of a journal gave it back, or was not heard for `term`. `heard` is told what
/// the holder says of itself, at every look. Gives the epoch that has ended, for [`OpenOptions::after`]; none if nobody
/// ever had the journal.
///
/// # Errors
/// The journal is not on a server, or the server cannot be reached.
pub async fn stand_by(
    url: &str,
    options: &OpenOptions,
    term: Duration,
    heard: &(dyn Fn(&str) + Send + Sync),
) -> Result<Option<u64>, OpenError> {
    let target = Target::parse(url)?;
    let Target::Remote(_) = target else {
        return Err(OpenError::Url {
            url: redact(url),
            why: "several daemons can only share a journal on a server (ws:// or wss://)".to_owned(),
        });
    };
    let client = Client::open(&target, redact(url), options).await?;
    let turn = turn(&client, term, heard).await;
    if let Err(closing) = client.close().await {
        tracing::warn!(%closing, "after standing by");
    }
    turn
}

async fn turn(
    client: &Client,
    term: Duration,
    heard: &(dyn Fn(&str) + Send + Sync),
) -> Result<Option<u64>, OpenError> {
    if schema::version(client).await? == 0 {
        return Ok(None);
    }
    let mut last: Option<(Record, Instant)> = None;
    loop {
        let sql = "SELECT epoch, commits, beats, released, holder FROM lease:journal";
        let found: Vec<Record> = client
            .fetch(sql, Object::new())
            .await
            .map_err(|error| client.open_error("reading the lease", &error))?;
        let Some(now) = found.into_iter().next() else {
            return Ok(None);
        };
        if now.released == Some(true) {
            return Ok(Some(now.epoch));
        }
        heard(now.holder.as_deref().unwrap_or_default());
        match &last {
            Some((known, since)) if *known == now => {
                if since.elapsed() >= term {
                    tracing::warn!(
                        epoch = now.epoch,
                        seconds = term.as_secs(),
                        "the daemon of this journal was not heard"
                    );
                    return Ok(Some(now.epoch));
                }
            }
            _ => last = Some((now, Instant::now())),
        }
        tokio::time::sleep((term / 10).min(Duration::from_secs(1))).await;
    }
}

impl SurrealJournal {
    /// Says that this daemon is there, and where. Commits say so too.
    ///
    /// # Errors
    /// Another daemon has the journal now, or the store failed.
    pub async fn beat(&self, holder: &str) -> Result<(), JournalError> {
        let set = "beats = (beats ?? 0) + 1, holder = $holder, released = false";
        self.hold(set, object([("holder", text(holder))])).await
    }

    /// Gives the lease back: whoever stands by may take over at once.
    ///
    /// # Errors
    /// Another daemon has the journal now, or the store failed.
    pub async fn release(&self) -> Result<(), JournalError> {
        self.hold("released = true", Object::new()).await
    }

    async fn hold(&self, set: &str, mut params: Object) -> Result<(), JournalError> {
        let Some(epoch) = self.epoch else {
            return Ok(());
        };
        params.extend(object([("epoch", number(epoch))]));
        let sql = format!("UPDATE lease:journal SET {set} WHERE epoch = $epoch RETURN VALUE epoch");
        for attempt in 1..=TRIES {
            match self.client.fetch::<u64>(&sql, params.clone()).await {
                Ok(held) if held == [epoch] => return Ok(()),
                Ok(_) => {
                    let why = format!("it was epoch {epoch}, and is so no more");
                    return Err(JournalError::Fenced(why));
                }
                // A commit of ours at the same moment.
                Err(_) if attempt < TRIES => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => return Err(self.client.error("holding the lease", &error)),
            }
        }
        Ok(())
    }

    /// Whether the journal is on a server, which several daemons can share.
    pub fn is_shared(&self) -> bool {
        self.client.is_remote()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::tests::follower;
    use super::*;

    const TERM: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn who_beats_is_waited_for_and_who_falls_silent_is_not() {
        let folder = TempDir::new().unwrap();
        let first = SurrealJournal::open("memory", OpenOptions::new(folder.path().join("payloads")))
            .await
            .unwrap();
        let client = first.client.clone();
        let said = std::sync::Mutex::new(String::new());
        let heard = |holder: &str| holder.clone_into(&mut said.lock().unwrap());
        let waiting = turn(&client, TERM, &heard);
        tokio::pin!(waiting);
        // Much longer than the term.
        let beating = async {
            for _ in 0..20 {
                first.beat("here").await.unwrap();
                tokio::time::sleep(TERM / 8).await;
            }
        };
        tokio::select! {
            turn = &mut waiting => panic!("{turn:?} although it was heard"),
            () = beating => {}
        }
        assert_eq!(waiting.await.unwrap(), first.epoch, "it fell silent");
        assert_eq!(*said.lock().unwrap(), "here");
    }

    #[tokio::test]
    async fn who_gives_it_back_is_followed_at_once() {
        let folder = TempDir::new().unwrap();
        let first = SurrealJournal::open("memory", OpenOptions::new(folder.path().join("payloads")))
            .await
            .unwrap();
        first.beat("here").await.unwrap();
        first.release().await.unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(turn(&first.client, hour, &|_| {}).await.unwrap(), first.epoch);
    }

    #[tokio::test]
    async fn who_was_followed_neither_beats_nor_gives_anything_back() {
        let folder = TempDir::new().unwrap();
        let options = OpenOptions::new(folder.path().join("payloads"));
        let first = SurrealJournal::open("memory", options).await.unwrap();
        let second = follower(&first, first.epoch).await.unwrap();
        assert!(matches!(first.beat("late").await, Err(JournalError::Fenced(_))));
        assert!(matches!(first.release().await, Err(JournalError::Fenced(_))));
        second.beat("next").await.unwrap();
        // Of two that saw the same end only one follows.
        let late = follower(&first, first.epoch).await;
        assert!(matches!(late, Err(OpenError::Followed { .. })), "{late:?}");
        second.beat("next").await.unwrap();
    }
}
