from __future__ import annotations

from typing import Any

import httpx

_TYPE = "urn:nara-mesh:problem:"


class NaraError(Exception):
    """The base class of the errors of this package."""


class NoNara(NaraError):
    """No usable nara runs, or several do."""


class Problem(NaraError):
    """The nara refused or failed (RFC 9457)."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.type: str = body["type"]
        self.name: str = self.type.removeprefix(_TYPE)
        self.status: int = body["status"]
        self.detail: str = body["detail"]
        self.kind: str = body["class"]
        self.hint: str | None = body.get("hint")
        super().__init__(f"{self.detail} ({self.hint})" if self.hint else self.detail)


def is_problem(response: httpx.Response) -> bool:
    """Returns whether an answer is a problem of the nara, rather than the answer of a peer."""
    kind = response.headers.get("content-type", "")
    return "x-nara-body-proof" not in response.headers and kind.startswith("application/problem+json")
