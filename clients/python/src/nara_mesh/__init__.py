"""Use a running nara from Python: docs/local-api.md of nara-mesh describes its local API."""

from ._async import AsyncNara
from ._errors import NaraError, NoNara, Problem
from ._models import (
    Counts,
    DmReceipt,
    Event,
    EventPage,
    InboxMessage,
    Journey,
    LiveEvent,
    MessageReceipt,
    OutboxEntry,
    Peer,
    Pong,
    PostcardReceipt,
    Progress,
    ReceivedPostcard,
    Reconciled,
    Sent,
    SentMessage,
    SentPostcard,
    Status,
    Synced,
    Transfer,
)
from ._proof import Answer, Proof
from ._service import Sender
from ._sync import Nara

__all__ = [
    "Answer",
    "AsyncNara",
    "Counts",
    "DmReceipt",
    "Event",
    "EventPage",
    "InboxMessage",
    "Journey",
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
    "Progress",
    "Proof",
    "ReceivedPostcard",
    "Reconciled",
    "Sender",
    "Sent",
    "SentMessage",
    "SentPostcard",
    "Status",
    "Synced",
    "Transfer",
]
