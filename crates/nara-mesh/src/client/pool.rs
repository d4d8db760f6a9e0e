//! Connections.
use std::sync::Arc;
use std::time::Duration;

use crate::transport::Transport;

#[derive(Debug)]
pub(super) struct Pool {
    transport: Arc<dyn Transport>,
    dial_timeout: Duration,
}

impl Pool {
    pub(super) fn new(transport: Arc<dyn Transport>, dial_timeout: Duration) -> Self {
        Self {
            transport,
            dial_timeout,
        }
    }
}
