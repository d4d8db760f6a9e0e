use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use nara_mesh::proto::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::child::{Daemon, cannot_run};
use super::config::ManagedConfig;
use super::login;
use crate::localapi::LocalApi;
use crate::random::random;
use crate::status::{NodeState, NodeStatus, NotReadyReason};

/// The minimum pause before a restart of the daemon.
const RESTART_MIN: Duration = Duration::from_millis(500);

/// The maximum pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// The run time after which the pause is reset to the minimum.
const RAN_WELL: Duration = Duration::from_secs(60);

/// Keeps a daemon running until `end` is cancelled.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) config: ManagedConfig,
    pub(super) api: LocalApi,
    pub(super) status: watch::Receiver<NodeStatus>,
    /// The state of the node while the daemon does not answer.
    pub(super) problem: watch::Sender<Option<NodeState>>,
    pub(super) end: CancellationToken,
}

impl Supervisor {
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(RESTART_MIN, RESTART_MAX);
        while !self.end.is_cancelled() {
            let started = Instant::now();
            let outcome = self.run_once().await;
            if self.end.is_cancelled() {
                break;
            }
            if started.elapsed() >= RAN_WELL {
                backoff.reset();
            }
            let reason = self.explain(outcome);
            tracing::warn!(%reason, "the managed tailscaled has exited");
            self.problem.send_replace(Some(NodeState::Waiting(reason)));
            tokio::select! {
                () = sleep(backoff.after_failure(random())) => {}
                () = self.end.cancelled() => {}
            }
        }
        self.problem.send_replace(Some(NodeState::Left));
    }

    /// Runs the daemon until it exits, or until `end` is cancelled.
    async fn run_once(&self) -> io::Result<(ExitStatus, String)> {
        let mut daemon = Daemon::start(&self.config, &self.api)?;
        let status = tokio::select! {
            status = daemon.ended() => status?,
            never = login::keep_logged_in(&self.config, &self.api, self.status.clone()) => match never {},
            () = self.end.cancelled() => {
                daemon.end().await;
                return Ok((ExitStatus::default(), String::new()));
            }
        };
        Ok((status, daemon.last_line()))
    }

    fn explain(&self, outcome: io::Result<(ExitStatus, String)>) -> NotReadyReason {
        let program = self.config.program.display().to_string();
        match outcome {
            Ok((status, said)) if cannot_run(status) => NotReadyReason::ProgramMissing {
                program,
                detail: said,
            },
            Ok((status, said)) => NotReadyReason::Other {
                detail: format!("{program} exited ({status}) and is restarted; its last output: {said}"),
            },
            Err(error) => NotReadyReason::ProgramMissing {
                program: "/bin/sh".to_owned(),
                detail: error.to_string(),
            },
        }
    }
}
