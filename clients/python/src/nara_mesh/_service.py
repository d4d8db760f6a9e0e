from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from . import _requests as requests

Scope = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
Caller = Callable[[requests.Call], Awaitable[Any]]

#: The duration of a lease, in seconds. It is renewed three times as often.
LEASE = 30


@dataclass(frozen=True)
class Sender:
    """The sender of a request, verified by the nara."""

    name: str
    id: str | None
    key: str
    coverage: str

    @classmethod
    def of(cls, scope: Scope) -> Sender:
        """Returns the sender of an ASGI request. Only the nara can set these headers, because only it knows the socket."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return cls(
            name=unquote(headers["x-nara-sender"]),
            id=headers.get("x-nara-sender-id"),
            key=headers["x-nara-sender-key"],
            coverage=headers["x-nara-coverage"],
        )


@contextlib.asynccontextmanager
async def exposed(call: Caller, prefix: str, app: App) -> AsyncIterator[None]:
    """Serves an ASGI app on a private socket, and makes the nara forward requests of peers to it."""
    import uvicorn

    class Server(uvicorn.Server):
        """A server that leaves signal handling to the program."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    path = f"/v1/services/{quote(prefix.removeprefix('/'), safe='-_~.')}"
    with tempfile.TemporaryDirectory(prefix="nara-") as folder:
        socket = Path(folder) / "app.sock"
        config = uvicorn.Config(app, uds=str(socket), lifespan="off", log_level="warning")
        server = Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                if serving.done():
                    await serving
                    raise RuntimeError("the app stopped")
                await asyncio.sleep(0.01)
            lease = requests.Call("PUT", path, body={"backend": f"unix:{socket}", "lease_s": LEASE})
            await call(lease)
            renewing = asyncio.create_task(_renew(call, lease))
            try:
                yield
            finally:
                renewing.cancel()
                await call(requests.Call("DELETE", path))
        finally:
            server.should_exit = True
            await serving


async def _renew(call: Caller, lease: requests.Call) -> None:
    while True:
        await asyncio.sleep(LEASE / 3)
        # A nara that restarts is asked again.
        with contextlib.suppress(Exception):
            await call(lease)
