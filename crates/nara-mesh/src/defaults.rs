//! Every default of this crate, with its reason. The public ones belong to the protocol, and an application shares them
//! with its peers; the others are said where they can be changed.

use std::time::Duration;

pub use nara_proto::clock_offset::CLOCK_WARNING;
pub use nara_proto::peer::{LEGACY_MESH_PORT, MESH_PORT};
pub use nara_proto::zine::ZINE_WINDOW;

#[cfg(feature = "server")]
use crate::rate_limit::RateLimit;

/// How long dialling a peer may take (mesh client specification, section 2, invariant 2).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the first of the two ports of naras has to itself, where it is not known on which one a peer listens: the
/// delay that RFC 8305, section 5, recommends between two connection attempts.
pub(crate) const PORT_DELAY: Duration = Duration::from_millis(250);

/// How long a whole call may take, from dialling to the last byte of the answer. A caller's own deadline wins.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the `/ping` may take with which a key is discovered (docs/protocol/v1.md, section 3.2).
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the network may take to say whose a source address is. It answers from memory; this only keeps a request
/// from hanging on one that does not.
pub(crate) const OWNER_LOOKUP_TIMEOUT: Duration = Duration::from_millis(250);

/// Idle connections kept for one peer (docs/protocol/v1.md, section 3.2).
pub(crate) const POOL_IDLE_PER_PEER: usize = 20;

/// Idle connections kept in all (docs/protocol/v1.md, section 3.2).
pub(crate) const POOL_IDLE_TOTAL: usize = 100;

/// How long the client keeps an idle connection: shorter than [`SERVER_IDLE`], so that it is the client that
/// closes it and no request meets a connection that is being closed.
pub(crate) const POOL_IDLE: Duration = Duration::from_secs(30);

/// How long the server keeps an idle connection.
pub(crate) const SERVER_IDLE: Duration = Duration::from_secs(75);

/// How long a client may take to send the header of a request.
pub(crate) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a request header. The three authentication headers take about 300.
pub(crate) const MAX_HEADER_BYTES: usize = 16 << 10;

/// Connections that a server holds open at once: each stream holds one ([`STREAMS`]), and calls need as many.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// Requests that a client has in flight to one peer at once.
pub(crate) const MAX_IN_FLIGHT_PER_PEER: usize = 32;

/// Requests that a server works on at once: a quarter of its connections. Most take a millisecond, so they are so
/// many only when their bodies come slowly.
pub(crate) const REQUESTS_IN_FLIGHT: usize = 1024;

/// Requests of one peer that a server works on at once: twice [`MAX_IN_FLIGHT_PER_PEER`], since one nara may have
/// several programs that call.
pub(crate) const REQUESTS_IN_FLIGHT_PER_PEER: usize = 64;

/// Bytes of request bodies that a server holds at once, until their requests are answered: what it spends on bodies in
/// memory, in a process that needs about as much for everything else.
pub(crate) const BODY_BYTES_IN_FLIGHT: usize = 256 << 20;

/// Those of one peer: two of the largest bodies that there are, since zines have up to 16 MiB.
pub(crate) const BODY_BYTES_IN_FLIGHT_PER_PEER: usize = 32 << 20;

/// The most bytes of the body of a request to a service of one's own that a client holds in memory to sign it.
pub(crate) const REQUEST_BODY: usize = 16 << 20;

/// The most bytes of the body of an answer of a service of one's own that a client holds in memory to verify it: as
/// many as the largest answers of our own endpoints have.
pub(crate) const ANSWER_BODY: usize = 16 << 20;

/// How far the clock of a peer must be from ours before its time is used for requests to it, where that is asked for:
/// below it there is nothing to gain.
pub(crate) const CLOCK_COMPENSATION: Duration = Duration::from_secs(1);

/// The longest pause that a client grants a peer that asks for one with `Retry-After`: whoever asks for more is asked
/// again after it.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The pause for a peer that refuses with status 429 and does not say how long.
pub(crate) const RETRY_AFTER_UNTOLD: Duration = Duration::from_secs(1);

/// How often one source address may ask a server. A nara needs a few requests a second, and hundreds of naras may
/// share a machine. Within the 60 s that a signed request is remembered, one address fills less than a third of
/// [`REPLAY_CAPACITY`].
#[cfg(feature = "server")]
pub(crate) const REQUESTS_PER_ADDRESS: RateLimit = RateLimit::new(500, 2_000);

/// How often one source address may begin TLS with a server. A nara keeps its connections, and hundreds of naras may
/// share a machine. One full handshake costs a server about as much as ten requests.
#[cfg(feature = "server")]
pub(crate) const HANDSHAKES_PER_ADDRESS: RateLimit = RateLimit::new(50, 500);

/// How often one verified peer may ask a server: far above what a nara needs, which fetches whole ledgers at some
/// ten pages a second.
#[cfg(feature = "server")]
pub(crate) const REQUESTS_PER_PEER: RateLimit = RateLimit::new(200, 1_000);

/// How often one source address may ask for `/api/checkpoints/all`, whose answer may have 16 MiB. A nara asks for
/// a few pages when it begins.
#[cfg(feature = "server")]
pub(crate) const CHECKPOINTS_PER_ADDRESS: RateLimit = RateLimit::new(1, 30);

/// Peers that a fan-out calls at once.
pub(crate) const FAN_OUT: usize = 32;

/// Nodes that discovery asks at once: a thousand that join at once, all of them silent, are through within a minute,
/// and one that answers waits at most for those before it.
pub(crate) const DISCOVERY_FAN_OUT: usize = 128;

