"""Processes that are started again when they die, and that end when they are told to."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before the first new start; each further one waits twice as long, up to the longest."""
HEALTHY = 10.0
"""Seconds after which a child that dies counts as one that had been well."""

Log = Callable[[str, str], None]
"""Takes the name of a child and a line."""


@dataclass(frozen=True)
class Child:
    """A process to run."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    given: bytes = b""
    """Its standard input; at most what a pipe holds."""
    ready: bytes = b""
    """Words of its output that tell that it is ready."""
    patience: float = 10.0
    """Seconds that it may take to end before it is killed."""
    descriptors: tuple[int, ...] = ()
    """Open files that it inherits."""
    refusal: int = 0
    """The exit status by which it says that it cannot run as it is set up, if it has one."""

    @property
    def role(self) -> str:
        """The name without the number."""
        return self.name.partition("-")[0]


class Running:
    """A child's process. Its output goes to the log line by line."""

    def __init__(self, child: Child, process: asyncio.subprocess.Process, output: int, log: Log) -> None:
        self.ready = asyncio.Event()
        self._child, self._process, self._log = child, process, log
        self._relaying = asyncio.create_task(self._relay(output))
        self._ended = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, child: Child, group: int, log: Log) -> "Running":
        """Start a child in a process group.

        Raises:
            OSError: if its program cannot be run.
        """
        # Pipes of our own: a grandchild that keeps one open does not keep the child's end from being noticed.
        given, giving = os.pipe()
        reading, writing = os.pipe()
        os.write(giving, child.given)
        os.close(giving)
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                env=child.environment,
                stdin=given,
                stdout=writing,
                stderr=writing,
                pass_fds=child.descriptors,
                process_group=group,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(given)
            os.close(writing)
        return cls(child, process, reading, log)

    async def wait(self) -> int:
        """The exit status, negative for a signal; by then the log has the last line."""
        return await asyncio.shield(self._ended)

    async def end(self) -> None:
        """Ask it to end, and kill it if it will not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        done, _ = await asyncio.wait({self._ended}, timeout=self._child.patience)
        if not done:
            self._log(self._child.name, f"did not stop within {self._child.patience:g} s and was killed")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._ended

    async def _wait(self) -> int:
        status = await self._process.wait()
        await asyncio.wait({self._relaying}, timeout=1)
        self._relaying.cancel()
        return status

    async def _relay(self, output: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        rest = b""
        try:
            while chunk := await reader.read(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > 2**16:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._pass_on(line)
            if rest:
                self._pass_on(rest)
        finally:
            transport.close()

    def _pass_on(self, line: bytes) -> None:
        if self._child.ready and self._child.ready in line:
            self.ready.set()
        # Of a progress bar, only the last state.
        self._log(self._child.name, line.decode(errors="replace").rstrip().rpartition("\r")[2])


class Kept:
    """A child that is started again whenever it dies, until `end`."""

    def __init__(self, child: Child, group: int, log: Log) -> None:
        self.child = child
        self.ready, self.died, self.refused = asyncio.Event(), asyncio.Event(), asyncio.Event()
        """That it was ready once; that it died once; that it ended with its refusal."""
        self._group, self._log = group, log
        self._ending = asyncio.Event()
        self._running: Running | None = None
        self._keeping = asyncio.create_task(self._keep())

    def give_up(self) -> None:
        """Do not start it again."""
        self._ending.set()

    async def end(self) -> None:
        """End it for good."""
        self.give_up()
        if self._running:
            await self._running.end()
        await self._keeping

    async def _keep(self) -> None:
        deaths = 0
        while not self._ending.is_set():
            began = time.monotonic()
            status, how = await self._live()
            self._running = None
            if self._ending.is_set():
                return
            self.died.set()
            if status and status == self.child.refusal:
                self.refused.set()
            deaths = 0 if time.monotonic() - began >= HEALTHY else deaths
            delay = min(FIRST_DELAY * 2**deaths, LONGEST_DELAY)
            deaths += 1
            # While all is starting, a refusal ends everything.
            self._log(self.child.name, how if self.refused.is_set() else f"{how}; restarting in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), delay)

    async def _live(self) -> tuple[int | None, str]:
        """One life; returns its exit status and how it ended."""
        try:
            self._running = await Running.start(self.child, self._group, self._log)
        except OSError as error:
            return None, f"cannot be started ({error})"
        if self._ending.is_set():
            # Asked to end while it was starting.
            await self._running.end()
        watch = asyncio.create_task(self._running.ready.wait())
        watch.add_done_callback(lambda task: None if task.cancelled() else self.ready.set())
        status = await self._running.wait()
        watch.cancel()
        return status, ending(status)


def ending(status: int) -> str:
    """An exit status in words."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
