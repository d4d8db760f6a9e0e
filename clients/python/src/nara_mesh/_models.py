"""The JSON types of the local API that most programs need. docs/local-api.json has all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

Event = dict[str, Any]


class Status(TypedDict):
    name: str
    id: str
    public_key: str
    key_id: str
    address: str | None
    network: str | None
    version: str
    pid: int
    started_at_ms: int
    uptime_ms: int
    data_dir: str | None
    peers: int
    events: int


class Peer(TypedDict):
    label: str
    name: str | None
    id: str | None
    address: str | None
    public_key: str | None
    key_id: str | None
    key_source: str | None
    verdict: str | None
    v2: bool
    tls: bool
    is_down: bool
    path: str | None
    host_name: str | None


class Pong(TypedDict):
    peer: str
    rtt_us: int
    clock_offset_ns: int | None
    clock_proven: bool
    name: str
    public_key: str
    key_matches: bool | None
    security: str
    signs: str


class DmReceipt(TypedDict):
    event_id: str
    recipient: str
    stored: bool
    verified: bool


class _Tried(TypedDict, total=False):
    # Why the last attempt failed, as in Problem.body.
    problem: dict[str, Any]


class OutboxEntry(_Tried):
    """A message in the outbox; `state` is waiting, delivered, refused or expired, `kind` is direct-message, postcard or
    runtime-message, and `event` is the content: the event, the postcard or the message."""

    id: int
    kind: str
    peer: str
    event_id: str
    event: Event
    state: str
    queued_at_ms: int
    expires_at_ms: int
    attempts: int
    may_have_arrived: bool
    stored: bool | None
    is_durable: bool


@dataclass(frozen=True)
class Sent:
    """The outcome of a message that may wait: exactly one field is set."""

    receipt: DmReceipt | None
    waits: OutboxEntry | None


class _Replied(TypedDict, total=False):
    # The verified reply, if it was waited for.
    reply: dict[str, Any]


class PostcardReceipt(TypedDict):
    message_id: str
    first: str
    passed_on: bool
    told: str | None


@dataclass(frozen=True)
class SentPostcard:
    """The outcome of a postcard that may wait: exactly one field is set."""

    receipt: PostcardReceipt | None
    waits: OutboxEntry | None


class MessageReceipt(_Replied):
    message_id: str


@dataclass(frozen=True)
class SentMessage:
    """The outcome of a runtime message that may wait: exactly one field is set."""

    receipt: MessageReceipt | None
    waits: OutboxEntry | None


class Journey(TypedDict):
    """A postcard of this nara; `state` is under-way, home, stuck or timed-out."""

    message_id: str
    message: str
    sent_at_ms: int
    state: str
    first: str
    last_seen: str | None
    hops: list[str] | None


class Counts(TypedDict):
    """The number of received events, by result."""

    received: int
    verified: int
    unknown_key: int
    unsigned: int
    stored: int
    duplicates: int
    not_kept: int
    refused_count: int


class Synced(TypedDict):
    counts: Counts
    answers: int
    resumed: str | None
    elapsed_us: int


class Reconciled(TypedDict):
    """The result of a comparison; `missing_here` was fetched."""

    counts: Counts
    missing_here: int
    missing_there: int
    pushed: int
    complete: bool
    elapsed_us: int


class Progress(TypedDict):
    received: int
    remaining: int | None
    refused: int
    bytes: int


class Transfer(TypedDict):
    """A transfer in progress; `kind` is sync, reconcile, compare or checkpoints."""

    id: int
    kind: str
    peer: str
    begun_at_ms: int
    progress: Progress


class ReceivedPostcard(TypedDict):
    message_id: str
    message: str
    originator: str
    hops: list[str]
    is_home: bool


# By the kind, one of `event`, `postcard` and `message` is set.
InboxMessage = TypedDict(
    "InboxMessage",
    {
        "cursor": str,
        "received_at_ms": int,
        "kind": str,
        "from": str,
        "event": Event,
        "postcard": ReceivedPostcard,
        "message": dict[str, Any],
    },
    total=False,
)


class EventPage(TypedDict):
    events: list[Event]
    trust: list[str]
    next: str | None


class LiveEvent(TypedDict):
    cursor: str | None
    trust: str
    origin: str | None
    event: Event
