"""The site's side: admit, cancel, watch and read generations. Coroutines of one event loop."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wire import events, scripts
from wire.claims import read_events
from wire.events import End, Event, Transcript, id_of
from wire.keys import Keys
from wire.messages import Finished, GenerationState, Look, Request, Seen, Timings, Usage, WorkerState

P = ParamSpec("P")
T = TypeVar("T")

#: A worker that has said nothing for so long is not counted as one.
WORKER_SILENCE_MS = 6_000
MAX_BLOCK_MS = 30_000
#: Events of one generation in one answer of `read`.
READ_COUNT = 512
LOOK_SECONDS = 30
LOOK_PAUSE_SECONDS = 0.1
MAX_LOOKS = 20


class UnavailableError(ConnectionError):
    """Redis cannot be reached, or is still starting. Whatever was asked may or may not have happened: ask again."""


@dataclass(frozen=True)
class Limits:
    """What one user and all together may have."""

    waiting: int = 200
    active_per_user: int = 4
    """Queued or running. Two models that answer side by side are two."""
    per_minute: int = 60


@dataclass(frozen=True)
class Accepted:
    """In the queue."""

    gid: str
    position: int
    """From 1; 0: not waiting any more."""
    of: int
    existing: bool
    """This user's client asked for it before."""


@dataclass(frozen=True)
class Busy:
    """Not taken."""

    reason: Literal["queue", "user", "rate"]
    retry_after: float
    """Seconds."""


@dataclass(frozen=True)
class Place:
    """Where a waiting generation stands."""

    position: int
    of: int
    eta_seconds: float | None
    """Until a worker begins; None if there is no worker, or no answer has been timed yet."""
    workers: int


@dataclass(frozen=True)
class Replay:
    """What a generation's stream still holds."""

    gap: bool
    """The stream is gone: what the reader lacks is not in here."""
    items: Sequence[tuple[str, Event]]
    """The events after the reader's cursor. A snapshot among them replaces the text before it."""
    text: str
    """All text so far."""
    last: str
    """The id of the last event."""
    ended: bool


