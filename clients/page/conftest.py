"""A mesh of three running naras, a fourth that claims the name of one of them, and a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("NARA_MESH_PROGRAM", str(ROOT / "target/debug/nara-mesh"))
PICTURES = ROOT / "target/page"

# The time limit for expected changes; far more than they take.
PATIENCE = 30.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits until a condition holds, and returns its value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"not within {PATIENCE} s: {what}")


@dataclass
class Nara:
    folder: Path
    name: str
    listen: str = "127.0.0.1:0"
    peers: str = "peers.toml"
    more: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    listening: dict[str, Any] = field(default_factory=dict)

    def run(self, *args: str) -> Any:
        command = [PROGRAM, *args, "--json", "--data-dir", self.name]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self) -> None:
        command = [PROGRAM, "serve", "--json", "--listen", self.listen, "--peers", self.peers]
        command += ["--soul-file", f"{self.name}.soul", "--data-dir", self.name, *self.more]
        with open(self.folder / f"{self.name}.log", "a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env={}, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.listening = json.loads(self.process.stdout.readline())
        self.listen = self.listening["address"]

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    @property
    def api(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.folder / self.name / "nara.sock"))
        return httpx.Client(transport=transport, base_url="http://nara")

    def dashboard(self) -> str:
        url: str = self.run("dashboard")["url"]
        return url


@dataclass
class Mesh:
    folder: Path
    alice: Nara
    bob: Nara
    carol: Nara

    def meet(self) -> None:
        """Calls carol as alice, who pins the key that she shows if she has none."""
        with self.alice.api as api:
            met = api.post("/v1/peers/carol/ping")
            assert met.status_code == 200, met.text


def soul(folder: Path, name: str, file: str) -> dict[str, Any]:
    command = [PROGRAM, "id", "new", "--json", "--name", name, "--out", file]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, env={})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    stanzas = []
    naras = {}
    for name in ("alice", "bob", "carol"):
        made = soul(folder, name, f"{name}.soul")
        address = f"127.0.0.1:{free_port()}"
        stanzas.append(f'[[peer]]\nname = "{name}"\nid = "{made["id"]}"\nkey = "{made["public_key"]}"\naddress = "{address}"\n')
        naras[name] = Nara(folder, name, listen=address)
    (folder / "peers.toml").write_text("\n".join(stanzas))
    # Alice learns carol's address, and pins the key that she shows there.
    met = f'[[peer]]\nname = "carol"\naddress = "{naras["carol"].listen}"\n'
    (folder / "of-alice.toml").write_text("\n".join([*stanzas[:2], met]))
    naras["alice"].peers = "of-alice.toml"
    for nara in naras.values():
        nara.start()
    mesh = Mesh(folder, naras["alice"], naras["bob"], naras["carol"])
    mesh.meet()
    yield mesh
    for nara in naras.values():
        nara.stop()


class Page:
    """The page in a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, state: str = "live") -> None:
        self.driver.get("about:blank")
        self.driver.get(url)
        self.wait_for(state)

    def state(self) -> str | None:
        return self.one("#connection").get_attribute("data-state")

    def wait_for(self, state: str) -> None:
        until(lambda: self.state() == state, f"the page is {state}")

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def view(self, name: str) -> None:
        self.one(f"#tab-{name}").click()

    # The page may be rendered at any time, so each check is a single script.

    def text(self, selector: str) -> str:
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        found: str = self.driver.execute_script(script, selector)
        return found

    def says(self, selector: str, text: str) -> None:
        until(lambda: text in self.text(selector), f"{selector} says {text!r}")

    def click(self, place: str, text: str) -> None:
        """Clicks the first button in an element whose text contains this one."""
        script = """
          const buttons = [...document.querySelectorAll(`${arguments[0]} button`)];
          const found = buttons.find((button) => button.innerText.includes(arguments[1]));
          found?.click();
          return found !== undefined;
        """
        until(lambda: self.driver.execute_script(script, place, text), f"a button {text!r} in {place}")

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        size = "return [innerWidth, Math.min(2200, Math.max(800, document.documentElement.scrollHeight))]"
        width, height = self.driver.execute_script(size)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.save_screenshot(str(PICTURES / f"{name}.png"))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def scheme(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """Returns the console messages since the last call."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"]
    # The browser must not call anything on its own.
    arguments += ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--lang=en"]
    arguments.append(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome) -> Page:
    page = Page(browser)
    page.scheme("light")
    page.complaints()
    return page
