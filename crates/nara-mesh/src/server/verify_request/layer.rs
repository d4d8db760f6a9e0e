use std::sync::Arc;

use nara_proto::endpoint::Repetition;
use tower::Layer;

use super::VerifyRequest;
use crate::server::authenticator::Authenticator;

/// Puts [`VerifyRequest`] around a service.
#[derive(Clone, Debug)]
#[must_use]
pub(in crate::server) struct VerifyRequestLayer {
    authenticator: Arc<Authenticator>,
    repetition: Repetition,
}

impl VerifyRequestLayer {
    pub(in crate::server) fn new(authenticator: Arc<Authenticator>, repetition: Repetition) -> Self {
        Self {
            authenticator,
            repetition,
        }
    }
}

impl<S> Layer<S> for VerifyRequestLayer {
    type Service = VerifyRequest<S>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifyRequest::new(inner, self.authenticator.clone(), self.repetition)
    }
}
