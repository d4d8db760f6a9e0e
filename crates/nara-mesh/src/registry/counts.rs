//! What happens to peers, as numbers.

use ::metrics::counter;

use super::{KeySource, PeerEvent, SuccessionEffect};
use crate::metrics;

/// Counts an event.
pub(super) fn count(event: &PeerEvent) {
    match event {
        PeerEvent::BreakerClosed(_) => counter!(metrics::BREAKER_CHANGES, "to" => "closed").increment(1),
        PeerEvent::BreakerOpened(_) => counter!(metrics::BREAKER_CHANGES, "to" => "open").increment(1),
        PeerEvent::KeyPinned(key) => {
            let source = match &key.source {
                KeySource::Configured => "configured",
                KeySource::HeyThere { .. } => "hey-there",
                KeySource::Operator => "operator",
                KeySource::Ping(_) => "ping",
                KeySource::PeerQuery(_) => "peer-query",
                KeySource::Tls(_) => "tls",
                KeySource::Own => "own",
                KeySource::Succession(_) => "succession",
            };
            counter!(metrics::KEYS_PINNED, "source" => source).increment(1);
        }
        PeerEvent::Succession { effect, .. } => {
            let effect = match effect {
                SuccessionEffect::Asked => "asked",
                SuccessionEffect::Conflict => "conflict",
                SuccessionEffect::Followed => "followed",
                SuccessionEffect::Retired => "retired",
            };
            counter!(metrics::SUCCESSIONS, "effect" => effect).increment(1);
        }
        _ => {}
    }
}
