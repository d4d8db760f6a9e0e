use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::proto::backoff::Backoff;
use nara_mesh::transport::Candidate;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::snapshot::{Snapshot, node_status};
use crate::localapi::{Bus, LocalApi};
use crate::random::random;
use crate::status::{NodeState, NodeStatus, NotReadyReason};

/// Debounces changes: a tailnet of a thousand nodes may change a thousand times while they join.
const SETTLE: Duration = Duration::from_millis(250);

/// The interval of unconditional queries: the maximum delay of changes that the bus does not announce.
const POLL: Duration = Duration::from_secs(30);

/// The minimum pause before the next attempt to reach a daemon that does not answer.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// The maximum pause: an attempt is cheap, and a daemon that comes back should be noticed soon.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The capacity of the queue of requests for a fresh snapshot.
const REQUESTS: usize = 64;

/// The timeout for a fresh snapshot.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(6);

type Answer = oneshot::Sender<Result<(), NotReadyReason>>;

/// Follows a daemon through its bus, and by polling.
#[derive(Debug)]
pub(super) struct Follower {
    api: LocalApi,
    /// The state while the daemon does not answer, if a supervisor reports it.
    problem: watch::Receiver<Option<NodeState>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<NodeStatus>,
    candidates: watch::Sender<Vec<Candidate>>,
    requests: mpsc::Receiver<Answer>,
    control_url: Option<String>,
    /// The last error of the control server that the daemon reported.
    error: Option<String>,
}

/// The outputs of a [`Follower`].
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) status: watch::Receiver<NodeStatus>,
    pub(super) candidates: watch::Receiver<Vec<Candidate>>,
    pub(super) refresh: Refresh,
}

/// A handle that requests fresh snapshots from a follower.
#[derive(Debug)]
pub(super) struct Refresh(mpsc::Sender<Answer>);

impl Refresh {
    /// Returns the snapshot, refreshed unless it is younger than `age`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) async fn now(
        &self,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        age: Duration,
    ) -> io::Result<Arc<Snapshot>> {
        let known = snapshots.borrow().clone();
        if known.taken.is_some_and(|taken| taken.elapsed() < age) {
            return Ok(known);
        }
        let ask = async {
            let (answer, answered) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::NotConnected);
            self.0.send(answer).await.map_err(|_| gone())?;
            answered
                .await
                .map_err(|_| gone())?
                .map_err(|reason| io::Error::new(io::ErrorKind::NotConnected, reason))
        };
        timeout(REFRESH_TIMEOUT, ask).await??;
        Ok(snapshots.borrow().clone())
    }
}

impl Follower {
    pub(super) fn new(api: LocalApi, problem: watch::Receiver<Option<NodeState>>) -> (Self, Outputs) {
        let (snapshots, snapshots_out) = watch::channel(Arc::default());
        let (status, status_out) = watch::channel(NodeStatus::default());
        let (candidates, candidates_out) = watch::channel(Vec::new());
        let (refresh, requests) = mpsc::channel(REQUESTS);
        let outputs = Outputs {
            snapshots: snapshots_out,
            status: status_out,
            candidates: candidates_out,
            refresh: Refresh(refresh),
        };
        let follower = Self {
            api,
            problem,
            snapshots,
            status,
            candidates,
            requests,
            control_url: None,
            error: None,
        };
        (follower, outputs)
    }

    /// Follows the daemon until its supervisor reports that the node has left.
    pub(super) async fn run(mut self) {
        let mut problem = self.problem.clone();
        let left = async {
            if problem
                .wait_for(|state| *state == Some(NodeState::Left))
                .await
                .is_err()
            {
                // The daemon has no supervisor.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = left => {}
            never = self.follow_for_ever() => match never {},
        }
        self.status.send_modify(|status| status.state = NodeState::Left);
    }

    async fn follow_for_ever(&mut self) -> Infallible {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            match self.connect().await {
                Ok(bus) => {
                    backoff.reset();
                    self.follow(bus).await;
                }
                Err(reason) => self.unreachable(reason),
            }
            self.wait(backoff.after_failure(random())).await;
        }
    }

