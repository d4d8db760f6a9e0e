use std::future::Future;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a server and the two signals that end them.
#[derive(Clone, Debug, Default)]
pub(super) struct Background {
    /// All tasks: a shutdown waits for them.
    pub(super) tasks: TaskTracker,
    /// No new requests are accepted.
    pub(super) stopping: CancellationToken,
    /// All work ends.
    pub(super) stopped: CancellationToken,
}

impl Background {
    /// Spawns a task that no answer waits for. It is aborted with the server.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        let task = async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn(task.boxed());
    }
}
