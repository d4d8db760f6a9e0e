from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

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
from ._service import App, exposed
from ._sync import TIMEOUT

AnyApp = TypeVar("AnyApp", bound=App)


class AsyncNara:
    """Nara for asyncio; it can also expose services."""

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
            transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        self._http = httpx.AsyncClient(
            transport=transport,
            base_url=base_url or requests.BASE,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            # A proxy from the environment would receive the token.
            trust_env=False,
        )
        self._where = self.socket or base_url
        self._apps: dict[str, App] = {}

    async def __aenter__(self) -> AsyncNara:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, call: requests.Call) -> Any:
        """Calls any endpoint, and returns its JSON; None if the answer is empty."""
        response = requests.checked(await self._send(call))
        return response.json() if response.content else None

    async def _send(self, call: requests.Call) -> httpx.Response:
        with requests.reaching(self._where):
            return await self._http.request(**call.kwargs())

    async def _told(self, call: requests.Call) -> AsyncIterator[tuple[str, Any]]:
        """Yields the server-sent events of an answer."""
        timeout = httpx.Timeout(TIMEOUT, read=None)
        with requests.reaching(self._where):
            async with self._http.stream(**call.kwargs(), timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    requests.checked(response)
                lines = requests.Lines()
                async for line in response.aiter_lines():
                    told = lines.feed(line)
                    if told is not None:
                        yield told

    async def _transfer(self, call: requests.Call) -> Any:
        async for told in self._told(call):
            if (done := requests.done(told)) is not None:
                return done
        raise NaraError("the nara stopped before the transfer was complete")

    async def status(self) -> Status:
        return cast(Status, await self.call(requests.Call("GET", "/v1/status")))

    async def peers(self) -> list[Peer]:
        return cast(list[Peer], (await self.call(requests.Call("GET", "/v1/peers")))["peers"])

    async def ping(self, peer: str) -> Pong:
        return cast(Pong, await self.call(requests.ping(peer)))

    async def dm(self, peer: str, text: str, *, about: str | None = None) -> DmReceipt:
        return cast(DmReceipt, await self.call(requests.dm(peer, text, about)))

    async def dm_later(
        self, peer: str, text: str, *, about: str | None = None, expires_s: int | None = None
    ) -> Sent:
        """As dm; a message that cannot be delivered now waits in the outbox of the nara, for 7 days unless given."""
        return requests.sent(await self.call(requests.dm_later(peer, text, about, expires_s)))

    async def outbox(self) -> list[OutboxEntry]:
        """Returns the messages that wait for their recipients, and the outcome of recent ones."""
        return cast(list[OutboxEntry], (await self.call(requests.outbox()))["messages"])

    async def take_back(self, message: int) -> OutboxEntry:
        """Withdraws a message from the outbox, and returns its last state."""
        return cast(OutboxEntry, await self.call(requests.take_back(message)))

    async def postcard(self, message: str, *, to: str | None = None) -> PostcardReceipt:
        return cast(PostcardReceipt, await self.call(requests.postcard(message, to)))

    async def postcard_later(
        self, message: str, *, to: str, expires_s: int | None = None
    ) -> SentPostcard:
        """As postcard; if its first peer is unreachable now, it waits in the outbox of the nara."""
        call = requests.later(requests.postcard(message, to), expires_s)
        return requests.sent_postcard(await self.call(call))

    async def message(
        self, peer: str, kind: str, payload: Mapping[str, Any], *, wait: bool = False
    ) -> MessageReceipt:
        """Sends a runtime message (docs/protocol/v1.md, section 12), and waits up to 30 s for its reply if requested."""
        call = requests.message(peer, kind, payload, wait)
        return cast(MessageReceipt, await self.call(call))

    async def message_later(
        self, peer: str, kind: str, payload: Mapping[str, Any], *, expires_s: int | None = None
    ) -> SentMessage:
        """As message; if it cannot be delivered now, it waits in the outbox of the nara. A reply arrives in the inbox."""
        call = requests.later(requests.message(peer, kind, payload, False), expires_s)
        return requests.sent_message(await self.call(call))

    async def sync(self, peer: str, *, services: str = "", resume: bool = False) -> Synced:
        """Fetches and verifies the events of a peer into the ledger. Events received before a failure are stored."""
        return cast(Synced, await self._transfer(requests.sync(peer, services, resume)))

    async def reconcile(self, peer: str, *, services: str = "", push: bool = False) -> Reconciled:
        """Compares the ledger with that of a peer, and fetches missing events."""
        return cast(Reconciled, await self._transfer(requests.reconcile(peer, services, push)))

    async def transfers(self) -> list[Transfer]:
        """Returns the transfers in progress, of all callers."""
        return cast(list[Transfer], (await self.call(requests.transfers()))["transfers"])

    async def cancel(self, transfer: int) -> None:
        """Cancels a transfer; events received before are stored."""
        await self.call(requests.cancel(transfer))

    async def put_stash(self, peer: str, data: bytes) -> None:
        """Stores data at a peer, sealed so that only this nara can read it, replacing what it stored there before."""
        await self.call(requests.put_stash(peer, data))

    async def get_stash(self, peer: str) -> bytes | None:
        """Returns the data that this nara stored at a peer; None if there is none."""
        return requests.stashed(await self._send(requests.get_stash(peer)))

    async def postcards(self) -> list[Journey]:
        """Returns the postcards of this nara, and their state."""
        return cast(list[Journey], (await self.call(requests.postcards()))["postcards"])

    async def publish(self, event: Event) -> Event:
        """Signs an event of this nara and stores it."""
        return cast(Event, await self.call(requests.Call("POST", "/v1/events", body=event)))

    async def events(self, *, services: str = "", after: str | None = None, limit: int = 100) -> EventPage:
        return cast(EventPage, await self.call(requests.events(services, after, limit)))

    async def live(
        self, *, services: str = "", after: str | None = None, since_ms: int | None = None
    ) -> AsyncIterator[LiveEvent]:
        """Yields events as they arrive: after a cursor, from a time, or from now on."""
        async for name, body in self._told(requests.live(services, after, since_ms)):
            if name == "event":
                yield cast(LiveEvent, body)

    async def inbox(self) -> AsyncIterator[InboxMessage]:
        """Yields messages of peers as they arrive, beginning with unacknowledged ones. Requesting the next one acknowledges the
        previous one: a message that the loop fails to handle is yielded again."""
        async for name, body in self._told(requests.inbox()):
            if name == "message":
                message = cast(InboxMessage, body)
                yield message
                await self.call(requests.acknowledge(message["cursor"]))

    async def request(
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
            return requests.answer(await self._http.request(**call))

    def service(self, prefix: str) -> Callable[[AnyApp], AnyApp]:
        """Registers an ASGI app for requests of peers below a prefix, such as /notes: for `serve` and `run`."""

        def register(app: AnyApp) -> AnyApp:
            self._apps[prefix] = app
            return app

        return register

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Exposes the registered apps while the context is active."""
        async with contextlib.AsyncExitStack() as stack:
            for prefix, app in self._apps.items():
                await stack.enter_async_context(exposed(self.call, prefix, app))
            yield

    def run(self) -> None:
        """Exposes the registered apps until ctrl-C."""

        async def forever() -> None:
            async with self, self.serve():
                await asyncio.Event().wait()

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(forever())
