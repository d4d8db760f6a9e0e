use std::time::Duration;

use crate::defaults;
use crate::rate_limit::RateLimit;

/// The limits of a server. Where there is both a total limit and a limit per peer, the latter shrinks with the square
/// of the free share: while others hold half of the total, a peer may hold a quarter of its own limit. Each endpoint
/// limits its bodies ([`MAX_REQUEST`](nara_proto::endpoint::Endpoint::MAX_REQUEST)): 1 MiB, for zines and imports 16
/// MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// Bytes of answers with events that are held until they are sent: 256 MiB. If there is no room for another answer,
    /// the slowest reader that holds as much is cut off after 2 s; without such a reader, the answer is status 503 with
    /// `Retry-After`.
    pub answer_bytes_in_flight: usize,
    /// The same per peer, or per source address if the peer is unknown: 64 MiB.
    pub answer_bytes_in_flight_per_peer: usize,
    /// Bytes of request bodies in memory, until their requests are answered: 256 MiB. A body that would exceed it is
    /// refused with status 503 and `Retry-After`.
    pub body_bytes_in_flight: usize,
    /// The same per peer, or per source address while the peer is unknown; not less than the largest body, which would
    /// otherwise always be refused: 32 MiB. A body that would exceed it is refused with status 429 and `Retry-After`.
    pub body_bytes_in_flight_per_peer: usize,
    /// The longest pause within a request body: 10 s.
    pub body_progress: Duration,
    /// The time limit for a whole request body: 30 s. Otherwise a peer that sends a byte every nine seconds could hold
    /// a connection for a week.
    pub body_total: Duration,
    /// Answers of `/api/checkpoints/all` in flight to one source address: 2. Further ones get status 503; their bytes
    /// are limited like those of other answers.
    pub checkpoint_answers_per_address: usize,
    /// The rate of `/api/checkpoints/all` per source address: once a second, 30 at once; `None` for the rate of any
    /// other request.
    pub checkpoint_requests_per_address: Option<RateLimit>,
    /// Open connections: 4,096. Further connections wait.
    pub connections: usize,
    /// Open connections from one address: 64. If further ones waited, one address could keep out all others, so they
    /// are answered with status 503 and `Retry-After`, or over TLS with the alert `user_canceled`, and closed.
    pub connections_per_address: usize,
    /// Concurrent key discoveries of unknown senders: 16.
    pub discoveries: usize,
    /// Key discoveries of unknown senders per source address and minute: 10.
    pub discoveries_per_minute: u32,
    /// The rate of TLS handshakes per source address: 50 a second, 500 at once. Further connections get the alert
    /// `user_canceled` instead of a handshake; `None` for no limit.
    pub handshakes_per_address: Option<RateLimit>,
    /// Bytes of the request line and headers of a request: 16 KiB.
    pub header_bytes: usize,
    /// The time limit for request line and headers, and for a handshake: 5 s.
    pub header_read: Duration,
    /// How long a connection may stay open without a request, and how long an answer may stay unread: 75 s.
    pub idle: Duration,
    /// Imports in progress whose body has arrived: 64. Further ones get status 503.
    pub imports: usize,
    /// The same per source address: 1.
    pub imports_per_address: usize,
    /// Answers with events that are read and encoded concurrently: 3. Peers take turns: each has at most one of them.
    /// As many batches of events with many signatures are verified concurrently, also in turns.
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
    /// The request rate per source address, signed or not: 500 a second, 2,000 at once. Further requests get status 429
    /// and `Retry-After`; `None` for no limit.
    pub requests_per_address: Option<RateLimit>,
    /// The request rate per verified peer: 200 a second, 1,000 at once. Further requests get status 429 and
    /// `Retry-After`; `None` for no limit.
    pub requests_per_peer: Option<RateLimit>,
    /// Bytes of an application route's answer that is signed as a whole: 16 MiB. A larger one becomes status 500,
    /// unless it is a [`StreamedAnswer`](crate::server::StreamedAnswer) or its connection proves it.
    pub route_answer_bytes: usize,
    /// Bytes of a request body for a route of the application: 1 MiB. A larger one is refused with status 413. A body that
    /// is streamed on a secure connection has no such limit; extractors that buffer it do.
    pub route_body_bytes: usize,
    /// The time limit for a handler of the application until its answer begins, and until its end if it is signed as a
    /// whole: 60 s, then status 503.
    pub route_time: Duration,
    /// How long a stash is kept if its owner does not store it again: 90 days.
    pub stash_age: Duration,
    /// Bytes of one stash kept for a peer: 256 KiB.
    pub stash_bytes: usize,
    /// Peers for which a stash is kept: 20 (docs/protocol/v1.md, section 12.4).
    pub stash_owners: usize,
    /// The interval of keep-alives on a stream: 15 s. Less than `idle`.
    pub stream_keep_alive: Duration,
    /// Open streams: 2,048. Each holds a connection.
    pub streams: usize,
    /// Open streams of one peer: 4.
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
