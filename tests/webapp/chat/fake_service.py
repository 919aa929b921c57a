"""The prediction service in memory: what a test makes happen in the world, every site in this process sees."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from wire.events import ORIGIN, Delta, End, Event, Start, Transcript, id_of
from wire.messages import Request, Seen, Timings, Usage, WorkerState
from wire.service import Accepted, Busy, Place, Replay, UnavailableError

WORKER = WorkerState(
    name="worker",
    engine="transformers",
    model="klepon-demo",
    adapter_sha="d278354a3f34c897",
    batch=8,
    active=0,
    tokens_per_second=50.0,
)


@dataclass
class Generation:
    request: Request
    state: str = "queued"
    events: list[tuple[str, Event]] = field(default_factory=list)
    epoch: int = 1


class World:
    def __init__(self) -> None:
        self.readers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self.reset()

    def reset(self) -> None:
        self.generations: dict[str, Generation] = {}
        self.asked: dict[tuple[str, str], str] = {}
        self.workers = [WORKER]
        self.busy: list[Busy | None] = []
        self.online = True
        self.say: Callable[[Request], str] | None = None
        self.pause = 0.0
        self.seen: Seen | None = None
        self.looked: tuple[Request, str, bool] | None = None

    @property
    def requests(self) -> list[Request]:
        return [generation.request for generation in self.generations.values()]

    def write(self, gid: str, *events: Event) -> None:
        generation = self.generations[gid]
        for event in events:
            generation.events.append((f"{generation.epoch}-{len(generation.events) + 1}", event))
            generation.state = "ended" if isinstance(event, End) else "running"
        self.stir()

    def start(self, gid: str) -> None:
        request = self.generations[gid].request
        sha = WORKER.adapter_sha if request.target == "adapter" else None
        self.write(gid, Start("worker", "klepon-demo", sha, request.seed, 12, request.target))

    def tell(self, gid: str, *texts: str) -> None:
        self.write(gid, *(Delta(text, (1,)) for text in texts))

    def end(self, gid: str, finish: str = "stop", reason: str | None = None) -> None:
        count = sum(isinstance(event, Delta) for _, event in self.generations[gid].events)
        self.write(
            gid,
            End(
                finish,
                reason,
                Usage(prompt_tokens=12, completion_tokens=count),
                Timings(queued_ms=3.0, first_token_ms=40.0, total_ms=900.0, tokens_per_second=48.5),
            ),
        )

    def answer(self, gid: str, text: str) -> None:
        self.start(gid)
        self.tell(gid, *text.split(" ")[:1], *(f" {word}" for word in text.split(" ")[1:]))
        self.end(gid)

    def stir(self) -> None:
        for loop, event in list(self.readers):
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)


world = World()


class FakeService:
    def __init__(self, url: str) -> None:
        self.process = "here"
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        world.readers.add((asyncio.get_running_loop(), self._news))

    async def submit(self, request: Request, client_id: str) -> Accepted | Busy:
        self._reach()
        known = world.asked.get((request.user, client_id))
        if known:
            return Accepted(known, 0, 0, True)
        if world.busy and (busy := world.busy.pop(0)):
            return busy
        world.asked[request.user, client_id] = request.gid
        world.generations[request.gid] = Generation(request)
        if world.say:
            task = asyncio.create_task(self._speak(request, world.say(request)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting = [gid for gid, one in world.generations.items() if one.state == "queued"]
        return Accepted(request.gid, len(waiting), len(waiting), False)

    async def _speak(self, request: Request, text: str) -> None:
        gid = request.gid
        await asyncio.sleep(world.pause)
        if world.generations[gid].state == "ended":
            return
        world.start(gid)
        for number, word in enumerate(text.split(" ")):
            await asyncio.sleep(world.pause)
            if world.generations[gid].state == "ended":
                return
            world.tell(gid, word if number == 0 else f" {word}")
        world.end(gid)

    async def cancel(self, gid: str) -> None:
        self._reach()
        generation = world.generations.get(gid)
        if generation and generation.state != "ended":
            world.end(gid, "cancelled")

    async def positions(self, gids: list[str]) -> dict[str, Place]:
        self._reach()
        waiting = [one for one, generation in world.generations.items() if generation.state == "queued"]
        return {
            gid: Place(waiting.index(gid) + 1, len(waiting), 2.0 if world.workers else None, len(world.workers))
            for gid in gids
            if gid in waiting
        }

    async def state(self, gid: str) -> str:
        self._reach()
        return world.generations[gid].state if gid in world.generations else "lost"

    async def read(self, cursors: dict[str, str], block_ms: int) -> list[tuple[str, str, Event]]:
        deadline = asyncio.get_running_loop().time() + block_ms / 1_000
        while True:
            self._reach()
            self._news.clear()
            items = [
                (gid, event_id, event)
                for gid, cursor in cursors.items()
                if gid in world.generations
                for event_id, event in world.generations[gid].events
                if id_of(event_id) > id_of(cursor)
            ]
            if items:
                return items
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return []
            if getattr(self, "_woken", False):
                self._woken = False
                return []

    async def replay(self, gid: str, after: str = ORIGIN) -> Replay:
        self._reach()
        events = world.generations[gid].events if gid in world.generations else []
        whole = Transcript.of(events)
        newer = [item for item in events if id_of(item[0]) > id_of(after)]
        return Replay(not events, newer, whole.text, whole.last, whole.end is not None)

    async def look(self, request: Request, text: str, ended: bool) -> Seen | None:
        self._reach()
        world.looked = (request, text, ended)
        return world.seen

    async def workers(self) -> list[WorkerState]:
        self._reach()
        return list(world.workers)

    async def wake(self, process: str) -> None:
        assert process == self.process
        self._woken = True
        self._news.set()

    async def close(self) -> None:
        world.readers.discard((asyncio.get_running_loop(), self._news))

    def _reach(self) -> None:
        if not world.online:
            raise UnavailableError("Redis cannot be reached")
