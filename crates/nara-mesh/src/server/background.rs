use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a server and the two ways in which they are told to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Background {
    /// All tasks: a shutdown waits for them.
    pub(super) tasks: TaskTracker,
    /// No new requests.
    pub(super) stopping: CancellationToken,
    /// Nothing any more.
    pub(super) stopped: CancellationToken,
}

impl Background {
    /// Runs a task that no answer waits for. It is cut off when the server is.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = task => {}
            }
        });
    }
}