    /// Opens the bus, and queries settings and status once.
    async fn connect(&mut self) -> Result<Bus, NotReadyReason> {
        let bus = self.api.watch().await.map_err(|error| error.reason())?;
        self.error = None;
        self.ask_prefs().await;
        self.ask().await?;
        tracing::debug!(socket = %self.api.socket().display(), "following tailscaled");
        Ok(bus)
    }

    /// Follows one bus until it ends.
    async fn follow(&mut self, mut bus: Bus) {
        // The time of the next query.
        let mut due = Instant::now() + POLL;
        let mut waiting: Vec<Answer> = Vec::new();
        loop {
            tokio::select! {
                event = bus.next() => {
                    let Some(event) = event else {
                        tracing::info!(socket = %self.api.socket().display(), "tailscaled has exited");
                        return;
                    };
                    if event.error.is_some() {
                        self.error = event.error;
                    }
                    if event.prefs {
                        self.ask_prefs().await;
                    }
                    due = due.min(Instant::now() + SETTLE);
                }
                Some(answer) = self.requests.recv() => {
                    waiting.push(answer);
                    while let Ok(answer) = self.requests.try_recv() {
                        waiting.push(answer);
                    }
                    due = Instant::now();
                }
                () = tokio::time::sleep_until(due) => {
                    let outcome = self.ask().await;
                    for answer in waiting.drain(..) {
                        // The requester may have given up.
                        let _ = answer.send(outcome.clone());
                    }
                    if let Err(reason) = outcome {
                        self.unreachable(reason);
                    }
                    due = Instant::now() + POLL;
                }
            }
        }
    }

    /// Waits before the next attempt. Answers requests for snapshots with the reason for the failure.
    async fn wait(&mut self, pause: Duration) {
        let mut pause = std::pin::pin!(sleep(pause));
        loop {
            tokio::select! {
                () = pause.as_mut() => return,
                Some(answer) = self.requests.recv() => {
                    let reason = match &self.status.borrow().state {
                        NodeState::Waiting(reason) => reason.clone(),
                        _ => NotReadyReason::Connecting,
                    };
                    let _ = answer.send(Err(reason));
                }
            }
        }
    }

    async fn ask_prefs(&mut self) {
        match self.api.prefs().await {
            Ok(prefs) => {
                self.control_url = Some(prefs.control_url).filter(|url| !url.is_empty());
            }
            Err(error) => tracing::debug!(%error, "cannot read the settings of tailscaled"),
        }
    }

    async fn ask(&mut self) -> Result<(), NotReadyReason> {
        let status = self.api.status().await.map_err(|error| error.reason())?;
        if status.backend_state == "Running" {
            self.error = None;
        }
        let now = node_status(&status, self.error.as_deref(), self.control_url.clone());
        let is_running = status.backend_state == "Running";
        let snapshot = Snapshot::new(status);
        // Peers are published before the status: a reader that sees a running node may list them at once.
        let candidates = snapshot.candidates();
        // A starting daemon knows no peers yet: keep the known ones.
        if is_running || !candidates.is_empty() {
            self.snapshots.send_replace(Arc::new(snapshot));
            self.candidates
                .send_if_modified(|known| replace(known, candidates));
        }
        self.status.send_if_modified(|known| {
            if *known != now {
                tracing::info!(state = ?now.state, addresses = ?now.addresses, "tailscaled");
            }
            replace(known, now)
        });
        Ok(())
    }

    /// Records that the daemon does not answer. Peers are kept: they are not known to be gone.
    fn unreachable(&self, reason: NotReadyReason) {
        let state = self
            .problem
            .borrow()
            .clone()
            .unwrap_or(NodeState::Waiting(reason));
        self.status.send_if_modified(|status| {
            if status.state != state {
                tracing::warn!(?state, "tailscaled");
            }
            replace(&mut status.state, state)
        });
    }
}

/// Replaces a value and returns whether it changed.
fn replace<T: PartialEq>(known: &mut T, now: T) -> bool {
    let changed = *known != now;
    *known = now;
    changed
}
