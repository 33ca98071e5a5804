//! What the messager remembers obeys the law of message stores, stays over restarts and in backups, and is under the fence.

use std::io::Cursor;
use std::sync::Arc;

use sealflow_chain::messager::{Batch, MessageStore, StoreError, conformance};
use tempfile::TempDir;

use super::super::{Messages, SurrealJournal, check, export, import};
use super::{open, successor};

async fn messages(journal: SurrealJournal) -> (Arc<SurrealJournal>, Messages) {
    let journal = Arc::new(journal);
    (journal.clone(), Messages::of(journal))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_obey_the_law_and_stay() {
    let folder = TempDir::new().unwrap();
    let (journal, store) = messages(open(folder.path()).await).await;
    conformance(&store).await;
    let (loaded, newest) = (store.load().await.unwrap(), store.newest(10).await.unwrap());
    assert_eq!(newest.len(), 2, "ended ones too");
    journal.close().await.unwrap();
    drop((journal, store));

    let (journal, store) = messages(open(folder.path()).await).await;
    assert_eq!(store.load().await.unwrap(), loaded);
    let report = check(&journal).await.unwrap();
    assert_eq!((report.problems, report.checked.messages), (Vec::new(), 2));

    // A backup has them, with the keys of those that ended.
    let mut file = Vec::new();
    assert_eq!(export(&journal, &mut file).await.unwrap().messages, 2);
    let other = TempDir::new().unwrap();
    let (copy, copied) = messages(open(other.path()).await).await;
    import(&copy, Cursor::new(file)).await.unwrap();
    let again = copied.load().await.unwrap();
    assert_eq!(
        (again.senders, again.last_number),
        (loaded.senders, loaded.last_number)
    );
    for record in &newest {
        let found = copied.record(&record.intent.key).await.unwrap().unwrap();
        assert_eq!(
            (found.intent, found.state),
            (record.intent.clone(), record.state.clone())
        );
    }

    // A newer daemon takes the fence: nothing of this one is stored any more.
    let _second = successor(&journal).await;
    let change = Batch {
        senders: loaded_sender(&store).await,
        ..Batch::default()
    };
    let refused = store.commit(&change).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
}

async fn loaded_sender(store: &Messages) -> Vec<sealflow_chain::messager::SenderRow> {
    let mut senders = store.load().await.unwrap().senders;
    senders[0].next_nonce += 1;
    senders
}
