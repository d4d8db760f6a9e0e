from __future__ import annotations

import asyncio
import socket
import threading
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
    monkeypatch.setenv("NARA_MESH_SOCKET", str(mesh.folder / "alice" / "nara.sock"))
    with Nara(name="bob") as nara:
        assert nara.status()["name"] == "bob"
    with pytest.raises(NoNara):
        Nara(name="carol")
    # An explicit socket is used, but no nara listens there.
    with Nara(mesh.folder / "nowhere.sock") as nobody, pytest.raises(NoNara) as caught:
        nobody.status()
    assert "nowhere.sock" in str(caught.value)


def test_a_nara_on_loopback_wants_a_token(mesh: Mesh) -> None:
    with Nara(mesh.bob) as nara:
        made = nara.call(Call("POST", "/v1/tokens", body={"rights": "read"}))
        # Opens an address on loopback.
        url = nara.call(Call("POST", "/v1/dashboard"))["url"].split("/#")[0]
    with Nara(base_url=url, token=made["token"]) as nara:
        assert nara.status()["name"] == "bob"
        with pytest.raises(Problem) as caught:
            nara.dm("alice", "hello")
        assert caught.value.name == "not_permitted"
    with Nara(base_url=url, token="wrong") as nara, pytest.raises(Problem) as caught:
        nara.status()
    assert caught.value.name == "not_authenticated"


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
        # The loop ended before the second one was acknowledged.
        again = next(iter(alice.inbox()))
        assert again["event"]["social"]["reason"] == "second"


def test_a_message_waits_in_the_outbox_until_it_is_taken_back(mesh: Mesh) -> None:
    key = soul(mesh.folder, "carol")["public_key"]
    with Nara(mesh.bob) as nara:
        sent = nara.dm_later("alice", "at once")
        assert sent.waits is None and sent.receipt is not None and sent.receipt["stored"]
        # Carol is known, but her address is not.
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

        postcard = nara.postcard_later("hi", to="carol", expires_s=60)
        assert postcard.receipt is None and postcard.waits is not None
        assert (postcard.waits["kind"], postcard.waits["event"]["message"]) == ("postcard", "hi")
        nara.take_back(postcard.waits["id"])
        payload = {"owner_id": nara.status()["id"], "stored_at": 1, "success": True}
        message = nara.message_later("carol", "stash:ack", payload)
        assert message.receipt is None and message.waits is not None
        assert message.waits["kind"] == "runtime-message"
        nara.take_back(message.waits["id"])
        at_once = nara.message_later("alice", "stash:ack", payload)
        assert at_once.waits is None and at_once.receipt is not None
        assert nara.message("alice", "stash:ack", payload)["message_id"]

        async def asynchronously() -> None:
            async with AsyncNara(mesh.bob) as same:
                waiting = await same.postcard_later("hi", to="carol")
                assert waiting.waits is not None
                await same.take_back(waiting.waits["id"])
                kept = await same.message_later("carol", "stash:ack", payload)
                assert kept.waits is not None
                await same.take_back(kept.waits["id"])
                assert (await same.message("alice", "stash:ack", payload))["message_id"]
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


def test_events_are_fetched_compared_and_a_transfer_is_cancelled(mesh: Mesh) -> None:
    with Nara(mesh.bob) as nara:
        nara.dm("alice", "to be fetched")
        synced = nara.sync("alice", services="social")
        assert synced["counts"]["received"] > 0
        compared = nara.reconcile("alice", push=True)
        assert compared["complete"] and compared["missing_here"] >= 0
        assert nara.transfers() == []
        with socket.create_server(("127.0.0.1", 0)) as silent:
            # It accepts connections and never answers.
            peer = f"127.0.0.1:{silent.getsockname()[1]}"
            problems: list[str] = []

            def fetch() -> None:
                with Nara(mesh.bob) as other, pytest.raises(Problem) as caught:
                    other.sync(peer)
                problems.append(caught.value.name)

            fetching = threading.Thread(target=fetch)
            fetching.start()
            while not (going_on := nara.transfers()):
                pass
            assert (going_on[0]["kind"], going_on[0]["peer"]) == ("sync", peer)
            nara.cancel(going_on[0]["id"])
            fetching.join()
        assert problems == ["cancelled"]

        async def asynchronously() -> None:
            async with AsyncNara(mesh.bob) as same:
                assert (await same.sync("alice"))["counts"]["received"] > 0
                assert (await same.reconcile("alice"))["complete"]
                assert await same.transfers() == []

        asyncio.run(asynchronously())


def test_stashes_and_postcards(mesh: Mesh) -> None:
    with Nara(mesh.bob) as nara:
        assert nara.get_stash("alice") is None
        nara.put_stash("alice", b"only bob")
        assert nara.get_stash("alice") == b"only bob"
        sent = nara.postcard("greetings", to="alice")
        assert sent["message_id"] in [journey["message_id"] for journey in nara.postcards()]

        async def asynchronously() -> None:
            async with AsyncNara(mesh.bob) as same:
                await same.put_stash("alice", b"again")
                assert await same.get_stash("alice") == b"again"
                assert len(await same.postcards()) > 0

        asyncio.run(asynchronously())