def _reachable(
    call: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn the ways in which Redis can be away into one error."""

    @wraps(call)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise UnavailableError(
                f"Redis cannot be reached ({error}); is it running, and is REDIS_URL right?"
            ) from error

    return guarded


class PredictionService:
    """Everything that the site may ask.

    Args:
        url: of Redis.
        prefix: which chat on that Redis.
    """

    def __init__(self, url: str, prefix: str = "c", limits: Limits | None = None) -> None:
        self.keys = Keys(prefix)
        self.limits = limits or Limits()
        self.process = uuid.uuid4().hex
        """Name of this process, for `wake`."""
        # RESP2, since RESP3 has other shapes for streams; no retries out of sight; and pools of its own: a read that
        # blocks must never keep a command waiting.
        common: dict[str, Any] = {"protocol": 2, "decode_responses": True, "retry": Retry(NoBackoff(), 0)}
        self._commands = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url, max_connections=16, timeout=5, socket_timeout=5.0, socket_connect_timeout=5.0, **common
            )
        )
        self._reader = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=2,
                timeout=5,
                socket_timeout=MAX_BLOCK_MS / 1_000 + 5,
                socket_connect_timeout=5.0,
                **common,
            )
        )
        self._woken = "0-0"
        # The time: should Redis lose a generation, and the same be asked for again, its events are newer than before.
        self._first_epoch: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    @_reachable
    async def submit(self, request: Request, client_id: str) -> Accepted | Busy:
        """Take a request into the queue, once: the same user and client id give the same generation for an hour.

        Raises:
            UnavailableError: try again with the same client id; nothing is generated twice.
        """
        keys, limits = self.keys, self.limits
        try:
            kind, what, *numbers = await self._commands.eval(
                scripts.ADMIT, 6,
                keys.idempotency(request.user, client_id), keys.generation(request.gid),
                f"{keys.shared}:act:{request.user}", keys.wait, keys.jobs, keys.pace,
                request.gid, request.user, request.to_json(), keys.shared, scripts.KEEP_MS,
                limits.active_per_user, limits.per_minute, limits.waiting, self._first_epoch(),
            )  # fmt: skip
        except redis.OutOfMemoryError:
            # Those that run are still written to their end; what is new has to wait until they are gone.
            return Busy("queue", 10.0)
        if kind == "busy":
            return Busy(what, max(1.0, int(numbers[0]) / 1_000))
        return Accepted(what, int(numbers[0]), int(numbers[1]), kind == "existing")

    @_reachable
    async def cancel(self, gid: str) -> None:
        """Stop a generation; what is written stays. One that has ended or is unknown is left as it is."""
        usage = Usage(prompt_tokens=None, completion_tokens=0)
        timings = Timings(queued_ms=None, first_token_ms=None, total_ms=None, tokens_per_second=None)
        record = Finished(gid, "cancelled", None, "", (), None, None, None, usage, timings)
        keys = self.keys
        await self._commands.eval(
            scripts.CANCEL, 4, keys.generation(gid), keys.events(gid), keys.wait, keys.done,
            keys.shared, gid, scripts.KEEP_MS, events.to_json(End("cancelled", None, usage, timings)), record.to_json(),
        )  # fmt: skip

    @_reachable
    async def positions(self, gids: Sequence[str]) -> dict[str, Place]:
        """Where generations wait; those that do not are left out."""
        keys = self.keys
        pipe = self._commands.pipeline(transaction=False)
        for gid in gids:
            pipe.zrank(keys.wait, gid)
        pipe.zcard(keys.wait)
        pipe.get(keys.pace)
        *ranks, waiting, pace = await pipe.execute()
        queued = {gid: rank + 1 for gid, rank in zip(gids, ranks, strict=True) if rank is not None}
        workers = await self.workers() if queued else []
        return {
            gid: Place(rank, max(waiting, rank), _eta(rank, pace, workers), len(workers))
            for gid, rank in queued.items()
        }

    @_reachable
    async def state(self, gid: str) -> GenerationState:
        """Where a generation is. `lost`: Redis knows nothing of it (any more).

        A worker that goes on with it puts it back within a second or two after Redis has lost its data, so ask again
        before you believe it.
        """
        state = await self._commands.hget(self.keys.generation(gid), "state")
        return state or "lost"

    @_reachable
    async def read(self, cursors: dict[str, str], block_ms: int) -> list[tuple[str, str, Event]]:
        """Events after each generation's cursor, as (gid, id, event), in order; in one read for all of them.

        Returns when there are some, when `wake` names this process, or after `block_ms` (1 to 30,000). To be called by
        one task of the process, and again at once while it gives events.
        """
        keys = self.keys
        control = keys.control(self.process)
        gids = {keys.events(gid): gid for gid in cursors}
        streams = {keys.events(gid): cursor for gid, cursor in cursors.items()} | {control: self._woken}
        found = await self._reader.xread(streams, count=READ_COUNT, block=min(max(1, block_ms), MAX_BLOCK_MS))
        news = []
        for stream, entries in found:
            if stream == control:
                self._woken = entries[-1][0]
            else:
                news += [(gids[stream], event_id, event) for event_id, event in read_events(entries)]
        return news

    @_reachable
    async def replay(self, gid: str, after: str = events.ORIGIN) -> Replay:
        """What a reader lacks that has seen the event `after`, and the whole text."""
        seen = id_of(after)
        items = read_events(await self._commands.xrange(self.keys.events(gid)))
        whole = Transcript.of(items)
        newer = [(event_id, event) for event_id, event in items if id_of(event_id) > seen]
        return Replay(gap=not items, items=newer, text=whole.text, last=whole.last, ended=whole.end is not None)

    @_reachable
    async def look(self, request: Request, text: str, ended: bool) -> Seen | None:
        """An answer token by token, from whichever worker is first; None if none answers within `LOOK_SECONDS`."""
        look, keys = Look(uuid.uuid4().hex, request, text, ended), self.keys
        pipe = self._commands.pipeline(transaction=False)
        pipe.rpush(keys.looks, look.to_json())
        # Nobody waits for the first of so many any more.
        pipe.ltrim(keys.looks, -MAX_LOOKS, -1)
        pipe.expire(keys.looks, LOOK_SECONDS)
        pipe.xadd(keys.jobs, {"look": look.id}, maxlen=100)
        await pipe.execute()
        end = time.monotonic() + LOOK_SECONDS
        while time.monotonic() < end:
            # Asked again and again: a connection that blocks would be one less for all that cannot wait.
            if found := await self._commands.get(keys.seen(look.id)):
                return Seen.from_json(found)
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
        return None

    @_reachable
    async def workers(self) -> list[WorkerState]:
        """The workers that are alive."""
        pipe = self._commands.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(self.keys.workers, 0, -1, withscores=True)
        (seconds, microseconds), beats = await pipe.execute()
        now = seconds * 1_000 + microseconds / 1_000
        names = [name for name, beat in beats if now - beat < WORKER_SILENCE_MS]
        if not names:
            return []
        states = await self._commands.mget([self.keys.worker(name) for name in names])
        return [WorkerState.from_json(state) for state in states if state]

    @_reachable
    async def wake(self, process: str) -> None:
        """Make the blocked `read` of a process return, so that it can read further generations."""
        pipe = self._commands.pipeline(transaction=False)
        pipe.xadd(self.keys.control(process), {"w": "1"}, maxlen=1, approximate=False)
        pipe.expire(self.keys.control(process), 3_600)
        await pipe.execute()

    async def close(self) -> None:
        """Let go of the connections."""
        closing: list[Awaitable[None]] = [client.aclose() for client in (self._commands, self._reader)]
        await asyncio.gather(*closing)
        for client in (self._commands, self._reader):
            await client.connection_pool.disconnect()


def _eta(position: int, pace: str | None, workers: Sequence[WorkerState]) -> float | None:
    """Seconds until a worker begins with what stands there."""
    batch = sum(worker.batch for worker in workers)
    if batch == 0:
        return None
    ahead = position - sum(max(0, worker.batch - worker.active) for worker in workers)
    if ahead <= 0:
        return 0.0
    # The batches go round once in the time of an answer.
    return None if pace is None else round(math.ceil(ahead) / batch * float(pace) / 1_000, 1)
