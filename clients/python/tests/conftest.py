"""Two running naras: alice, and bob, who knows her and whose local API the tests use."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("NARA_MESH_PROGRAM", str(ROOT / "target/debug/nara-mesh"))


@dataclass
class Mesh:
    folder: Path

    @property
    def alice(self) -> Path:
        return self.folder / "alice/nara.sock"

    @property
    def bob(self) -> Path:
        return self.folder / "bob/nara.sock"


def soul(folder: Path, name: str) -> dict[str, Any]:
    command = [PROGRAM, "id", "new", "--json", "--name", name, "--out", f"{name}.soul"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, env={})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def serve(folder: Path, name: str) -> tuple[subprocess.Popen[str], str]:
    command = [PROGRAM, "serve", "--json", "--listen", "127.0.0.1:0", "--peers", "known.toml"]
    command += ["--soul-file", f"{name}.soul", "--data-dir", name]
    env = {"XDG_RUNTIME_DIR": str(folder / "run")} if name == "bob" else {}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    listening = json.loads(process.stdout.readline())
    return process, listening["stanza"]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "run").mkdir()
    soul(folder, "alice")
    bob = soul(folder, "bob")
    (folder / "known.toml").write_text(f'[[peer]]\nname = "bob"\nkey = "{bob["public_key"]}"\n')
    alice, stanza = serve(folder, "alice")
    (folder / "known.toml").write_text(stanza)
    second, _ = serve(folder, "bob")
    yield Mesh(folder)
    for process in (second, alice):
        process.terminate()
        process.wait()
