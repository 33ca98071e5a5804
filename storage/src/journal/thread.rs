//! The thread that an embedded store lives on, with all of its background work.
//!
//! surrealkv 0.21 takes two of its locks in one order when it reads a range (memtables, then manifest)
//! and in the other when a background task ends a flush or a compaction (manifest, then memtables). On
//! two threads these can wait for each other for ever. Neither side lets go of its thread in between, so
//! where both have the same single thread they cannot meet.

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime of one thread.
pub(super) struct StoreThread {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
}

impl StoreThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // An error says that the other end is gone, which is what is waited for.
            drop(runtime.block_on(stopped));
        };
        std::thread::Builder::new()
            .name("sealflow-store".to_owned())
            .spawn(run)?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
        })
    }

    /// Runs something on the thread and waits for it.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let done = self.runtime.spawn(work).await;
        done.map_err(|error| format!("the store failed: {error}"))
    }

    /// Runs a last thing on the thread, which ends then.
    pub(super) fn finish(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.take();
        drop(self.runtime.spawn(async move {
            work.await;
            drop(stop);
        }));
    }
}
