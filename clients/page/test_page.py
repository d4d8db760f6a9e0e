"""The page of a nara in a real browser, with running naras."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from conftest import Mesh, Nara, Page, soul, until
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()

VIEWS = ("mesh", "events", "trust", "health")


def findings(page: Page) -> list[str]:
    """Returns the relevant findings of axe about the page."""
    page.driver.execute_script(AXE)
    script = "const done = arguments[arguments.length - 1]; axe.run(document).then(done, (error) => done({error: String(error)}))"
    result: dict[str, Any] = page.driver.execute_async_script(script)
    assert "violations" in result, result
    serious = [found for found in result["violations"] if found["impact"] in ("serious", "critical", "moderate")]
    return [
        f"{found['impact']} {found['id']}: {found['help']}: "
        + json.dumps([node["html"][:200] + " " + node.get("failureSummary", "") for node in found["nodes"][:3]])
        for found in serious
    ]


def in_groups(key: str) -> str:
    return " ".join(key[start : start + 4] for start in range(0, len(key), 4))


def test_an_event_appears_without_a_reload(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    page.says("#name", "alice")
    page.says("#mesh", "bob")
    page.view("events")
    hostile = "<img src=x onerror=alert(1)> nice notes"
    mesh.bob.run("dm", "alice", hostile)
    page.says("#timeline", hostile)
    assert page.all("#timeline img") == []
    page.says("#timeline li:first-child", "verified")
    # The key that verified it, and the peer that it came from.
    page.driver.execute_script("document.querySelector('#timeline li details').open = true")
    page.says("#timeline li:first-child details", in_groups(mesh.bob.listening["key_id"]))
    page.says("#timeline li:first-child details", "received from bob")
    page.driver.execute_script("document.querySelector('#timeline li details').open = false")
    # The filters, and the link to the peer.
    page.one("#event-text").send_keys("no such words")
    page.says("#timeline", "No event matches")
    page.one("#event-text").clear()
    page.one("#event-text").send_keys("nice notes")
    page.says("#timeline", hostile)
    page.click("#timeline li", "bob")
    until(lambda: page.one("#mesh").is_displayed() and page.all("#peer-bob.found"), "the peer is shown")
    assert page.complaints() == []


def test_the_address_opens_the_page_once(mesh: Mesh, page: Page) -> None:
    url = mesh.alice.dashboard()
    page.open(url)
    assert url.split("#")[1] not in page.driver.current_url
    page.driver.execute_script("sessionStorage.clear()")
    page.open(url, state="closed")
    page.says("#closed", "already used")
    page.says("#closed", "nara-mesh dashboard")
    page.picture("closed")
    assert findings(page) == []
    # The refusal is the only console message.
    assert all("401" in complaint for complaint in page.complaints())
    page.open(mesh.alice.dashboard())
    page.one("#leave").click()
    page.wait_for("closed")
    page.driver.refresh()
    page.wait_for("closed")


def test_messages_that_wait_are_shown_and_taken_back(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    page.view("health")
    page.says("#health", "No waiting messages")
    # Dora is known, but her address is not.
    key = soul(mesh.folder, "dora", "dora.soul")["public_key"]
    hostile = "<img src=x onerror=alert(1)> later"
    with mesh.alice.api as api:
        assert api.put("/v1/peers/dora/trust", json={"key": key}).is_success
        for path, body in (
            ("/v1/peers/dora/dm", {"text": hostile, "later": {}}),
            ("/v1/postcards", {"message": "greetings", "to": "dora", "later": {}}),
        ):
            kept = api.post(path, json=body)
            assert kept.status_code == 202, kept.text
        page.says("#health", hostile)
        page.says("#health", "greetings")
        assert page.all("#health img") == []
        assert findings(page) == []
        page.picture("health-waiting")
        for left in (1, 0):
            page.click("#health", "Take back")
            until(lambda: api.get("/v1/outbox").json()["waiting"] == left, "it is withdrawn")
            until(lambda: page.text("#health").count("Take back") == left, "the page shows it")
        page.says("#health", "No waiting messages")
        api.delete("/v1/peers/dora")
    assert page.complaints() == []


def test_a_program_that_peers_reach_is_shown_with_who_called_it(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    page.view("health")
    page.says("#health", "No waiting messages")
    assert "Services" not in page.text("#health")
    with socket.create_server(("127.0.0.1", 0)) as program, mesh.alice.api as api:
        backend = f"http://127.0.0.1:{program.getsockname()[1]}"
        program.close()
        assert api.put("/v1/services/notes", json={"backend": backend, "lease_s": 60}).is_success
        # The program does not run, but the request was forwarded.
        with mesh.bob.api as of_bob:
            assert of_bob.get("/v1/peers/alice/http/notes/1").status_code == 502
        page.says("#health", backend)
        page.says("#health", "Last sender")
        assert api.get("/v1/services").json()["services"][0]["last_sender"] == "bob"
        assert findings(page) == []
        api.delete("/v1/services/notes")
    assert page.complaints() == []


def test_the_ledger_is_shown_by_service(mesh: Mesh, page: Page) -> None:
    mesh.bob.run("dm", "alice", "what is in your ledger?")
    page.open(mesh.alice.dashboard())
    page.view("health")
    page.says("#health", "Events in the ledger")
    with mesh.alice.api as api:
        held = {size["service"]: size for size in api.get("/v1/ledger").json()["services"]}
    assert held["social"]["events"] > 0 and held["social"]["bytes"] > 0
    # The page polls, and eventually shows the current count.
    find = """
      const rows = [...document.querySelectorAll('#health tbody tr')].map((row) => row.innerText);
      return rows.some((row) => row.startsWith('social') && row.split(/\\s+/).includes(arguments[0]));
    """
    events = str(held["social"]["events"])
    until(lambda: page.driver.execute_script(find, events), "a row for the service social")
    assert page.complaints() == []


def test_a_peer_without_coordinates_is_on_the_map_by_its_round_trip(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    script = """
      const [done] = [arguments[arguments.length - 1]];
      import('/page/map.js').then(({ map, placeOf }) => {
        const peers = [{label: 'old', presence: 'ONLINE', rtt_us: 3000}, {label: 'nowhere', presence: 'UNKNOWN'}];
        const drawn = map(null, 'alice', peers, new Set());
        done([drawn.querySelectorAll('.node').length, Math.hypot(...placeOf(peers[0], null)), placeOf(peers[1], null) ?? null]);
      }, (error) => done([String(error)]));
    """
    nodes, far, nowhere = page.driver.execute_async_script(script)
    assert (nodes, nowhere) == (2, None) and abs(far - 3) < 0.001


def test_a_transfer_is_shown_while_it_goes_on_and_cancelled(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    page.view("health")
    page.says("#health", "No waiting messages")
    with socket.create_server(("127.0.0.1", 0)) as silent, mesh.alice.api as api:
        # It accepts connections and never answers.
        peer = f"127.0.0.1:{silent.getsockname()[1]}"
        with api.stream("POST", f"/v1/peers/{peer}/sync", params={"timeout_ms": 600_000}) as sync:
            page.says("#health", "Transfers")
            page.says("#health", peer)
            assert findings(page) == []
            page.click("#health", "Cancel")
            told = "".join(sync.iter_text())
        assert "problem:cancelled" in told, told
        until(lambda: peer not in page.text("#health"), "it is no longer listed")
    assert page.complaints() == []


def test_a_conflict_shows_and_is_decided(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    mesh.meet()
    page.view("trust")
    page.says("#trust", "no conflicts")
    pinned = mesh.carol.listening["key_id"]
    page.says("#trust", pinned)
    # Another nara with the name of carol listens at her address.
    mesh.carol.stop()
    impostor = Nara(mesh.folder, "impostor", listen=mesh.carol.listen)
    (mesh.folder / "nobody.toml").write_text("")
    impostor.peers = "nobody.toml"
    offered = soul(mesh.folder, "carol", "impostor.soul")["key_id"]
    impostor.start()
    try:
        with mesh.alice.api as api:
            api.post("/v1/peers/carol/ping")
        page.says("#tab-trust .count", "1")
        page.says(".conflict", in_groups(pinned))
        page.says(".conflict", in_groups(offered))
        page.picture("trust-conflict")
        assert findings(page) == []
        # The confirmation repeats the key, and may be cancelled.
        page.click(".conflict", "Trust the offered key")
        page.says("dialog", in_groups(offered))
        assert findings(page) == []
        page.picture("trust-confirm")
        page.click("dialog", "Cancel")
        until(lambda: not page.one("dialog").is_displayed(), "the dialog closes")
        page.click(".conflict", "Trust the offered key")
        page.click("dialog", "Trust this key")
        page.says("#trust", "no conflicts")
        page.says("#trust", offered)
        page.says("#trust", "trusted by you")
        with mesh.alice.api as api:
            assert api.get("/v1/peers/carol").json()["key_id"] == offered
        # A ban, and lifting it.
        page.click("#trust table", "Ban")
        page.says("dialog", "Ban bob?")
        page.click("dialog", "Ban")
        page.says("#trust table", "banned")
        page.click("#trust table", "Lift the ban")
        page.click("dialog", "Lift the ban")
        until(lambda: "banned" not in page.text("#trust table"), "the ban is lifted")
        assert page.complaints() == []
    finally:
        impostor.stop()
        with mesh.alice.api as api:
            back = {"key": pinned, "replace": True}
            assert api.put("/v1/peers/carol/trust", json=back).status_code == 200
        mesh.carol.start()


def test_a_key_that_takes_over_is_shown_and_decided(mesh: Mesh, page: Page) -> None:
    # Erin trusts no key by herself, and frank's key by a decision of her operator.
    old = soul(mesh.folder, "frank", "frank.soul")
    new = soul(mesh.folder, "frank", "next.soul")
    soul(mesh.folder, "erin", "erin.soul")
    (mesh.folder / "of-frank.toml").write_text("")
    frank = Nara(mesh.folder, "frank", peers="of-frank.toml")
    frank.start()
    erin = Nara(mesh.folder, "erin", peers="of-erin.toml", more=("--trust", "closed"))
    (mesh.folder / "of-erin.toml").write_text(f'[[peer]]\nname = "frank"\naddress = "{frank.listen}"\n')
    try:
        erin.start()
        with erin.api as api:
            trust = {"key": old["public_key"]}
            assert api.put("/v1/peers/frank/trust", json=trust).is_success
            page.open(erin.dashboard())
            page.view("trust")
            page.says("#trust", "trusted by you")
            frank.run("id", "succeed", "--to", "next.soul", "--soul-file", "frank.soul")
            assert "event: done" in api.post("/v1/peers/frank/sync").text
            warning = until(lambda: api.get("/v1/conflicts").json()["warnings"], "a warning")[0]
            assert (warning["kind"], warning["pinned_key_id"]) == ("succession", old["key_id"])
            page.says("#trust", "it takes effect once you trust it")
            page.says("#trust .keys", in_groups(old["key_id"]))
            page.says("#trust .keys", in_groups(new["key_id"]))
            assert findings(page) == []
            page.picture("trust-succession")
            page.click("#trust .plain-list", "Trust this key")
            page.says("dialog", "Trust another key of frank?")
            page.says("dialog", in_groups(new["key_id"]))
            assert findings(page) == []
            page.click("dialog", "Trust this key")
            until(lambda: api.get("/v1/peers/frank").json()["key_id"] == new["key_id"], "the new key is in force")
            until(lambda: "it takes effect once you trust it" not in page.text("#trust"), "the warning is gone")
            page.says("#trust table", new["key_id"])
        assert page.complaints() == []
    finally:
        erin.stop()
        frank.stop()


def test_a_decision_is_about_the_key_and_not_about_a_name_that_means_another(mesh: Mesh, page: Page) -> None:
    # A peer is named like the id of bob, so the name alone is ambiguous.
    with mesh.alice.api as api:
        namesake = api.get("/v1/peers/bob").json()["id"]
        key = soul(mesh.folder, namesake, "namesake.soul")["public_key"]
        stanza = f'\n[[peer]]\nname = "{namesake}"\nkey = "{key}"\n'
        file = mesh.folder / "of-alice.toml"
        before = file.read_text()
        try:
            file.write_text(before + stanza)
            assert api.post("/v1/reload").is_success
            assert api.put(f"/v1/peers/{namesake}/ban").status_code == 409
            page.open(mesh.alice.dashboard())
            page.view("trust")
            script = """
              const rows = [...document.querySelectorAll('#trust tbody tr')];
              const row = rows.find((row) => row.querySelector('th').innerText.startsWith(arguments[0]));
              const button = row?.querySelector('button');
              button?.click();
              return button !== undefined;
            """
            until(lambda: page.driver.execute_script(script, namesake), "a button for the namesake")
            page.click("dialog", "Ban")
            def listed() -> dict[str, str | None]:
                return {peer["label"]: peer["verdict"] for peer in api.get("/v1/peers").json()["peers"]}

            until(lambda: listed()[namesake] == "untrusted", "the namesake is banned")
            assert listed()["bob"] != "untrusted"
        finally:
            file.write_text(before)
            api.post("/v1/reload")
    page.complaints()


def test_a_lost_connection_is_shown_and_comes_back(mesh: Mesh, page: Page) -> None:
    page.open(mesh.alice.dashboard())
    page.view("events")
    address = page.driver.current_url
    mesh.alice.stop()
    page.wait_for("lost")
    page.says("#connection", "Connection lost")
    page.picture("lost")
    mesh.alice.start()
    page.wait_for("live")
    assert page.driver.current_url == address
    # Live again, not only connected.
    mesh.bob.run("dm", "alice", "welcome back")
    page.says("#timeline", "welcome back")
    # The browser logs failed connections; there are no other messages.
    assert all("net::ERR" in complaint for complaint in page.complaints())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_and_the_console_is_silent(mesh: Mesh, page: Page, scheme: str) -> None:
    page.scheme(scheme)
    page.open(mesh.alice.dashboard())
    mesh.meet()
    for peer in ("bob", "carol"):
        mesh.alice.run("ping", peer)
        mesh.alice.run("dm", peer, f"good morning, {peer}")
        getattr(mesh, peer).run("dm", "alice", "have you read the notes of last week?")
    with mesh.alice.api as api:
        until(lambda: len(api.get("/v1/history").json()["samples"]) >= 3, "there is something to plot")
    page.says("#mesh", "online")
    until(lambda: page.all("#map .node.online"), "a peer is on the map")
    for view in VIEWS:
        page.view(view)
        if view == "health":
            page.says("#health", "Check again")
            page.says("#health", "at most")
        until(lambda: page.text(f"#{view}"), f"the view {view}")
        page.picture(f"{view}-{scheme}")
        assert findings(page) == [], f"{view} in {scheme}"
    assert page.complaints() == []


def test_the_page_works_with_the_keyboard(mesh: Mesh, page: Page) -> None:
    def press(key: str) -> str | None:
        ActionChains(page.driver).send_keys(key).perform()
        focused = page.driver.switch_to.active_element
        return focused.get_attribute("id") or focused.text

    page.open(mesh.alice.dashboard())
    assert [press(Keys.TAB) for _ in range(3)] == ["Skip to content", "leave", "tab-mesh"]
    for expected in ("tab-events", "tab-trust", "tab-health", "tab-mesh"):
        assert press(Keys.ARROW_RIGHT) == expected
        assert page.one(f"#{expected}").get_attribute("aria-selected") == "true"
    assert press(Keys.ARROW_LEFT) == "tab-health"
    assert press(Keys.TAB) == "health"


def test_a_web_page_of_another_origin_cannot_use_the_api(mesh: Mesh, page: Page) -> None:
    url = mesh.alice.dashboard()
    page.open(url)
    address = url.split("/#")[0]
    # Another origin on the same machine, to which the browser even sends the cookie.
    page.driver.get(address.replace("127.0.0.1", "localhost") + "/page/icon.svg")
    script = """
      const [address, done] = [arguments[0], arguments[arguments.length - 1]];
      const tries = [{}, {credentials: 'include'}, {method: 'POST', mode: 'no-cors'}, {headers: {'x-nara-page': 'x'}}];
      Promise.allSettled(tries.map((options) => fetch(address + '/v1/status', options).then((answer) => answer.text())))
        .then((all) => done(all.map(({status, value}) => status === 'fulfilled' ? value : 'refused')));
    """
    answers = page.driver.execute_async_script(script, address)
    assert all(answer in ("refused", "") for answer in answers), answers
    with mesh.alice.api as api:
        assert api.get("/v1/status").status_code == 200
    page.complaints()
