from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import httpx


@dataclass(frozen=True)
class Proof:
    """What is proven about the answer of a peer."""

    responder: str | None
    key: str | None
    key_source: str | None
    signed_at_ms: int | None
    bound: bool
    channel: bool
    body: str
    coverage: str

    @classmethod
    def of(cls, headers: httpx.Headers) -> Proof:
        responder = headers.get("x-nara-responder")
        signed_at = headers.get("x-nara-signed-at")
        return cls(
            responder=unquote(responder) if responder is not None else None,
            key=headers.get("x-nara-responder-key"),
            key_source=headers.get("x-nara-key-source"),
            signed_at_ms=int(signed_at) if signed_at is not None else None,
            bound=headers.get("x-nara-bound") == "?1",
            channel=headers.get("x-nara-channel") == "?1",
            body=headers.get("x-nara-body-proof", "none"),
            coverage=headers.get("x-nara-coverage", "none"),
        )


@dataclass(frozen=True)
class Answer:
    """The verified answer of a peer."""

    response: httpx.Response
    proof: Proof

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def content(self) -> bytes:
        return self.response.content

    @property
    def text(self) -> str:
        return self.response.text
