//! The sans-IO core of the nara mesh protocol.
//!
//! This crate opens no socket, reads no clock and no environment variable, spawns no task and draws no random bytes.
//! The current time and random bytes are arguments; all output is returned. The crate `nara-mesh` is the runtime around
//! it: client, server, ledgers. The repository specifies the protocol in `docs/protocol/`.
//!
//! | module | holds |
//! |---|---|
//! | [`identity`] | names, souls, keypairs and ids |
//! | [`time`] | Unix time in seconds, milliseconds and nanoseconds, which the wire mixes and the types keep apart |
//! | [`go_json`] | JSON exactly as v1 peers write and read it |
//! | [`v1`] | signed requests, signed responses |
//! | [`v2`] | profile v2: RFC 9421 signatures over the whole request, capabilities |
//! | [`replay`] | the memory that lets no request be accepted twice |
//! | [`event`] | events, their payloads, ids, signatures and validity |
//! | [`checkpoint`] | attestations and the multi-signature of checkpoints |
//! | [`sync`], [`zine`], [`world`], [`runtime_message`], [`peer`], [`import`] | the messages of each endpoint |
//! | [`stream`] | live events: cursor, signed opening, messages |
//! | [`reconcile`] | finding the difference between two sets of events |
//! | [`succession`] | a key that is replaced or retired: the signed statement, and what follows from all of them |
//! | [`endpoint`] | one type per endpoint: method, path, authentication rule, request and response |
//! | [`forwarding`] | headers that stay behind, and paths that are refused, when a request is passed on |
//! | [`gossip`] | which peers to listen to, so that an event reaches every nara |
//! | [`clock_offset`] | how far two clocks are apart, and which one is probably wrong |
//! | [`coordinates`] | Vivaldi network coordinates: the estimated round trip to every nara |
//! | [`backoff`] | pauses between attempts |
//! | [`trace_context`] | the trace that a request belongs to (W3C Trace Context) |
//! | [`breaker`] | the circuit breaker that lets calls to a peer that is down fail at once |
//!
//! # Signing a request
//!
//! ```
//! use nara_proto::v1::RequestAuth;
//! use nara_proto::identity::{KeyPair, Soul};
//! use nara_proto::time::UnixMillis;
//!
//! let soul: Soul = "BneSgWHpm3c7cN3vSCUZ24Rg25fBgBeCcqjfpWoMqWC7pmqcD2bgcgt".parse()?;
//! let name = "alice".parse()?;
//! let keypair = KeyPair::from_soul(&soul);
//! let now = UnixMillis::new(1_769_100_000_250);
//!
//! let auth = RequestAuth::sign(&keypair, &name, now, "POST", "/events/sync");
//! auth.verify(&keypair.public_key(), "POST", "/events/sync", now)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backoff;
pub mod breaker;
pub mod checkpoint;
pub mod clock_offset;
pub mod coordinates;
pub mod encoding;
pub mod endpoint;
pub mod event;
pub mod forwarding;
pub mod go_json;
pub mod gossip;
pub mod identity;
pub mod import;
pub mod peer;
pub mod presence;
mod query;
pub mod reconcile;
pub mod replay;
pub mod runtime_message;
pub mod stream;
pub mod succession;
pub mod sync;
pub mod time;
pub mod trace_context;
pub mod v1;
pub mod v2;
pub mod world;
pub mod zine;

pub use event::{EventVerdict, SyncEvent, verify_events};
pub use identity::{KeyPair, NaraId, NaraName, PublicKey, Signature, Soul};
pub use time::{UnixMillis, UnixNanos, UnixSeconds};
pub use v2::Signer;