/// How soon discovery asks a node again that did not answer: its nara may just be starting. It doubles each time.
pub(crate) const DISCOVERY_RETRY_MIN: Duration = Duration::from_secs(2);

/// The longest pause before discovery asks a node again that did not answer, or contradicts what is known: most nodes of
/// a network may be no naras at all.
pub(crate) const DISCOVERY_RETRY_MAX: Duration = Duration::from_secs(60);

/// How soon discovery asks a nara again: another one may run there now.
pub(crate) const DISCOVERY_REFRESH: Duration = Duration::from_secs(120);

/// Requests that a replay cache remembers; 60 s at 1,700 requests a second, about 25 MB when full.
pub(crate) const REPLAY_CAPACITY: usize = 100_000;

/// Peers that a registry holds. Those that it has from hearsay may take half of them, so that no peer can fill
/// it with naras of its own making and keep out those that are configured.
pub(crate) const MAX_PEERS: usize = 200_000;

/// Naras at one address that are taken from hearsay. Several may share a machine; a peer that claims more of them
/// would make every look at that address slow.
pub(crate) const HEARSAY_PER_ADDRESS: usize = 64;

/// How often a stream sends a keep-alive: the usual rate of server-sent events, well below the idle limits of
/// proxies and of [`SERVER_IDLE`].
pub(crate) const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Keep-alives that may be missing before a stream counts as dead.
pub(crate) const STREAM_MISSED_KEEP_ALIVES: u32 = 3;

/// The shortest pause before a stream is opened again: a peer that restarts is back within seconds.
pub(crate) const STREAM_RECONNECT_MIN: Duration = Duration::from_millis(200);

/// The longest pause before a stream is opened again: half a minute late is what a zine would be, too.
pub(crate) const STREAM_RECONNECT_MAX: Duration = Duration::from_secs(30);

/// Streams that one peer may have open at a server: one for each filter that it watches, and room for those whose
/// end was not noticed yet.
pub(crate) const STREAMS_PER_PEER: usize = 4;

/// Streams that a server has open in all: at 32 KiB each, 64 MiB.
pub(crate) const STREAMS: usize = 2048;

/// How often a peer without streams is asked for its newest events: v1 peers exchange zines every five minutes.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The newest events that are asked for at once of a peer without streams.
pub(crate) const POLL_EVENTS: usize = 500;

/// Events after which the place in a stream is written to the ledger.
pub(crate) const STREAM_CURSOR_EVENTS: usize = 256;

/// How long the place in a stream may stay unwritten while events come.
pub(crate) const STREAM_CURSOR_INTERVAL: Duration = Duration::from_secs(1);

/// How far back gossip begins with a peer that it never listened to before: longer than nearly all cuts, and at
/// an event a second about 2 MB. What is older comes by sync.
pub(crate) const GOSSIP_CATCH_UP: Duration = Duration::from_secs(3600);

/// Peers that are asked in one round of catching up: two may have gaps of their own, and more would send the same.
pub(crate) const CATCH_UP_PEERS: usize = 3;

/// The pause between two rounds of catching up while much is missing.
pub(crate) const CATCH_UP_MIN: Duration = Duration::from_secs(60);

/// The longest pause between two rounds of catching up: twice that of v1 peers, since gossip brings what is new.
pub(crate) const CATCH_UP_MAX: Duration = Duration::from_secs(3600);

/// The pause between two pages of a thousand events while catching up: at most ten thousand events a second, so that a
/// week of a busy mesh takes seconds, and neither this nara nor the peer is kept from anything else.
pub(crate) const CATCH_UP_PAGE_PAUSE: Duration = Duration::from_millis(100);

/// How long one peer may send while catching up: ten times what a full ledger takes. The next peer has its turn then, and
/// the next round goes on behind what came.
pub(crate) const CATCH_UP_TIME: Duration = Duration::from_secs(120);

/// Bytes that one peer may send while catching up: as many as a ledger holds.
pub(crate) const CATCH_UP_BYTES: u64 = 256 << 20;

/// Pages without a new event, one after the other, behind which the next peer has its turn.
pub(crate) const CATCH_UP_IDLE_PAGES: usize = 50;

/// Peers that a nara tells by zine that it comes, or goes; others hear it from them. A goodbye must fit into the grace
/// of a shutdown.
pub(crate) const PRESENCE_PEERS: usize = 16;

/// How soon the status of gossip shows new counts: as often as a person can read them.
pub(crate) const GOSSIP_STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// Sessions of TLS that a client remembers, so that the next connection to a peer costs no signatures: eight for
/// each of 1,024 peers, at about 1 KB each.
pub(crate) const TLS_SESSIONS: usize = 8 * 1024;

/// How long requests in progress may take when a [`Nara`](crate::Nara) is dropped instead of shut down.
pub(crate) const DROP_GRACE: Duration = Duration::from_secs(1);

/// The room that a ledger has for each event that it may hold, in bytes of JSON: twice what real ones have.
pub(crate) const EVENT_BYTES: usize = 800;

/// The largest event, in bytes of JSON.
pub(crate) const MAX_EVENT_BYTES: usize = nara_proto::event::MAX_EVENT_BYTES;

/// How far ahead of our clock the time of an event may be. Clocks of peers are warned of long before.
pub(crate) const MAX_EVENT_AHEAD: Duration = Duration::from_secs(5 * 60);

/// How long events are kept that nobody could verify: long enough to learn the key of a nara that is met on the same
/// day.
pub(crate) const UNVERIFIED_EVENTS_FOR: Duration = Duration::from_secs(24 * 60 * 60);
