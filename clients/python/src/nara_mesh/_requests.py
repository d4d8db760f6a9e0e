"""Requests and answers that both clients share, without I/O."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from ._errors import NaraError, NoNara, Problem, is_problem
from ._models import Sent, SentMessage, SentPostcard
from ._proof import Answer, Proof

BASE = "http://nara"


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    params: dict[str, str] = field(default_factory=dict)
    body: Any = None
    content: bytes | None = None

    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"method": self.method, "url": self.path, "params": self.params}
        if self.body is not None:
            kwargs["json"] = self.body
        if self.content is not None:
            kwargs["content"] = self.content
        return kwargs


@contextlib.contextmanager
def reaching(where: object) -> Iterator[None]:
    """Converts a failed connection to an error with the place where no nara listens."""
    try:
        yield
    except httpx.ConnectError as error:
        raise NoNara(f"no nara listens on {where}: start it with `nara-mesh up` or `nara-mesh serve`") from error


def peer_path(peer: str, rest: str) -> str:
    return f"/v1/peers/{quote(peer, safe='-_~')}/{rest}"


def ping(peer: str) -> Call:
    return Call("POST", peer_path(peer, "ping"))


def dm(peer: str, text: str, about: str | None) -> Call:
    body = {"text": text} if about is None else {"text": text, "about": about}
    return Call("POST", peer_path(peer, "dm"), body=body)


def dm_later(peer: str, text: str, about: str | None, expires_s: int | None) -> Call:
    return later(dm(peer, text, about), expires_s)


def later(call: Call, expires_s: int | None) -> Call:
    """Returns the same message, which may wait in the outbox."""
    limit = {} if expires_s is None else {"expires_s": expires_s}
    return Call(call.method, call.path, body={**call.body, "later": limit})


def sent(body: Any) -> Sent:
    """Decodes an answer to `dm_later`."""
    if "state" in body:
        return Sent(None, body)
    return Sent(body, None)


def sent_postcard(body: Any) -> SentPostcard:
    """Decodes an answer to `postcard_later`."""
    if "state" in body:
        return SentPostcard(None, body)
    return SentPostcard(body, None)


def sent_message(body: Any) -> SentMessage:
    """Decodes an answer to `message_later`."""
    if "state" in body:
        return SentMessage(None, body)
    return SentMessage(body, None)


def outbox() -> Call:
    return Call("GET", "/v1/outbox")


def take_back(message: int) -> Call:
    return Call("DELETE", f"/v1/outbox/{message}")


def sync(peer: str, services: str, resume: bool) -> Call:
    return Call("POST", peer_path(peer, "sync"), {"services": services, "resume": str(resume).lower()})


def reconcile(peer: str, services: str, push: bool) -> Call:
    return Call("POST", peer_path(peer, "reconcile"), {"services": services, "push": str(push).lower()})


def done(told: tuple[str, Any]) -> Any:
    """Returns the result of a transfer; None while it is in progress."""
    name, body = told
    if name != "done":
        return None
    if body.get("problem"):
        raise Problem(body["problem"])
    return body


def transfers() -> Call:
    return Call("GET", "/v1/transfers")


def cancel(transfer: int) -> Call:
    return Call("DELETE", f"/v1/transfers/{transfer}")


def put_stash(peer: str, data: bytes) -> Call:
    return Call("PUT", peer_path(peer, "stash"), content=data)


def get_stash(peer: str) -> Call:
    return Call("GET", peer_path(peer, "stash"))


def stashed(response: httpx.Response) -> bytes | None:
    """Decodes an answer to `get_stash`."""
    try:
        return checked(response).content
    except Problem as problem:
        if problem.name == "no_stash":
            return None
        raise


def postcards() -> Call:
    return Call("GET", "/v1/postcards")


def postcard(message: str, to: str | None) -> Call:
    body = {"message": message} if to is None else {"message": message, "to": to}
    return Call("POST", "/v1/postcards", body=body)


def message(peer: str, kind: str, payload: Mapping[str, Any], wait: bool) -> Call:
    body = {"kind": kind, "payload": dict(payload), "wait": wait}
    return Call("POST", peer_path(peer, "messages"), body=body)


def events(services: str, after: str | None, limit: int) -> Call:
    params = {"services": services, "limit": str(limit)}
    if after is not None:
        params["after"] = after
    return Call("GET", "/v1/events", params)


def live(services: str, after: str | None, since_ms: int | None) -> Call:
    params = {"services": services}
    if after is not None:
        params["after"] = after
    elif since_ms is not None:
        params["since_ms"] = str(since_ms)
    return Call("GET", "/v1/events/live", params)


def inbox() -> Call:
    return Call("GET", "/v1/inbox/live")


def acknowledge(through: str) -> Call:
    return Call("POST", "/v1/inbox/acknowledge", body={"through": through})


def to_peer(
    peer: str, method: str, path: str, content: bytes | str | None, headers: Mapping[str, str] | None
) -> dict[str, Any]:
    if not path.startswith("/"):
        raise NaraError(f"{path!r} is not a path: it must begin with /")
    return {
        "method": method,
        "url": peer_path(peer, f"http{path}"),
        "content": content,
        "headers": dict(headers or {}),
    }


def checked(response: httpx.Response) -> httpx.Response:
    if response.is_success and not is_problem(response):
        return response
    try:
        body = response.json()
        raise Problem(body)
    except (ValueError, KeyError) as error:
        raise NaraError(f"status {response.status_code} without a problem") from error


def answer(response: httpx.Response) -> Answer:
    if "x-nara-body-proof" not in response.headers:
        checked(response)
        raise NaraError("the answer has no proof")
    return Answer(response, Proof.of(response.headers))


class Lines:
    """Parses server-sent events from lines."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> tuple[str, Any] | None:
        if line == "":
            name, data = self._name, "\n".join(self._data)
            self._name, self._data = "", []
            if not data:
                return None
            body = json.loads(data)
            if name == "problem":
                raise Problem(body)
            return name, body
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value
        elif key == "data":
            self._data.append(value)
        return None
