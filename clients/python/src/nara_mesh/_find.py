from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

from ._errors import NoNara


def find_socket(name: str | None = None) -> Path:
    """Returns the socket of the running nara of this user: the one with this name, NARA_MESH_SOCKET, or the only one."""
    chosen = os.environ.get("NARA_MESH_SOCKET")
    if chosen and not name:
        return Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime is None:
        raise NoNara("XDG_RUNTIME_DIR is not set: pass the socket of the nara, or set NARA_MESH_SOCKET")
    folder = Path(runtime) / "nara-mesh"
    found = [folder / f"{quote(name, safe='-_~')}.sock"] if name else sorted(folder.glob("*.sock"))
    running = [path for path in found if _is_served(path)]
    if not running:
        raise NoNara(f"no nara runs in {folder}: start one with `nara-mesh up` or `nara-mesh serve`")
    if len(running) > 1:
        names = ", ".join(path.stem for path in running)
        raise NoNara(f"several naras run: {names}: pass a name, or set NARA_MESH_SOCKET")
    return running[0]


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            stream.connect(str(path))
        except OSError:
            return False
        return True
