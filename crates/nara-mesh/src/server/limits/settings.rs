use std::time::Duration;

use crate::defaults;
use crate::rate_limit::RateLimit;

/// The limits of a server. Where all together, and each of them, have a limit, each has less the less the others leave, with
/// the square of it: beside others that hold half of all, a quarter of its own limit. Each endpoint limits its bodies
/// ([`MAX_REQUEST`](nara_proto::endpoint::Endpoint::MAX_REQUEST)): 1 MiB, for zines and imports 16 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// Bytes of answers with events that are held until they are sent: 256 MiB. When there is no room for another one, the
    /// slowest reader that holds as much is cut off after 2 s; without one, it gets status 503 and `Retry-After`.
    pub answer_bytes_in_flight: usize,
    /// Those of one peer, and of one source address where the peer is not known: 64 MiB.
    pub answer_bytes_in_flight_per_peer: usize,
    /// Bytes of request bodies in memory, until their requests are answered: 256 MiB. A
    /// body that would exceed it is refused with status 503 and `Retry-After`.
    pub body_bytes_in_flight: usize,
    /// Bytes of one peer, or of one source address while the peer is unknown; not less than the largest body, which
    /// would otherwise always be refused: 32 MiB. A body that would exceed it
    /// is refused with status 429 and `Retry-After`.
    pub body_bytes_in_flight_per_peer: usize,
    /// How long a peer may be silent within a request body: 10 s.
    pub body_progress: Duration,
    /// How long a whole request body may take: 30 s. Otherwise a peer that sends a byte every nine seconds could
    /// hold a connection for a week.
    pub body_total: Duration,
    /// Answers of `/api/checkpoints/all` in flight to one source address: 2. Further ones get status 503; their bytes
    /// are limited as those of other answers.
    pub checkpoint_answers_per_address: usize,
    /// How often one source address may ask for `/api/checkpoints/all`:
    /// once a second, 30 at once; `None`: as often as for anything else.
    pub checkpoint_requests_per_address: Option<RateLimit>,
    /// Connections open at once: 4,096. Further connections wait.
    pub connections: usize,
    /// Connections open at once from one address: 64. Waiting for more would let one address keep out all others, so
    /// they are answered with status 503 and `Retry-After`, or over TLS with the alert `user_canceled`, and closed.
    pub connections_per_address: usize,
    /// Unknown senders whose keys are asked for at once: 16.
    pub discoveries: usize,
    /// Unknown senders of one source address whose keys are asked for in a minute: 10.
    pub discoveries_per_minute: u32,
    /// How often one source address may begin TLS: 50 a second, 500 at once. Further connections get the alert
    /// `user_canceled` in place of a handshake; `None`: no limit.
    pub handshakes_per_address: Option<RateLimit>,
    /// Bytes of the start line and headers of a request: 16 KiB.
    pub header_bytes: usize,
    /// How long start line and headers may take, and a handshake: 5 s.
    pub header_read: Duration,
    /// How long a connection may stay open without a request, and how long an answer may stay unread:
    /// 75 s.
    pub idle: Duration,
    /// Imports whose body has come and that are worked on: 64. Further ones get status 503.
    pub imports: usize,
    /// Those from one source address: 1.
    pub imports_per_address: usize,
    /// Answers with events that are read and encoded at once: 3. Peers take turns: each has one of them at most. As many
    /// batches of events with many signatures are verified at once, in turn as well.
    pub reads: usize,
    /// Signed requests remembered against replay: 100,000.
    pub replay_capacity: usize,
    /// Replies to runtime messages in flight: 64. Further ones are dropped and logged.
    pub replies: usize,
    /// Requests in progress, until their answer begins: 1,024. Further ones get status
    /// 503 and `Retry-After`.
    pub requests_in_flight: usize,
    /// Requests of one peer in progress: 64. Further ones get status 429 and
    /// `Retry-After`.
    pub requests_in_flight_per_peer: usize,
    /// How often one source address may send a request, signed or not: 500 a second, 2,000 at once. Further
    /// requests get status 429 and `Retry-After`; `None`: no limit.
    pub requests_per_address: Option<RateLimit>,
    /// How often one verified peer may send a request: 200 a second, 1,000 at once. Further requests get status
    /// 429 and `Retry-After`; `None`: no limit.
    pub requests_per_peer: Option<RateLimit>,
    /// Bytes of an answer of a route of the application that is signed as a whole: 16 MiB. A larger one is answered
    /// with status 500, unless it is a [`StreamedAnswer`](crate::server::StreamedAnswer) or its connection proves it.
    pub route_answer_bytes: usize,
    /// Bytes of a request body for a route of the application: 1 MiB. A larger one is refused with status 413. What a
    /// sender streams on a secure connection has no such limit; extractors that collect it do.
    pub route_body_bytes: usize,
    /// How long a handler of the application may take until its answer begins, and one that is signed as a whole
    /// until its end: 60 s, then status 503.
    pub route_time: Duration,
    /// How long a stash is kept for a peer that does not store it again: 90 days.
    pub stash_age: Duration,
    /// Bytes of one stash kept for a peer: 256 KiB.
    pub stash_bytes: usize,
    /// Peers for which a stash is kept: 20 (docs/protocol/v1.md, section 12.4).
    pub stash_owners: usize,
    /// How often a stream sends a keep-alive: 15 s. Less than `idle`.
    pub stream_keep_alive: Duration,
    /// Streams open at once: 2,048. Each holds a connection.
    pub streams: usize,
    /// Streams of one peer open at once: 4.
    pub streams_per_peer: usize,
    /// Events in the answer to a zine: 5,000. V1 peers set no limit.
    pub zine_events: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            answer_bytes_in_flight: 256 << 20,
            answer_bytes_in_flight_per_peer: 64 << 20,
            body_bytes_in_flight: defaults::BODY_BYTES_IN_FLIGHT,
            body_bytes_in_flight_per_peer: defaults::BODY_BYTES_IN_FLIGHT_PER_PEER,
            body_progress: Duration::from_secs(10),
            body_total: Duration::from_secs(30),
            checkpoint_answers_per_address: 2,
            checkpoint_requests_per_address: Some(defaults::CHECKPOINTS_PER_ADDRESS),
            connections: defaults::MAX_CONNECTIONS,
            connections_per_address: 64,
            discoveries: 16,
            discoveries_per_minute: 10,
            handshakes_per_address: Some(defaults::HANDSHAKES_PER_ADDRESS),
            header_bytes: defaults::MAX_HEADER_BYTES,
            header_read: defaults::HEADER_READ_TIMEOUT,
            idle: defaults::SERVER_IDLE,
            imports: 64,
            imports_per_address: 1,
            reads: 3,
            replay_capacity: defaults::REPLAY_CAPACITY,
            replies: 64,
            requests_in_flight: defaults::REQUESTS_IN_FLIGHT,
            requests_in_flight_per_peer: defaults::REQUESTS_IN_FLIGHT_PER_PEER,
            requests_per_address: Some(defaults::REQUESTS_PER_ADDRESS),
            requests_per_peer: Some(defaults::REQUESTS_PER_PEER),
            route_answer_bytes: 16 << 20,
            route_body_bytes: 1 << 20,
            route_time: Duration::from_secs(60),
            stash_age: Duration::from_secs(90 * 24 * 60 * 60),
            stash_bytes: 256 << 10,
            stash_owners: 20,
            stream_keep_alive: defaults::STREAM_KEEP_ALIVE,
            streams: defaults::STREAMS,
            streams_per_peer: defaults::STREAMS_PER_PEER,
            zine_events: nara_proto::sync::MAX_EVENTS,
        }
    }
}
