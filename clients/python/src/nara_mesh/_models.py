"""The JSON of the local API, as far as most programs need it. docs/local-api.json has all of it."""

from __future__ import annotations

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


class PostcardReceipt(TypedDict):
    message_id: str
    first: str
    passed_on: bool
    told: str | None


class EventPage(TypedDict):
    events: list[Event]
    next: str | None


class LiveEvent(TypedDict):
    cursor: str | None
    trust: str
    origin: str | None
    event: Event
