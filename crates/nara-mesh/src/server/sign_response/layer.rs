use std::sync::Arc;

use tower::Layer;

use super::SignResponse;
use crate::clock::Clock;
use crate::identity::LocalNara;

/// Puts [`SignResponse`] around a service.
#[derive(Clone, Debug)]
#[must_use]
pub(in crate::server) struct SignResponseLayer {
    local: LocalNara,
    clock: Arc<dyn Clock>,
    max_body: usize,
}

impl SignResponseLayer {
    /// Signs as `local`, bodies up to `max_body` bytes.
    pub(in crate::server) fn new(local: LocalNara, clock: Arc<dyn Clock>, max_body: usize) -> Self {
        Self {
            local,
            clock,
            max_body,
        }
    }
}

impl<S> Layer<S> for SignResponseLayer {
    type Service = SignResponse<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SignResponse::new(inner, self.local.clone(), self.clock.clone(), self.max_body)
    }
}
