//! Live events of a peer: [`PeerHandle::subscribe`].
//!
//! ```no_run
//! use futures_util::StreamExt as _;
//! use nara_mesh::client::{MeshClient, SubscribeOptions};
//! use nara_mesh::ledger::MemoryLedger;
//! # use nara_mesh::proto::identity::NaraId;
//! # use std::sync::Arc;
//!
//! # async fn example(client: MeshClient, bob: NaraId, ledger: Arc<MemoryLedger>) {
//! let mut events = client.peer(&bob).subscribe(SubscribeOptions::default().oldest().into_ledger(ledger));
//! while let Some(item) = events.next().await {
//!     match item {
//!         Ok(verified) => println!("{} {:?}", verified.event.id, verified.trust),
//!         Err(error) => eprintln!("{error}"),
//!     }
//! }
//! # }
//! ```

mod connect;
mod error;
mod frames;
mod options;
mod pause;
mod poll;
mod reader;
mod run;
mod state;
mod unsaved;

pub use error::{StreamError, StreamProblem};
pub use options::SubscribeOptions;
pub use state::StreamState;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::Stream;
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::stream::ArrivalCursor;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::handle::PeerHandle;
use crate::ledger::Insertion;
use run::Runner;

/// Maximum number of unread items of a [`Subscription`]; beyond that, backpressure reaches the peer.
const WAITING_ITEMS: usize = 64;

/// An accepted event of a stream, and the trust in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VerifiedEvent {
    /// The event. Its id matches its content.
    pub event: SyncEvent,
    /// The trust in the event.
    pub trust: EventTrust,
    /// The cursor after it, for resuming; `None` if the peer has no streams and the event was
    /// [polled](SubscribeOptions::poll).
    pub cursor: Option<ArrivalCursor>,
    /// The outcome in the ledger of [`SubscribeOptions::into_ledger`].
    pub insertion: Option<Insertion>,
}

/// The live events of one peer, across reconnects, without gaps or duplicates.
///
/// An item is an event or an error; only a [final](StreamError::is_final) error ends the subscription. A broken
/// connection is not an item: see [`Subscription::state`]. Dropping the subscription closes the stream.
///
/// An event repeats only if the process ended before the cursor was stored; the ledger then recognizes its id.
#[derive(Debug)]
pub struct Subscription {
    items: mpsc::Receiver<Result<VerifiedEvent, StreamError>>,
    state: watch::Receiver<StreamState>,
    start: watch::Receiver<Option<ArrivalCursor>>,
    refused: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Subscription {
    /// Returns a receiver of the current state and its changes.
    pub fn state(&self) -> watch::Receiver<StreamState> {
        self.state.clone()
    }

    /// Returns a receiver of the position at which the first stream starts; `None` until the peer says so. A
    /// program that has not seen an event yet resumes there.
    pub fn start(&self) -> watch::Receiver<Option<ArrivalCursor>> {
        self.start.clone()
    }

    /// Returns the number of events refused so far. Each is also an item.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Stream for Subscription {
    type Item = Result<VerifiedEvent, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx)
    }
}

impl PeerHandle {
    /// Subscribes to the events of the peer as they arrive there. Connects in the background, and reconnects
    /// after every interruption; needs the tokio runtime.
    ///
    /// The time limit of calls applies only to opening the stream.
    pub fn subscribe(&self, options: SubscribeOptions) -> Subscription {
        let (sender, items) = mpsc::channel(WAITING_ITEMS);
        let (states, state) = watch::channel(StreamState::Connecting);
        let (starts, start) = watch::channel(None);
        let refused = Arc::<AtomicU64>::default();
        let runner = Runner::new(self.clone(), options, sender, (states, starts), refused.clone());
        Subscription {
            items,
            state,
            start,
            refused,
            _task: AbortOnDropHandle::new(tokio::spawn(runner.run().boxed())),
        }
    }
}
