"""Starts the chat app's processes, keeps them running, and ends them in order.

The supervisor listens on the site's port and hands the socket on: while the site is started again, browsers that
connect wait instead of being turned away.
"""

import asyncio
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lib import lock
from serve import checks, redis_server
from serve.children import Child, Kept, Running
from serve.settings import WEBAPP, Settings, shown

#: The site first, so that its sockets close while all else is well; Redis last, when nobody writes any more.
ENDS = ("site", "worker", "finalizer", "redis")
#: Run to their end before the site is started.
FIRST = ("migrate", "static")
FILES = 65_536
#: A worker that ends with this status has said why it cannot run as it is set up.
REFUSAL = 2
COLOURS = {"site": 36, "worker": 32, "finalizer": 35, "redis": 33, "chat": 1}

Commands = dict[str, list[str]]


class CannotRunError(RuntimeError):
    """The chat app cannot run; the message says why and what to do."""


def commands(descriptor: int) -> Commands:
    """The command line of every process but Redis, the site's with the socket that it listens on."""
    python, manage = sys.executable, [sys.executable, str(WEBAPP / "manage.py")]
    limits = ["--ws-max-size", "65536", "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "5"]
    quiet = ["--log-level", "warning", "--no-access-log", "--no-server-header"]
    return {
        "migrate": [*manage, "migrate", "--no-input", "--verbosity", "0"],
        "static": [*manage, "collectstatic", "--no-input", "--verbosity", "0"],
        "worker": [python, "-m", "worker"],
        "finalizer": [*manage, "finalize"],
        "site": [python, "-m", "uvicorn", "klepon.asgi:application", "--fd", str(descriptor), *limits, *quiet],
    }


def say(name: str, line: str) -> None:
    """A line of a process, with its name; in colour where somebody looks."""
    label = f"{name:>9} |"
    if sys.stdout.isatty():
        label = f"\033[{COLOURS.get(name.partition('-')[0], 37)}m{label}\033[0m"
    # The reader may be gone, which is no reason to leave all else in disorder.
    with contextlib.suppress(OSError):
        print(f"{label} {line}", flush=True)


async def serve(settings: Settings, commands: Callable[[int], Commands] = commands) -> None:
    """Run the chat app until a signal ends it.

    Raises:
        CannotRunError: if it cannot start.
    """
    for check in (checks.address, checks.adapter, checks.state, checks.redis, checks.port):
        finding = check(settings)
        if finding.cure:
            raise CannotRunError(finding.sentence)
    # A site has more sockets open than most systems let a program have unless it asks.
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(most, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, wanted), most))
    ends = asyncio.Event()
    loop = asyncio.get_running_loop()
    with _held(settings.state) as lock, checks.listen(settings) as listener:
        listener.set_inheritable(True)
        guard = subprocess.Popen(
            [sys.executable, "-m", "serve.guard"],
            env=settings.environment(""),
            stdin=subprocess.PIPE,
            pass_fds=[lock],
            process_group=0,
        )
        app = _App(settings, commands(listener.fileno()), listener.fileno(), guard.pid)

        def end() -> None:
            if ends.is_set():
                app.kill()
            else:
                say("chat", "stopping; Ctrl-C again stops it at once")
                ends.set()

        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(name, end)
        starting = asyncio.create_task(app.start())
        waiting = asyncio.create_task(ends.wait())
        try:
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await waiting
        finally:
            ends.set()
            waiting.cancel()
            starting.cancel()
            await asyncio.wait({starting})
            listener.close()
            await app.end()
            assert guard.stdin is not None
            guard.stdin.close()
            await asyncio.to_thread(guard.wait)


