"""Use a running nara from Python: see docs/local-api.md of nara-mesh for what the nara offers."""

from ._async import AsyncNara
from ._errors import NaraError, NoNara, Problem
from ._models import (
    DmReceipt,
    Event,
    EventPage,
    InboxMessage,
    LiveEvent,
    MessageReceipt,
    OutboxEntry,
    Peer,
    Pong,
    PostcardReceipt,
    ReceivedPostcard,
    Sent,
    SentMessage,
    SentPostcard,
    Status,
)
from ._proof import Answer, Proof
from ._service import Sender
from ._sync import Nara

__all__ = [
    "Answer",
    "AsyncNara",
    "DmReceipt",
    "Event",
    "EventPage",
    "InboxMessage",
    "LiveEvent",
    "MessageReceipt",
    "Nara",
    "NaraError",
    "NoNara",
    "OutboxEntry",
    "Peer",
    "Pong",
    "PostcardReceipt",
    "Problem",
    "Proof",
    "ReceivedPostcard",
    "Sender",
    "Sent",
    "SentMessage",
    "SentPostcard",
    "Status",
]
