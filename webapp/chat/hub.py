"""One reader of events per process, for all its sockets.

The hub tails the event streams of the generations that sockets follow with one blocking read, and keeps the latest
events of each in a ring. A socket keeps nothing but a cursor per generation, and takes from the ring what it lacks in
one go when it can send again: so a slow client costs a cursor and not a queue, and what it gets is never stale.
"""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from django.conf import settings
from django.utils.module_loading import import_string
from wire.events import ORIGIN, End, Event, id_of
from wire.messages import WorkerState
from wire.service import Place, PredictionService, UnavailableError

log = logging.getLogger(__name__)

RING = 1024
BLOCK_MS = 5_000
LOOK_SECONDS = 1.0
"""How often places in the queue and the workers are asked for."""
PLACES_AT_ONCE = 10
"""How many generations are told their place at a time; these batches are spread over the time between two looks."""
QUIET_SECONDS = 3.0
"""A generation that neither waits nor says anything for so long is asked about; found missing twice, it is lost."""


class Listener(Protocol):
    """What follows generations: one for each socket."""

    def stir(self, gid: str) -> None:
        """There is news of a generation, in its ring."""

    def stir_status(self) -> None:
        """There is news of the workers or of Redis."""


@dataclass
class Ring:
    """The latest events of a generation, all of those after `start`."""

    start: str
    last: str
    events: deque[tuple[str, Event]] = field(default_factory=deque)
    listeners: set[Listener] = field(default_factory=set)
    ended: bool = False
    lost: bool = False
    place: Place | None = None
    """In the queue, until the first event."""
    heard: float = 0.0
    doubts: int = 0

    def append(self, event_id: str, event: Event) -> None:
        """One more event; one that is not later than the last is an echo."""
        if id_of(event_id) <= id_of(self.last):
            return
        self.events.append((event_id, event))
        self.last = event_id
        self.ended = isinstance(event, End)
        self.place = None
        if len(self.events) > RING:
            self.start = self.events.popleft()[0]

    def may_wait(self) -> bool:
        """Nothing is known but that it was asked for."""
        return not (self.events or self.ended or self.lost) and self.start == ORIGIN

    def after(self, cursor: str) -> list[tuple[str, Event]] | None:
        """The events after a cursor; None if the ring does not go back that far."""
        at = id_of(cursor)
        if at < id_of(self.start):
            return None
        return [item for item in self.events if id_of(item[0]) > at]


@dataclass(frozen=True)
class Status:
    """Whether Redis answers, and which workers there are."""

    online: bool = True
    workers: tuple[WorkerState, ...] | None = None
    """None: not known yet."""


