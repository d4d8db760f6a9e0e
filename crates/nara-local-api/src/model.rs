//! The JSON types of the local API.
//!
//! Fields may be added; below `/v1`, no field or value that a program may rely on is removed.

mod admin;
mod event;
mod inbox;
mod message;
mod outbox;
mod page;
mod peer;
mod stash;
mod token;
mod transfer;

pub use admin::{
    Check, ClockStatus, ClockStep, Coordinates, Gossip, GossipLink, LastingService, Lease, LimitInUse,
    Reloaded, Service, ServiceList, Status,
};
pub use event::{Event, EventPage, LiveEvent, RefusedEvent, StreamFault, StreamStatus, trust_word};
pub use inbox::{Acknowledged, Acknowledgement, InboxKind, InboxMessage, InboxPage, ReceivedPostcard};
pub use message::{
    DirectMessage, DirectMessageReceipt, DmKind, Journey, JourneyList, JourneyState, MessageReceipt,
    OutgoingMessage, Postcard, PostcardReceipt, Zine,
};
pub use outbox::{Later, OutboxEntry, OutboxKind, OutboxList, OutboxState};
pub use page::{
    ConflictList, DashboardLink, History, LedgerSummary, OpenConflict, Refusals, Sample, ServiceSize, Warning,
};
pub(crate) use peer::OwnKeyRefusals;
pub use peer::{Conflict, Decision, Hearsay, Peer, PeerChanged, PeerList, Pong, Pruned, Record, Trust, Way};
pub use stash::{Dropped, Stash, StashList, Stashed};
pub use token::{MadeToken, NewToken, Rights, Token, TokenList};
pub use transfer::{
    Checkpoints, Comparison, Counts, Progress, Reconciled, Synced, Transfer, TransferKind, TransferList,
};
