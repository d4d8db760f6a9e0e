//! How many streams are open, and whose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_proto::identity::NaraName;

use super::rejection::Rejection;

/// Counts the open streams of a server.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    open: Arc<Mutex<Open>>,
    limit: usize,
    limit_per_peer: usize,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_peer: HashMap<NaraName, usize>,
}

/// One open stream; dropped, it is none any more.
#[derive(Debug)]
pub(super) struct OpenStream {
    open: Arc<Mutex<Open>>,
    peer: NaraName,
}

impl Streams {
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self {
            open: Arc::default(),
            limit,
            limit_per_peer,
        }
    }

    /// Counts one more stream of a peer, if it may have one.
    pub(super) fn open(&self, peer: &NaraName) -> Result<OpenStream, Rejection> {
        let mut open = lock(&self.open);
        if open.total >= self.limit {
            return Err(Rejection::NoStreamLeft);
        }
        let of_peer = open.by_peer.entry(peer.clone()).or_default();
        if *of_peer >= self.limit_per_peer {
            return Err(Rejection::TooManyStreams(self.limit_per_peer));
        }
        *of_peer += 1;
        open.total += 1;
        drop(open);
        Ok(OpenStream {
            open: self.open.clone(),
            peer: peer.clone(),
        })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(of_peer) = open.by_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    // Counting cannot stop half-way.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
