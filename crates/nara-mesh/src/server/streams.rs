//! How many streams are open, and whose.

use nara_proto::identity::NaraName;

use super::places::{NoPlace, Place, Places};
use super::rejection::Rejection;
use crate::metrics::{self, Counted};

/// Counts the open streams of a server.
#[derive(Debug)]
pub(super) struct Streams {
    places: Places<NaraName>,
    limit_per_peer: usize,
}

/// One open stream; dropped, it is none any more.
#[derive(Debug)]
pub(super) struct OpenStream {
    _place: Place<NaraName>,
    _counted: Counted,
}

impl Streams {
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            places: Places::new(limit, limit_per_peer),
            limit_per_peer,
        }
    }

    /// Counts one more stream of a peer, if it may have one.
    pub(super) fn open(&self, peer: &NaraName) -> Result<OpenStream, Rejection> {
        let place = self.places.take(peer).map_err(|no_place| match no_place {
            NoPlace::All => Rejection::NoStreamLeft,
            NoPlace::OfKey => Rejection::TooManyStreams(self.limit_per_peer),
        })?;
        Ok(OpenStream {
            _place: place,
            _counted: Counted::new(metrics::STREAMS),
        })
    }
}