class Hub:
    """The events of one process. Lives in one event loop."""

    def __init__(self, service: PredictionService):
        self.service = service
        self.status = Status()
        self.listeners: set[Listener] = set()
        """Every socket, whether it follows a generation or not."""
        self._rings: dict[str, Ring] = {}
        self._news = asyncio.Event()
        self._blocked = False
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def here() -> "Hub":
        """The hub of the running event loop, made on first use."""
        loop = asyncio.get_running_loop()
        if loop not in _hubs:
            _hubs[loop] = Hub(import_string(settings.PREDICTION_SERVICE)(settings.REDIS_URL))
        return _hubs[loop]

    def join(self, listener: Listener) -> None:
        """A socket opened."""
        self.listeners.add(listener)
        self._begin()

    def quit(self, listener: Listener) -> None:
        """A socket closed; the generations that it followed go on."""
        self.listeners.discard(listener)
        for gid, ring in list(self._rings.items()):
            ring.listeners.discard(listener)
            if not ring.listeners:
                del self._rings[gid]

    def ring(self, gid: str) -> Ring | None:
        """What is there of a generation that somebody follows."""
        return self._rings.get(gid)

    async def follow(self, gid: str, cursor: str, listener: Listener) -> None:
        """Tell a listener of all events of a generation that come after `cursor`."""
        self._begin()
        new = gid not in self._rings
        if new:
            self._rings[gid] = Ring(start=cursor, last=cursor, heard=asyncio.get_running_loop().time())
        # Before any await: a listener that quits meanwhile removes the rings that nobody listens to.
        self._rings[gid].listeners.add(listener)
        if new:
            self._news.set()
            if self._blocked:
                await self.service.wake(self.service.process)
        listener.stir(gid)

    def leave(self, gid: str, listener: Listener) -> None:
        """A listener has heard the end of a generation."""
        if ring := self._rings.get(gid):
            ring.listeners.discard(listener)
            if not ring.listeners:
                del self._rings[gid]

    async def close(self) -> None:
        """End the reading, and the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.service.close()

    def _begin(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._tail()), asyncio.create_task(self._look())]

    async def _tail(self) -> None:
        while True:
            self._news.clear()
            asked = {gid: ring for gid, ring in self._rings.items() if not ring.ended and not ring.lost}
            if not asked:
                await self._news.wait()
                continue
            self._blocked = True
            try:
                items = await self.service.read({gid: ring.last for gid, ring in asked.items()}, BLOCK_MS)
            except UnavailableError as error:
                await self._failed(error)
                continue
            except Exception as error:  # not only what is expected: the reading must go on
                if not await self._gave_up(asked):
                    await self._failed(error)
                continue
            finally:
                self._blocked = False
            self._reached()
            now = asyncio.get_running_loop().time()
            for gid, event_id, event in items:
                ring = asked[gid]
                # A page that came back with an older cursor, after a cut, began another ring during this read.
                if self._rings.get(gid) is ring:
                    ring.append(event_id, event)
                    ring.heard, ring.doubts = now, 0
                    for listener in ring.listeners:
                        listener.stir(gid)

    async def _gave_up(self, asked: dict[str, Ring]) -> bool:
        """Call those lost that cannot be read, which would keep all others from it; whether there were any."""
        gave_up = False
        with contextlib.suppress(Exception):
            # Where not even this can be read, it is none of them.
            await self.service.read({}, 1)
            for gid, ring in asked.items():
                try:
                    # What is found comes again, since the ring does not take it.
                    await self.service.read({gid: ring.last}, 1)
                except UnavailableError:
                    raise
                except Exception as error:
                    log.warning("answer %s cannot be read: %s: %s", gid, type(error).__name__, error)
                    gave_up = ring.lost = True
                    for listener in ring.listeners:
                        listener.stir(gid)
        return gave_up

    async def _look(self) -> None:
        while True:
            try:
                if self.listeners:
                    workers = tuple(await self.service.workers())
                    self._reached(workers)
                    # In one call: one by one they would keep the event loop from everything else.
                    waiting = [gid for gid, ring in self._rings.items() if ring.may_wait()]
                    places = await self.service.positions(waiting) if waiting else {}
                    rings = list(self._rings.items())
                    for start in range(0, len(rings), PLACES_AT_ONCE):
                        some = rings[start : start + PLACES_AT_ONCE]
                        await asyncio.gather(*(self._place(gid, ring, places.get(gid)) for gid, ring in some))
                        # Hundreds told at once would delay the next question.
                        if start + PLACES_AT_ONCE < len(rings):
                            await asyncio.sleep(LOOK_SECONDS * PLACES_AT_ONCE / len(rings))
            except Exception as error:  # as above
                await self._failed(error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _place(self, gid: str, ring: Ring, place: Place | None) -> None:
        if ring.ended or ring.lost:
            return
        now = asyncio.get_running_loop().time()
        if place is not None:
            ring.heard = now
        elif now - ring.heard > QUIET_SECONDS:
            ring.heard = now
            # A worker that is alive puts back what Redis lost, so one look proves nothing.
            ring.doubts = ring.doubts + 1 if await self.service.state(gid) == "lost" else 0
            ring.lost = ring.doubts > 1
        # An event may have come while this waited.
        if (place != ring.place and not ring.events) or ring.lost:
            ring.place = place
            for listener in ring.listeners:
                listener.stir(gid)

    def _reached(self, workers: tuple[WorkerState, ...] | None = None) -> None:
        self._tell(Status(True, self.status.workers if workers is None else workers))

    async def _failed(self, error: Exception) -> None:
        if self.status.online:
            log.warning("the prediction service is not responding: %s: %s", type(error).__name__, error)
        self._tell(Status(False, self.status.workers))
        await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, status: Status) -> None:
        # Speeds and batches change all the time; who is there is what people are told.
        changed = (status.online, _names(status)) != (self.status.online, _names(self.status))
        self.status = status
        if changed:
            for listener in self.listeners:
                listener.stir_status()


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI lifespan: on the way out the hub is closed."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            with contextlib.suppress(KeyError):
                await _hubs.pop(asyncio.get_running_loop()).close()
            return


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def _names(status: Status) -> Any:
    if status.workers is None:
        return None
    return sorted(
        (worker.model, worker.adapter_sha or "", [(one.name, one.sha, one.scores) for one in worker.adapters])
        for worker in status.workers
    )
