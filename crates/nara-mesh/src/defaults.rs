//! All defaults of this crate, with reasons. The public ones belong to the protocol, and an application shares them
//! with its peers; the others are documented where they can be changed.

use std::time::Duration;

pub use nara_proto::clock_offset::CLOCK_WARNING;
pub use nara_proto::peer::{LEGACY_MESH_PORT, MESH_PORT};
pub use nara_proto::zine::ZINE_WINDOW;

#[cfg(feature = "server")]
use crate::rate_limit::RateLimit;

/// The time limit for dialling a peer (mesh client specification, section 2, invariant 2).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The head start of the first of a nara's two ports, if it is unknown on which one a peer listens: the delay between
/// two connection attempts that RFC 8305, section 5, recommends.
pub(crate) const PORT_DELAY: Duration = Duration::from_millis(250);

/// The time limit for a whole call, from dialling to the last byte of the answer. A caller's own deadline takes
/// precedence.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer an answer with events may take while its bytes keep arriving. It ends, with [`CALL_TIMEOUT`], when a
/// server may close the connection to a slow reader, so that the client decides first and asks for a smaller page.
pub(crate) const SLOW_ANSWER: Duration = Duration::from_secs(15);

/// The time limit for the `/ping` that discovers a key (docs/protocol/v1.md, section 3.2).
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The time limit for the network to name the owner of a source address. It answers from memory; the limit only keeps a
/// request from hanging.
pub(crate) const OWNER_LOOKUP_TIMEOUT: Duration = Duration::from_millis(250);

/// The number of idle connections kept per peer (docs/protocol/v1.md, section 3.2).
pub(crate) const POOL_IDLE_PER_PEER: usize = 20;

/// The number of idle connections kept in total (docs/protocol/v1.md, section 3.2).
pub(crate) const POOL_IDLE_TOTAL: usize = 100;

/// How long the client keeps an idle connection: shorter than [`SERVER_IDLE`], so that the client closes it and no
/// request meets a closing connection.
pub(crate) const POOL_IDLE: Duration = Duration::from_secs(30);

/// How long the server keeps an idle connection.
pub(crate) const SERVER_IDLE: Duration = Duration::from_secs(75);

/// The time limit for a client to send the header of a request.
pub(crate) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of a request header in bytes. The three authentication headers take about 300.
pub(crate) const MAX_HEADER_BYTES: usize = 16 << 10;

/// The maximum number of open connections of a server: each stream holds one ([`STREAMS`]), and calls need as many.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// The maximum number of requests in flight to one peer.
pub(crate) const MAX_IN_FLIGHT_PER_PEER: usize = 32;

/// The maximum number of requests that a server handles at once: a quarter of its connections. Most take a millisecond,
/// so it is only reached if bodies arrive slowly.
pub(crate) const REQUESTS_IN_FLIGHT: usize = 1024;

/// The maximum number of one peer's requests that a server handles at once: twice [`MAX_IN_FLIGHT_PER_PEER`], since a
/// nara may have several calling programs.
pub(crate) const REQUESTS_IN_FLIGHT_PER_PEER: usize = 64;

/// The maximum total size of request bodies that a server holds in memory until their requests are answered: as much as
/// the process needs for everything else.
pub(crate) const BODY_BYTES_IN_FLIGHT: usize = 256 << 20;

/// The maximum per peer: two bodies of the largest kind, zines of up to 16 MiB.
pub(crate) const BODY_BYTES_IN_FLIGHT_PER_PEER: usize = 32 << 20;

/// The maximum size of a request body to a user-defined service that a client holds in memory to sign it.
pub(crate) const REQUEST_BODY: usize = 16 << 20;

/// The maximum size of an answer of a user-defined service that a client holds in memory to verify it: as large as the
/// largest answers of our own endpoints.
pub(crate) const ANSWER_BODY: usize = 16 << 20;

/// The offset of a peer's clock from which on its time is used for requests to it, if clock compensation is enabled:
/// smaller offsets do no harm.
pub(crate) const CLOCK_COMPENSATION: Duration = Duration::from_secs(1);

/// The longest pause that a client grants a peer with `Retry-After`: after it, the peer is called again even if it
/// asked for more.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The pause for a peer that refuses with status 429 without `Retry-After`.
pub(crate) const RETRY_AFTER_UNTOLD: Duration = Duration::from_secs(1);

/// The request rate per source address. A nara needs a few requests a second, and hundreds of naras may share a
/// machine. Within the 60 s that a signed request is remembered, one address fills less than a third of
/// [`REPLAY_CAPACITY`].
#[cfg(feature = "server")]
pub(crate) const REQUESTS_PER_ADDRESS: RateLimit = RateLimit::new(500, 2_000);

/// The rate of TLS handshakes per source address. A nara keeps its connections, and hundreds of naras may share a
/// machine. A full handshake costs a server about as much as ten requests.
#[cfg(feature = "server")]
pub(crate) const HANDSHAKES_PER_ADDRESS: RateLimit = RateLimit::new(50, 500);

/// The request rate per verified peer: far above the need of a nara, which fetches whole ledgers at some ten pages a
/// second.
#[cfg(feature = "server")]
pub(crate) const REQUESTS_PER_PEER: RateLimit = RateLimit::new(200, 1_000);

/// The rate of `/api/checkpoints/all` per source address, whose answer may have 16 MiB. A nara fetches a few pages when
/// it starts.
#[cfg(feature = "server")]
pub(crate) const CHECKPOINTS_PER_ADDRESS: RateLimit = RateLimit::new(1, 30);

/// The number of peers that a fan-out calls at once.
pub(crate) const FAN_OUT: usize = 32;

