from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nara_mesh import AsyncNara, Nara, NaraError, NoNara, Problem, Sender

from nara_mesh._requests import Call

from .conftest import Mesh, soul


def test_the_running_nara_is_found(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NARA_MESH_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(mesh.folder / "run"))
    with Nara() as nara:
        assert nara.status()["name"] == "bob"
    with Nara(name="bob") as nara:
        assert [peer["name"] for peer in nara.peers()] == ["alice"]
    with pytest.raises(NoNara):
        Nara(name="carol")


def test_messages_events_and_problems(mesh: Mesh) -> None:
    with Nara(mesh.bob) as nara:
        assert nara.ping("alice")["key_matches"] is True
        assert nara.dm("alice", "hello")["stored"]
        said = {"svc": "social", "social": {"type": "gossip", "actor": "bob", "target": "alice", "reason": "x"}}
        published = nara.publish(said)
        assert published["emitter"] == "bob"
        assert published in nara.events(services="social")["events"]
        live = next(iter(nara.live(services="social", since_ms=0)))
        assert live["trust"] == "verified" and live["event"] == published
        with pytest.raises(Problem) as caught:
            nara.ping("nobody")
        assert (caught.value.name, caught.value.status) == ("unknown_peer", 404)
        with pytest.raises(NaraError):
            nara.request("alice", "GET", "notes")


def test_a_message_stays_in_the_inbox_until_it_is_handled(mesh: Mesh) -> None:
    with Nara(mesh.alice) as alice, Nara(mesh.bob) as bob:
        for text in ("first", "second"):
            bob.dm("alice", text)
        texts = []
        for message in alice.inbox():
            texts.append((message["from"], message["event"]["social"]["reason"]))
            if texts[-1][1] == "second":
                break
        assert texts[-2:] == [("bob", "first"), ("bob", "second")]
        # The loop ended before it was done with the second one.
        again = next(iter(alice.inbox()))
        assert again["event"]["social"]["reason"] == "second"


def test_a_message_waits_in_the_outbox_until_it_is_taken_back(mesh: Mesh) -> None:
    key = soul(mesh.folder, "carol")["public_key"]
    with Nara(mesh.bob) as nara:
        sent = nara.dm_later("alice", "at once")
        assert sent.waits is None and sent.receipt is not None and sent.receipt["stored"]
        # Carol is known, and nobody knows where she is.
        nara.call(Call("PUT", "/v1/peers/carol/trust", body={"key": key}))
        sent = nara.dm_later("carol", "later", expires_s=60)
        assert sent.receipt is None and sent.waits is not None
        waits = sent.waits
        assert (waits["state"], waits["is_durable"]) == ("waiting", True)
        assert waits["expires_at_ms"] - waits["queued_at_ms"] == 60_000
        assert waits["id"] in [entry["id"] for entry in nara.outbox()]
        assert nara.take_back(waits["id"])["event"] == waits["event"]
        with pytest.raises(Problem) as caught:
            nara.take_back(waits["id"])
        assert caught.value.name == "unknown_message"

        async def asynchronously() -> None:
            async with AsyncNara(mesh.bob) as same:
                again = await same.dm_later("carol", "later")
                assert again.waits is not None
                assert again.waits["id"] in [entry["id"] for entry in await same.outbox()]
                await same.take_back(again.waits["id"])

        asyncio.run(asynchronously())
        nara.call(Call("DELETE", "/v1/peers/carol"))


def test_a_service_answers_peers_until_it_ends(mesh: Mesh) -> None:
    async def scenario() -> None:
        async with AsyncNara(mesh.alice) as alice, AsyncNara(mesh.bob) as bob:

            @alice.service("/notes")
            async def notes(scope: Any, receive: Any, send: Any) -> None:
                sender = Sender.of(scope)
                body = (await receive())["body"].decode()
                text = f"{sender.name} {scope['method']} {scope['path']} {body} {sender.coverage}"
                await send({"type": "http.response.start", "status": 201, "headers": []})
                await send({"type": "http.response.body", "body": text.encode()})

            async with alice.serve():
                answer = await bob.request("alice", "POST", "/notes/1", content="milk")
                assert (answer.status, answer.proof.responder) == (201, "alice")
                assert answer.text.startswith("bob POST /1 milk ")
            with pytest.raises(Problem):
                await bob.request("alice", "GET", "/notes/1")

    asyncio.run(scenario())