class _App:
    def __init__(self, settings: Settings, commands: Commands, descriptor: int, group: int) -> None:
        self._settings, self._commands, self._descriptor, self._group = settings, commands, descriptor, group
        self._kept: list[Kept] = []
        self._socket: Path | None = None
        self._environment: dict[str, str] = {}

    async def start(self) -> None:
        """Start everything; returns when the site answers and a worker is there."""
        self._environment = self._settings.environment(await self._redis())
        numbers = range(1, self._settings.workers + 1)
        for name in ["worker"] if len(numbers) == 1 else [f"worker-{n}" for n in numbers]:
            self._keep("worker", name=name, patience=25, refusal=REFUSAL)
        workers = [kept for kept in self._kept if kept.child.role == "worker"]
        refusals = [asyncio.create_task(kept.refused.wait()) for kept in workers]
        rest = asyncio.create_task(self._rest())
        try:
            await asyncio.wait([rest, *refusals], return_when=asyncio.FIRST_COMPLETED)
            if not rest.done():
                for kept in workers:
                    kept.give_up()
                raise CannotRunError("the worker cannot run as it is set up: see above")
            rest.result()
        finally:
            for task in (rest, *refusals):
                task.cancel()
            await asyncio.wait([rest])

    async def _rest(self) -> None:
        """All but Redis and the workers; returns when the site says that a worker is there too."""
        statuses = await asyncio.gather(*map(self._once, FIRST))
        failed = [name for name, status in zip(FIRST, statuses, strict=True) if status]
        if failed:
            raise CannotRunError(f"{' and '.join(failed)} failed on {shown(self._settings.state)}: see above")
        self._keep("finalizer")
        self._keep("site", descriptors=(self._descriptor,))
        while not await self._answers():
            await asyncio.sleep(0.5)
        say("chat", f"{self._settings.address} is ready; Ctrl-C stops it")

    async def end(self) -> None:
        """End what was started, each role when those before it are gone."""
        for role in ENDS:
            await asyncio.gather(*(kept.end() for kept in self._kept if kept.child.role == role))
        if self._socket:
            # Redis removes it, unless it had to be killed.
            self._socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """End everything at once."""
        for kept in self._kept:
            kept.give_up()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)

    async def _redis(self) -> str:
        """The URL of a Redis that takes connections, started if none is named."""
        if self._settings.redis_url:
            return self._settings.redis_url
        program, data = redis_server.find(), self._settings.state / "redis"
        data.mkdir(exist_ok=True, mode=0o700)
        server = redis_server.plan(data)
        self._socket = server.socket
        child = Child("redis", [str(program.path), "-"], dict(os.environ), server.config, redis_server.READY)
        kept = Kept(child, self._group, _only_warnings)
        self._kept.append(kept)
        waits = {asyncio.create_task(event.wait()) for event in (kept.ready, kept.died)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if kept.died.is_set():
            raise CannotRunError(f"{program} does not start on {shown(data)}: see above")
        return server.url

    def _keep(self, role: str, name: str = "", **more: Any) -> None:
        child = Child(name or role, self._commands[role], self._environment, **more)
        self._kept.append(Kept(child, self._group, say))

    async def _once(self, role: str) -> int:
        child = Child(role, self._commands[role], self._environment)
        return await (await Running.start(child, self._group, say)).wait()

    async def _answers(self) -> bool:
        """Whether /readyz says that all is there. The connection waits for the site as a browser's would."""
        with contextlib.suppress(OSError, IndexError):
            async with asyncio.timeout(10):
                return await self._status() == b"200"
        return False

    async def _status(self) -> bytes:
        reader, writer = await asyncio.open_connection(self._settings.near, self._settings.port)
        try:
            host = self._settings.address.removeprefix("http://")
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return (await reader.readline()).split()[1]
        finally:
            writer.close()


def _only_warnings(name: str, line: str) -> None:
    """Redis marks each line's level: `.`, `-`, `*` or `#`, the last for what somebody should know, and some more."""
    # Its farewell is no news, and its advice on overcommitting memory matters to much larger data.
    if not re.match(r"\d+:\w .{20,24} [.*-] |.*(scheduling shutdown|ready to exit|overcommit)", line):
        say(name, line)


@contextlib.contextmanager
def _held(state: Path) -> Iterator[int]:
    """Lock the folder for this app alone; the descriptor of the lock. A process that inherits it holds the lock too."""
    descriptor = os.open(state, os.O_RDONLY)
    try:
        if not lock.take(descriptor):
            raise CannotRunError(
                f"another chat app is running on {shown(state)}; stop it, or use another RUN or KLEPON_CHAT"
            )
        yield descriptor
    finally:
        os.close(descriptor)
