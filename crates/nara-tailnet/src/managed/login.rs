use std::convert::Infallible;
use std::time::Duration;

use nara_mesh::proto::backoff::{Backoff, spread};
use tokio::sync::watch;
use tokio::time::sleep;

use super::config::ManagedConfig;
use crate::localapi::{LocalApi, LocalApiError, StartOptions, UpdatePrefs};
use crate::random::random;
use crate::status::{NodeState, NodeStatus, NotReadyReason};

/// The interval of connection attempts to a daemon that was just started.
const POLL: Duration = Duration::from_millis(50);

/// The minimum pause between logins.
const RETRY_MIN: Duration = Duration::from_secs(5);

/// The maximum pause between logins: bounds the load on a control server that refuses the key.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Logs the node in, and repeats that whenever the daemon needs a login.
pub(super) async fn keep_logged_in(
    config: &ManagedConfig,
    api: &LocalApi,
    mut status: watch::Receiver<NodeStatus>,
) -> Infallible {
    while let Err(error) = log_in(config, api).await {
        // Expected until the daemon has created its socket.
        if matches!(error, LocalApiError::Connect { .. }) {
            sleep(POLL).await;
        } else {
            tracing::warn!(%error, "cannot make tailscaled join the tailnet");
            sleep(spread(RETRY_MIN, random())).await;
        }
    }
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let outcome = status
            .wait_for(|status| status.is_running() || needs_login(&status.state))
            .await;
        let Ok(running) = outcome.map(|status| status.is_running()) else {
            // The node is gone, and this task will be cancelled.
            return std::future::pending().await;
        };
        if running {
            backoff.reset();
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        sleep(backoff.after_failure(random())).await;
        // Without a key, each attempt would change the URL of the login page.
        if config.auth_key.is_some() && needs_login(&status.borrow().state) {
            tracing::info!("logging in again");
            if let Err(error) = log_in(config, api).await {
                tracing::warn!(%error, "cannot make tailscaled log in");
            }
        }
    }
}

fn needs_login(state: &NodeState) -> bool {
    matches!(
        state,
        NodeState::Waiting(
            NotReadyReason::KeyExpired
                | NotReadyReason::KeyRefused { .. }
                | NotReadyReason::NeedsLogin { .. }
        )
    )
}

async fn log_in(config: &ManagedConfig, api: &LocalApi) -> Result<(), LocalApiError> {
    let options = StartOptions {
        update_prefs: UpdatePrefs {
            control_url: config.control_url.as_deref().unwrap_or_default(),
            hostname: &config.host_name,
            want_running: true,
            corp_dns: false,
            route_all: false,
        },
        auth_key: config.auth_key.as_ref().map_or("", |key| key.reveal()),
    };
    api.start(&options).await?;
    // A node that already has a key needs no login.
    if api.status().await?.backend_state == "NeedsLogin" {
        api.login().await?;
    }
    Ok(())
}
