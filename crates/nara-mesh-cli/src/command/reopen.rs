//! Server-sent events of a running nara that was started again.

use std::time::Duration;

use http::Method;
use nara_local_api::client::{CallError, Events, LocalClient};
use tokio::time::timeout;

use crate::running;

/// How long one attempt may take, and how long all of them: the nara may be on its way down or up.
const ATTEMPT: Duration = Duration::from_secs(10);
const ALL: Duration = Duration::from_secs(60);

/// Waits until a nara that went away is back, and opens a stream of it again.
///
/// # Errors
/// It did not come back in time, or refuses.
pub(super) async fn reopen(nara: &LocalClient, path: &str) -> Result<Events, CallError> {
    let reopening = async {
        loop {
            running::until_back(nara).await?;
            match timeout(ATTEMPT, nara.events(Method::GET, path)).await {
                Ok(Err(error)) if error.is_gone() => {}
                Ok(outcome) => return outcome,
                Err(_) => {}
            }
        }
    };
    match timeout(ALL, reopening).await {
        Ok(outcome) => outcome,
        Err(_) => nara.events(Method::GET, path).await,
    }
}
