from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import httpx

from . import _requests as requests
from ._errors import NaraError
from ._find import find_socket
from ._models import (
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
    Reconciled,
    Sent,
    SentMessage,
    SentPostcard,
    Status,
    Synced,
    Transfer,
)
from ._proof import Answer

#: Timeout of an answer: longer than that of the calls of the nara to its peers.
TIMEOUT = 60.0


class Nara:
    """A running nara. Without a socket or a name, the one that runs for this user; with a base URL such as
    http://127.0.0.1:9635 and a token, the one that listens there."""

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        name: str | None = None,
        base_url: str | None = None,
        token: str | None = None,
    ) -> None:
        #: The socket of the nara; None if it is used on loopback.
        self.socket: Path | None = None
        transport = None
        if base_url is None:
            self.socket = Path(socket) if socket is not None else find_socket(name)
            transport = httpx.HTTPTransport(uds=str(self.socket))
        self._http = httpx.Client(
            transport=transport,
            base_url=base_url or requests.BASE,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            # A proxy from the environment would receive the token.
            trust_env=False,
        )
        self._where = self.socket or base_url

    def __enter__(self) -> Nara:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, call: requests.Call) -> Any:
        """Calls any endpoint, and returns its JSON; None if the answer is empty."""
        response = requests.checked(self._send(call))
        return response.json() if response.content else None

    def _send(self, call: requests.Call) -> httpx.Response:
        with requests.reaching(self._where):
            return self._http.request(**call.kwargs())

    def _told(self, call: requests.Call) -> Iterator[tuple[str, Any]]:
        """Yields the server-sent events of an answer."""
        timeout = httpx.Timeout(TIMEOUT, read=None)
        with requests.reaching(self._where):
            with self._http.stream(**call.kwargs(), timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    requests.checked(response)
                lines = requests.Lines()
                for line in response.iter_lines():
                    told = lines.feed(line)
                    if told is not None:
                        yield told

    def _transfer(self, call: requests.Call) -> Any:
        for told in self._told(call):
            if (done := requests.done(told)) is not None:
                return done
        raise NaraError("the nara stopped before the transfer was complete")

    def status(self) -> Status:
        return cast(Status, self.call(requests.Call("GET", "/v1/status")))

    def peers(self) -> list[Peer]:
        return cast(list[Peer], self.call(requests.Call("GET", "/v1/peers"))["peers"])

    def ping(self, peer: str) -> Pong:
        return cast(Pong, self.call(requests.ping(peer)))

    def dm(self, peer: str, text: str, *, about: str | None = None) -> DmReceipt:
        return cast(DmReceipt, self.call(requests.dm(peer, text, about)))

    def dm_later(
        self, peer: str, text: str, *, about: str | None = None, expires_s: int | None = None
    ) -> Sent:
        """As dm; a message that cannot be delivered now waits in the outbox of the nara, for 7 days unless given."""
        return requests.sent(self.call(requests.dm_later(peer, text, about, expires_s)))

    def outbox(self) -> list[OutboxEntry]:
        """Returns the messages that wait for their recipients, and the outcome of recent ones."""
        return cast(list[OutboxEntry], self.call(requests.outbox())["messages"])

    def take_back(self, message: int) -> OutboxEntry:
        """Withdraws a message from the outbox, and returns its last state."""
        return cast(OutboxEntry, self.call(requests.take_back(message)))

    def postcard(self, message: str, *, to: str | None = None) -> PostcardReceipt:
        return cast(PostcardReceipt, self.call(requests.postcard(message, to)))

    def postcard_later(
        self, message: str, *, to: str, expires_s: int | None = None
    ) -> SentPostcard:
        """As postcard; if its first peer is unreachable now, it waits in the outbox of the nara."""
        call = requests.later(requests.postcard(message, to), expires_s)
        return requests.sent_postcard(self.call(call))

    def message(
        self, peer: str, kind: str, payload: Mapping[str, Any], *, wait: bool = False
    ) -> MessageReceipt:
        """Sends a runtime message (docs/protocol/v1.md, section 12), and waits up to 30 s for its reply if requested."""
        call = requests.message(peer, kind, payload, wait)
        return cast(MessageReceipt, self.call(call))

    def message_later(
        self, peer: str, kind: str, payload: Mapping[str, Any], *, expires_s: int | None = None
    ) -> SentMessage:
        """As message; if it cannot be delivered now, it waits in the outbox of the nara. A reply arrives in the inbox."""
        call = requests.later(requests.message(peer, kind, payload, False), expires_s)
        return requests.sent_message(self.call(call))

    def sync(self, peer: str, *, services: str = "", resume: bool = False) -> Synced:
        """Fetches and verifies the events of a peer into the ledger. Events received before a failure are stored."""
        return cast(Synced, self._transfer(requests.sync(peer, services, resume)))

    def reconcile(self, peer: str, *, services: str = "", push: bool = False) -> Reconciled:
        """Compares the ledger with that of a peer, and fetches missing events."""
        return cast(Reconciled, self._transfer(requests.reconcile(peer, services, push)))

    def transfers(self) -> list[Transfer]:
        """Returns the transfers in progress, of all callers."""
        return cast(list[Transfer], (self.call(requests.transfers()))["transfers"])

    def cancel(self, transfer: int) -> None:
        """Cancels a transfer; events received before are stored."""
        self.call(requests.cancel(transfer))

    def put_stash(self, peer: str, data: bytes) -> None:
        """Stores data at a peer, sealed so that only this nara can read it, replacing what it stored there before."""
        self.call(requests.put_stash(peer, data))

    def get_stash(self, peer: str) -> bytes | None:
        """Returns the data that this nara stored at a peer; None if there is none."""
        return requests.stashed(self._send(requests.get_stash(peer)))

    def postcards(self) -> list[Journey]:
        """Returns the postcards of this nara, and their state."""
        return cast(list[Journey], (self.call(requests.postcards()))["postcards"])

    def publish(self, event: Event) -> Event:
        """Signs an event of this nara and stores it."""
        return cast(Event, self.call(requests.Call("POST", "/v1/events", body=event)))

    def events(self, *, services: str = "", after: str | None = None, limit: int = 100) -> EventPage:
        return cast(EventPage, self.call(requests.events(services, after, limit)))

    def live(
        self, *, services: str = "", after: str | None = None, since_ms: int | None = None
    ) -> Iterator[LiveEvent]:
        """Yields events as they arrive: after a cursor, from a time, or from now on."""
        for name, body in self._told(requests.live(services, after, since_ms)):
            if name == "event":
                yield cast(LiveEvent, body)

    def inbox(self) -> Iterator[InboxMessage]:
        """Yields messages of peers as they arrive, beginning with unacknowledged ones. Requesting the next one acknowledges the
        previous one: a message that the loop fails to handle is yielded again."""
        for name, body in self._told(requests.inbox()):
            if name == "message":
                message = cast(InboxMessage, body)
                yield message
                self.call(requests.acknowledge(message["cursor"]))

    def request(
        self,
        peer: str,
        method: str,
        path: str,
        *,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends a signed request to a peer, and returns its verified answer, whatever its status."""
        call = requests.to_peer(peer, method, path, content, headers)
        with requests.reaching(self._where):
            return requests.answer(self._http.request(**call))