/// The number of nodes that discovery queries at once: a thousand silent nodes that join at once are done within a
/// minute, and a responsive one waits only for the nodes before it.
pub(crate) const DISCOVERY_FAN_OUT: usize = 128;

/// The first pause before discovery retries a silent node: its nara may be starting. It doubles each time.
pub(crate) const DISCOVERY_RETRY_MIN: Duration = Duration::from_secs(2);

/// The longest pause before discovery retries a node that is silent or contradicts known peers: most nodes of a network
/// may not be naras.
pub(crate) const DISCOVERY_RETRY_MAX: Duration = Duration::from_secs(60);

/// The interval at which discovery queries a nara again: another nara may run there now.
pub(crate) const DISCOVERY_REFRESH: Duration = Duration::from_secs(120);

/// The number of requests that a replay cache remembers; 60 s at 1,700 requests a second, about 25 MB when full.
pub(crate) const REPLAY_CAPACITY: usize = 100_000;

/// The maximum number of peers in a registry. Hearsay may fill half of it, so that no peer can fill it with invented
/// naras and keep configured ones out.
pub(crate) const MAX_PEERS: usize = 200_000;

/// The maximum number of naras at one address from hearsay. Several may share a machine; a peer that claims more would
/// make every lookup of that address slow.
pub(crate) const HEARSAY_PER_ADDRESS: usize = 64;

/// The interval of keep-alives on a stream: the usual rate of server-sent events, well below the idle limits of proxies
/// and of [`SERVER_IDLE`].
pub(crate) const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The number of missing keep-alives after which a stream counts as dead.
pub(crate) const STREAM_MISSED_KEEP_ALIVES: u32 = 3;

/// The shortest pause before a stream is opened again: a peer that restarts is back within seconds.
pub(crate) const STREAM_RECONNECT_MIN: Duration = Duration::from_millis(200);

/// The longest pause before a stream is opened again: zines are delayed as long.
pub(crate) const STREAM_RECONNECT_MAX: Duration = Duration::from_secs(30);

/// The maximum number of open streams of one peer at a server: one per filter, and a reserve for streams whose end was
/// not detected yet.
pub(crate) const STREAMS_PER_PEER: usize = 4;

/// The maximum number of open streams of a server: at 32 KiB each, 64 MiB.
pub(crate) const STREAMS: usize = 2048;

/// The interval at which a peer without streams is polled for its newest events: v1 peers exchange zines every five
/// minutes.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The number of newest events per poll of a peer without streams.
pub(crate) const POLL_EVENTS: usize = 500;

/// The number of events after which the position in a stream is stored in the ledger.
pub(crate) const STREAM_CURSOR_EVENTS: usize = 256;

/// The longest time for which the position in a stream stays unstored while events arrive.
pub(crate) const STREAM_CURSOR_INTERVAL: Duration = Duration::from_secs(1);

/// How far back gossip begins with a new peer: longer than nearly all outages, and at an event a second about 2 MB.
/// Older events arrive by sync.
pub(crate) const GOSSIP_CATCH_UP: Duration = Duration::from_secs(3600);

/// The number of peers per round of catching up: two may have gaps of their own, and more would send the same events.
pub(crate) const CATCH_UP_PEERS: usize = 3;

/// The pause between two rounds of catching up while much is missing.
pub(crate) const CATCH_UP_MIN: Duration = Duration::from_secs(60);

/// The longest pause between two rounds of catching up: twice that of v1 peers, since gossip delivers new events.
pub(crate) const CATCH_UP_MAX: Duration = Duration::from_secs(3600);

/// The pause between two pages of a thousand events while catching up: at most ten thousand events a second, so that a
/// week of a busy mesh takes seconds, and neither side is kept from other work.
pub(crate) const CATCH_UP_PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The time limit for one peer while catching up: ten times what a full ledger takes. Then the next peer follows, and
/// the next round resumes behind the received events.
pub(crate) const CATCH_UP_TIME: Duration = Duration::from_secs(120);

/// The byte limit for one peer while catching up: as much as a ledger holds.
pub(crate) const CATCH_UP_BYTES: u64 = 256 << 20;

/// The number of consecutive pages without a new event after which the next peer follows.
pub(crate) const CATCH_UP_IDLE_PAGES: usize = 50;

/// The number of peers to which a nara sends its introduction and its goodbye by zine; others learn them from these. A
/// goodbye must fit into the grace period of a shutdown.
pub(crate) const PRESENCE_PEERS: usize = 16;

/// The interval at which the status of gossip is updated: as fast as a person can read it.
pub(crate) const GOSSIP_STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// The number of TLS sessions that a client caches, so that the next connection to a peer costs no signatures: eight
/// for each of 1,024 peers, at about 1 KB each.
pub(crate) const TLS_SESSIONS: usize = 8 * 1024;

/// The time limit for requests in progress when a [`Nara`](crate::Nara) is dropped instead of shut down.
pub(crate) const DROP_GRACE: Duration = Duration::from_secs(1);

/// The space in a ledger per event, in bytes of JSON: twice the size of real events.
pub(crate) const EVENT_BYTES: usize = 800;

/// The maximum size of an event, in bytes of JSON.
pub(crate) const MAX_EVENT_BYTES: usize = nara_proto::event::MAX_EVENT_BYTES;

/// The furthest that the time of an event may be ahead of our clock. A wrong clock is reported long before.
pub(crate) const MAX_EVENT_AHEAD: Duration = Duration::from_secs(5 * 60);

/// How long unverified events are kept: long enough to learn the key of a nara that is met on the same day.
pub(crate) const UNVERIFIED_EVENTS_FOR: Duration = Duration::from_secs(24 * 60 * 60);
