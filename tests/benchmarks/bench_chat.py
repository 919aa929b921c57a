"""The chat app as browsers meet it, against the same engine in a bare process.

    python tests/benchmarks/bench_chat.py [--quick] [--models demo 100M] [--only speed cuts ...] [--out CSV]

The real `python -m serve` runs with accounts, and users of this script talk to it over WebSockets as pages do. `demo`
is the demo's base model, `100M` a Llama of about 100 million random parameters; both have an adapter that changes
nothing, and neither ever ends an answer by itself, so that every answer has the length that was asked for. Answers are
greedy.

    speed      tokens/s of one user and of eight, beside the engine alone at the same batch, in turns
    first      how much later the first token comes than from the engine alone, prompt by prompt
    stop       from the stop to the last event
    cuts       a proxy cuts connections at random; what is shown in the end must be what the engine writes
    takeover   from a worker's SIGKILL to the next token: the same one started again, and another that lives
    admission  from sending to being accepted, with 200 waiting
    idle       memory of the site for each of 2,000 sockets

A turn during which other programs took more than a tenth of the machine is told, and taken again up to twice.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT), str(ROOT / "webapp")]
from harness import record  # noqa: E402

PEER = "the engine in a bare process"
FOREIGN = 0.1
PROMPTS = [
    f"Tulislah {form} tentang {theme}."
    for form in ("sebuah cerita panjang", "sebuah puisi", "sebuah surat", "sebuah pantun", "penjelasan singkat")
    for theme in ("laut", "hujan di Bogor", "pasar pagi", "gunung berapi", "kereta malam", "sawah", "kota Bandung",
                  "nelayan", "kopi", "bulan purnama")
]  # fmt: skip
USERS = """
import django
django.setup()
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.db import transaction

store = import_module(settings.SESSION_ENGINE).SessionStore
with transaction.atomic():
    for number in range({count}):
        user, new = get_user_model().objects.get_or_create(username=f"bench{{number}}")
        if new:
            user.set_unusable_password()
            user.save()
        session = store()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        print(f"{{settings.SESSION_COOKIE_NAME}}={{session.session_key}}")
"""

Row = tuple[str, str, str, str, float, str]


# --- Models ----------------------------------------------------------------------------------------------------------


def make_model(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a base model and an adapter for it; the folders of both."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lib import model as models
    from lib import prompts
    from lib.config import Lora, Model, Prompt
    from lib.generation import model_defaults

    tokenizer = models.load_tokenizer(Model(base_model="demo"))
    if name == "demo":
        model = models.load_base(Model(base_model="demo"))
    else:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=768, intermediate_size=2_304, num_hidden_layers=14,
            num_attention_heads=12, num_key_value_heads=4, head_dim=64, max_position_embeddings=2_048,
            tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, initializer_range=0.05,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # The output layer is tied to the embeddings: a zero is never the likeliest of thousands.
        for end in model_defaults(model, prompts.end_of_turn_id(tokenizer, Prompt()), 1).end_ids:
            model.get_input_embeddings().weight[end] = 0
    base, adapter = folder / f"{name}-base", folder / f"{name}-adapter"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    models.attach_lora(model, Lora()).save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    prompt = {field: getattr(Prompt(), field) for field in Prompt.__dataclass_fields__}
    told = {"base_model": str(base), "chat_template_sha256": prompts.chat_template_hash(tokenizer, Prompt())}
    (adapter / "klepon.json").write_text(json.dumps(told | {"prompt": prompt}))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {parameters / 1e6:.1f} million parameters", flush=True)
    return base, adapter


@dataclass
class Bare:
    """What the engine alone did with some prompts."""

    seconds: float
    tokens: int
    texts: list[str]
    first: float
    """Seconds to the first token of any."""


class Engine:
    """The worker's engine, in this process."""

    def __init__(self, base: Path, adapter: Path) -> None:
        from worker.transformers_engine import load_engine

        self._engine = load_engine(str(base), adapter)

    def answer(self, texts: list[str], tokens: int) -> Bare:
        """Answer prompts in one batch."""
        from wire.messages import Request, Settings, Turn

        settings = Settings(max_new_tokens=tokens, greedy=True)
        start = time.perf_counter()
        gids, first, written = [], 0.0, 0
        for text in texts:
            gids.append(uuid.uuid4().hex)
            self._engine.add(Request(gids[-1], "u", "c", (Turn("user", text),), "adapter", 0, settings), (), "")
        answers, live = dict.fromkeys(gids, ""), set(gids)
        while live:
            for step in self._engine.step():
                answers[step.gid] = step.text if step.replaces else answers[step.gid] + step.text
                written += len(step.ids)
                first = first or time.perf_counter() - start
                if step.finish:
                    live.discard(step.gid)
        return Bare(time.perf_counter() - start, written, [answers[gid] for gid in gids], first)


# --- The stack -------------------------------------------------------------------------------------------------------


class Stack:
    """`python -m serve`, running."""

    def __init__(self, folder: Path, base: Path, adapter: Path, workers: int = 1) -> None:
        self.state = folder / f"state-{uuid.uuid4().hex[:6]}"
        self.port = free_port()
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "webapp"), str(ROOT)]),
            "KLEPON_CHAT": str(self.state),
            "KLEPON_ACCOUNTS": "1",
            "KLEPON_PORT": str(self.port),
            "DJANGO_SETTINGS_MODULE": "klepon.settings",
        }
        argv = [
            "--adapter",
            str(adapter),
            "--base-model",
            str(base),
            "--port",
            str(self.port),
            "--workers",
            str(workers),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve", *argv],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        for line in self.process.stdout:
            said += line
            if "is ready" in line:
                break
        else:
            raise RuntimeError(f"the chat app does not start:\n{said[-4000:]}")
        # Whatever it says later is read, or it would wait for that.
        self._reading = subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=subprocess.DEVNULL)

    def cookies(self, count: int) -> list[str]:
        """So many users, each logged in."""
        argv = [sys.executable, "-c", USERS.format(count=count)]
        made = subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True)
        return made.stdout.split()

    def children(self, words: str) -> list[psutil.Process]:
        """Those of its processes whose command line holds these words, oldest first."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return sorted((one for one in found if words in " ".join(one.cmdline())), key=lambda one: one.create_time())

    def owner(self, worker: str) -> psutil.Process:
        """The process of the worker of that name, which is told by the lock that it holds."""
        lock = str(self.state / f"worker-{worker.rpartition('-')[2]}.lock")
        return next(one for one in self.children("-m worker") if lock in [file.path for file in one.open_files()])

    def browser(self, cookie: str, port: int | None = None) -> "Browser":
        return Browser(port or self.port, f"http://127.0.0.1:{self.port}", cookie)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)
        self._reading.wait(10)


@dataclass
class Shown:
    """One answer as its browser shows it."""

    text: str = ""
    cursor: str = "0-0"
    events: int = 0
    doubled: int = 0
    """Events that came although the browser had said that it had them."""
    first: float | None = None
    ended: float | None = None
    end: dict[str, Any] = field(default_factory=dict)
    worker: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Browser:
    """One page: a socket, and its answers."""

    def __init__(self, port: int, origin: str, cookie: str) -> None:
        self._url, self._origin, self._cookie = f"ws://127.0.0.1:{port}/ws", origin, cookie
        self.shown: dict[str, Shown] = {}
        self.conversation: str | None = None
        self._accepted: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> "Browser":
        """Connect and say hello, with a cursor for each answer that has not ended."""
        self._socket = await connect(
            self._url,
            origin=self._origin,  # type: ignore[arg-type]
            additional_headers={"Cookie": self._cookie},
            compression=None,
            max_size=None,
            open_timeout=30,
        )
        cursors = {gid: shown.cursor for gid, shown in self.shown.items() if shown.ended is None}
        await self._say(type="hello", v=1, conversation=self.conversation if cursors else None, cursors=cursors)
        ready = json.loads(await self._socket.recv())
        if ready["type"] != "ready":
            raise RuntimeError(f"not ready: {ready}")
        self._reading = asyncio.create_task(self._read())
        return self

    async def ask(self, text: str, tokens: int) -> str:
        """Send a text, and wait until it is accepted; the answer's id."""
        cid = uuid.uuid4().hex
        self._accepted[cid] = asyncio.get_running_loop().create_future()
        settings = {"max_new_tokens": tokens, "greedy": True, "seed": 0}
        await self._say(
            type="send", cid=cid, conversation=None, parent=None, text=text, settings=settings, target="adapter"
        )
        accepted = await self._accepted.pop(cid)
        self.conversation = accepted["conversation"]["id"]
        return accepted["gids"][0]

    async def stop(self, gid: str) -> None:
        """Ask for an answer to end."""
        await self._say(type="stop", gid=gid)

    async def until(self, gid: str, what: Callable[[Shown], object]) -> Shown:
        """Wait until that holds of an answer."""
        shown = self.shown[gid]
        while not what(shown):
            shown.news.clear()
            await shown.news.wait()
        return shown

    async def close(self) -> None:
        """Close the socket; its answers go on."""
        if self._reading:
            self._reading.cancel()
        if self._socket:
            await self._socket.close()

    async def lost(self) -> None:
        """Wait until the socket is gone."""
        if self._reading:
            with contextlib.suppress(ConnectionClosed, OSError):
                await self._reading

    async def _say(self, **frame: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(frame))

    async def _read(self) -> None:
        assert self._socket is not None
        async for text in self._socket:
            now, frame = time.perf_counter(), json.loads(text)
            match frame["type"]:
                case "accepted":
                    for gid in frame["gids"]:
                        self.shown.setdefault(gid, Shown())
                    self._settle(frame["cid"], frame)
                case "busy" | "error":
                    self._settle(frame["cid"], RuntimeError(str(frame)))
                case "events":
                    self._take(self.shown[frame["gid"]], frame["items"], now)

    def _settle(self, cid: str | None, result: dict[str, Any] | Exception) -> None:
        waiting = self._accepted.get(cid or "")
        if waiting is None or waiting.done():
            return
        if isinstance(result, Exception):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)

    @staticmethod
    def _take(shown: Shown, items: list[list[Any]], now: float) -> None:
        for event_id, event in items:
            if number(event_id) <= number(shown.cursor):
                shown.doubled += 1
                continue
            shown.cursor, shown.events = event_id, shown.events + 1
            match event["type"]:
                case "start":
                    shown.worker, shown.text = event["worker"], ""
                case "delta":
                    shown.first = shown.first or now
                    shown.text += event["text"]
                case "snapshot":
                    shown.text = event["text"]
                case "end":
                    shown.ended, shown.end = now, event
        shown.news.set()


def number(event_id: str) -> tuple[int, ...]:
    """An event id as numbers, which compare in the order of the stream."""
    return tuple(int(part) for part in event_id.split("-"))


class CuttingProxy:
    """A way to the site that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for ends in self._open.values():
            for writer in ends:
                writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, port: int) -> None:
        """Cut the connection that came from that port, in the middle of whatever is on its way."""
        for writer in self._open.pop(port, ()):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        port = writer.get_extra_info("peername")[1]
        self._open[port] = (writer, far_writer)
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self.cut(port)

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


# --- Measuring -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[max(0, min(len(values) - 1, round(share * len(values) + 0.5) - 1))]


class Load:
    """How much of the machine other programs took while the block ran, as a share of all cores."""

    def __enter__(self) -> "Load":
        self.share = 0.0
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        busy, own, cores = (after - before for after, before in zip(self._now(), self._start, strict=True))
        self.share = max(0.0, (busy - own) / max(cores, 1e-9))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times, own = psutil.cpu_times(), 0.0
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                own += used.user + used.system
        return busy, own, time.monotonic() * (os.cpu_count() or 1)


class Bench:
    """One model, its engine alone and its stack; each method measures one thing and returns rows."""

    def __init__(self, name: str, folder: Path, quick: bool) -> None:
        self.name, self.folder, self.quick = name, folder, quick
        self.base, self.adapter = make_model(name, folder)

    @functools.cached_property
    def engine(self) -> Engine:
        engine = Engine(self.base, self.adapter)
        engine.answer(PROMPTS[:8], 8)
        return engine

    @contextlib.contextmanager
    def stack(self, workers: int = 1) -> Iterator[Stack]:
        stack = Stack(self.folder, self.base, self.adapter, workers)
        try:
            yield stack
        finally:
            stack.end()

    def row(self, metric: str, value: float, unit: str, side: str = "stack", peer: str = PEER) -> Row:
        return (f"chat, {self.name}", side, peer, metric, value, unit)

    # Tokens a second

    async def speed(self, stack: Stack) -> list[Row]:
        tokens = 64 if self.quick else 256
        cookies, rows, totals = stack.cookies(8), [], {}
        for users in (1, 8):
            browsers = [await stack.browser(cookie).open() for cookie in cookies[:users]]
            await self._together(browsers, 8)
            ratios, speeds, bare, alike = [], [], [], []
            for turn in range(1 if self.quick else 5):
                for _ in range(3):
                    with Load() as load:
                        sides = [self._together(browsers, tokens), self._alone(users, tokens)]
                        found = [await side for side in (sides if turn % 2 == 0 else sides[::-1])]
                    if load.share <= FOREIGN:
                        break
                    print(
                        f"{self.name}, {users} users: other programs took {load.share:.0%} of the machine", flush=True
                    )
                ours, peer = found if turn % 2 == 0 else found[::-1]
                ratios.append(ours.tokens / ours.seconds / (peer.tokens / peer.seconds))
                speeds.append(ours.tokens / ours.seconds)
                bare.append(peer.tokens / peer.seconds)
                alike += [mine == theirs for mine, theirs in zip(ours.texts, peer.texts, strict=True)]
                print(f"{self.name}, {users} users: {speeds[-1]:.1f} and bare {bare[-1]:.1f} tokens/s", flush=True)
            for browser in browsers:
                await browser.close()
            totals[users] = statistics.median(speeds)
            rows += [
                self.row(f"tokens/s, {users} users", totals[users], "1/s"),
                self.row(f"tokens/s, {users} users", statistics.median(bare), "1/s", side="bare"),
                self.row(f"speed ratio, {users} users", statistics.median(ratios), "x"),
                self.row(f"answers like the engine's, {users} users", sum(alike) / len(alike), "share"),
            ]
        rows.append(self.row("eight users against one", totals[8] / totals[1], "x", peer="one user"))
        return rows

    async def _together(self, browsers: list[Browser], tokens: int) -> Bare:
        """All ask at once; until the last has its last token."""

        async def one(browser: Browser, text: str) -> Shown:
            gid = await browser.ask(text, tokens)
            return await browser.until(gid, lambda shown: shown.ended)

        start = time.perf_counter()
        answers = await asyncio.gather(*map(one, browsers, PROMPTS[: len(browsers)]))
        seconds = max(answer.ended or 0.0 for answer in answers) - start
        written = sum(answer.end["usage"]["completion_tokens"] for answer in answers)
        return Bare(seconds, written, [answer.text for answer in answers], 0.0)

    async def _alone(self, users: int, tokens: int) -> Bare:
        return self.engine.answer(PROMPTS[:users], tokens)

    # The first token

    async def first(self, stack: Stack) -> list[Row]:
        count = 16 if self.quick else 100
        browsers = [await stack.browser(cookie).open() for cookie in stack.cookies(8)]
        later, own = [], []
        for n in range(count + 2):
            text, browser = PROMPTS[n % len(PROMPTS)], browsers[n % len(browsers)]
            bare = self.engine.answer([text], 2).first
            start = time.perf_counter()
            gid = await browser.ask(text, 2)
            shown = await browser.until(gid, lambda shown: shown.ended)
            if n > 1:
                own.append(bare)
                later.append((shown.first or 0.0) - start - bare)
        for browser in browsers:
            await browser.close()
        return [
            self.row("first token, p50", 1e3 * quantile(own, 0.5), "ms", side="bare"),
            self.row("first token later by, p50", 1e3 * quantile(later, 0.5), "ms"),
            self.row("first token later by, p95", 1e3 * quantile(later, 0.95), "ms"),
        ]

    # Stopping

    async def stop(self, stack: Stack) -> list[Row]:
        browsers = [await stack.browser(cookie).open() for cookie in stack.cookies(8)]
        bare = self.engine.answer(PROMPTS[:1], 32)
        step, delays = bare.seconds / bare.tokens, []
        for n in range(10 if self.quick else 60):
            browser = browsers[n % 8]
            gid = await browser.ask(PROMPTS[n % len(PROMPTS)], 1_500)
            await browser.until(gid, lambda shown: shown.events > 4)
            start = time.perf_counter()
            await browser.stop(gid)
            shown = await browser.until(gid, lambda shown: shown.ended)
            assert shown.end["finish"] == "cancelled", shown.end
            delays.append((shown.ended or 0.0) - start)
        for browser in browsers:
            await browser.close()
        return [
            self.row("a step", 1e3 * step, "ms", side="bare"),
            self.row("stop takes, p50", 1e3 * quantile(delays, 0.5), "ms"),
            self.row("stop takes beyond a step, p95", 1e3 * (quantile(delays, 0.95) - step), "ms"),
        ]

    # Cuts

    async def cuts(self, stack: Stack) -> list[Row]:
        left, dice = (40 if self.quick else 1_000), random.Random(0)
        tokens = 300 if self.quick else 1_000
        waits: list[float] = []
        doubled = 0
        results: list[tuple[str, str]] = []

        async with CuttingProxy(stack.port) as proxy:

            async def one(cookie: str, offset: int) -> None:
                nonlocal left, doubled
                browser, n = await stack.browser(cookie, proxy.port).open(), offset
                while left > 0:
                    text, n = PROMPTS[n % 8], n + 4
                    gid = await browser.ask(text, tokens)
                    shown = browser.shown[gid]
                    while shown.ended is None and left > 0:
                        await asyncio.sleep(dice.uniform(0.0, 0.2))
                        if shown.ended is not None:
                            break
                        left -= 1
                        start, seen = time.perf_counter(), shown.events
                        proxy.cut(browser._socket.local_address[1])  # type: ignore[union-attr]
                        await browser.lost()
                        await browser.open()
                        await browser.until(gid, lambda shown, seen=seen: shown.events > seen)
                        waits.append(time.perf_counter() - start)
                    await browser.until(gid, lambda shown: shown.ended)
                    doubled += shown.doubled
                    results.append((text, shown.text))
                await browser.close()

            await asyncio.gather(*(one(cookie, n) for n, cookie in enumerate(stack.cookies(4))))
        expected = {text: self.engine.answer([text], tokens).texts[0] for text, _ in results}
        wrong = sum(expected[text] != shown for text, shown in results)
        print(
            f"{self.name}: {len(waits)} cuts in {len(results)} answers; {wrong} shown otherwise, {doubled} events twice"
        )
        return [
            self.row("cuts", len(waits), "1", peer="cutting proxy"),
            self.row("answers with something lost or doubled", wrong, "1", peer="cutting proxy"),
            self.row("events sent twice", doubled, "1", peer="cutting proxy"),
            self.row("resume after a cut, p50", 1e3 * quantile(waits, 0.5), "ms", peer="cutting proxy"),
            self.row("resume after a cut, p95", 1e3 * quantile(waits, 0.95), "ms", peer="cutting proxy"),
        ]

    # Takeover

    async def takeover(self, stack: Stack, label: str) -> list[Row]:
        waits, tokens = [], 1_500
        browser = await stack.browser(stack.cookies(1)[0]).open()
        for n in range(1 if self.quick else 5):
            gid = await browser.ask(PROMPTS[n], tokens)
            shown = await browser.until(gid, lambda shown: shown.events > 8)
            start = time.perf_counter()
            stack.owner(shown.worker).kill()
            # What was written before is still on its way.
            await asyncio.sleep(0.1)
            length = len(shown.text)
            await browser.until(gid, lambda shown, length=length: len(shown.text) > length or shown.ended)
            waits.append(time.perf_counter() - start)
            await browser.stop(gid)
            await browser.until(gid, lambda shown: shown.ended)
            bare = self.engine.answer([PROMPTS[n]], min(tokens, shown.end["usage"]["completion_tokens"] or 1)).texts[0]
            if not (bare.startswith(shown.text) or shown.text.startswith(bare)):
                raise SystemExit(f"{self.name}: the answer that was taken over goes on otherwise than the engine")
            await self._healthy(stack)
        await browser.close()
        return [self.row(f"takeover after SIGKILL, longest, {label}", max(waits), "s", peer="none")]

    async def _healthy(self, stack: Stack) -> None:
        """Wait until every worker is there again."""
        count = len(list(stack.state.glob("worker-*.lock")))
        while len(stack.children("-m worker")) < count:
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)

    # Admission

    async def admission(self, stack: Stack) -> list[Row]:
        workers = stack.children("-m worker")
        cookies = stack.cookies(70)
        browsers = [await stack.browser(cookie).open() for cookie in cookies]
        for worker in workers:
            worker.suspend()
        try:
            # Eight went to the worker's batch before it stood still, or none; the rest wait.
            filling = [browser for browser in browsers[:50] for _ in range(4)]
            for n, browser in enumerate(filling[:198]):
                await browser.ask(PROMPTS[n % len(PROMPTS)], 16)
            delays = []
            for n in range(10 if self.quick else 200):
                browser = browsers[50 + n % 20]
                start = time.perf_counter()
                gid = await browser.ask(PROMPTS[n % len(PROMPTS)], 16)
                delays.append(time.perf_counter() - start)
                await browser.stop(gid)
                await browser.until(gid, lambda shown: shown.ended)
                # Rate limits are a minute's: twenty users stay below theirs.
                await asyncio.sleep(0.1)
        finally:
            for worker in workers:
                worker.resume()
            for browser in browsers:
                await browser.close()
        direct = await self._submitted(stack)
        return [
            self.row(
                "admission over the socket with 198 waiting, p95", 1e3 * quantile(delays, 0.95), "ms", peer="none"
            ),
            self.row("admission by the service with 199 waiting, p95", 1e3 * quantile(direct, 0.95), "ms", peer="none"),
        ]

    async def _submitted(self, stack: Stack) -> list[float]:
        """Seconds of single submits, in a queue of their own that no worker serves."""
        from wire.messages import Request, Settings, Turn
        from wire.service import PredictionService

        service = PredictionService(stack.children("-m worker")[0].environ()["REDIS_URL"], prefix="bench")
        delays = []
        for n in range(199 + (50 if self.quick else 500)):
            gid = uuid.uuid4().hex
            request = Request(gid, f"user{n}", "c", (Turn("user", PROMPTS[0]),), "adapter", 0, Settings())
            start = time.perf_counter()
            await service.submit(request, gid)
            if n >= 199:
                delays.append(time.perf_counter() - start)
                await service.cancel(gid)
        await service.close()
        return delays

    # Idle sockets

    async def idle(self, stack: Stack) -> list[Row]:
        count = 200 if self.quick else 2_000
        cookies = stack.cookies(count // 10 + 10)
        site = stack.children("klepon.asgi")[0]
        warm = [await stack.browser(cookie).open() for cookie in cookies[-10:]]
        before = site.memory_info().rss
        browsers: list[Browser] = []
        for start in range(0, count, 20):
            group = [stack.browser(cookies[n // 10]) for n in range(start, start + 20)]
            browsers += await asyncio.gather(*(browser.open() for browser in group))
        await asyncio.sleep(2)
        each = (site.memory_info().rss - before) / count
        for browser in (*warm, *browsers):
            await browser.close()
        return [self.row(f"memory of each of {count} idle sockets", each / 1024, "KiB", peer="none")]


#: What must hold, as (words of the metric, limit, whether more is better).
TARGETS = [
    ("speed ratio, 1 users", 0.97, True),
    ("speed ratio, 8 users", 0.95, True),
    ("eight users against one", 3.0, True),
    ("first token later by, p50", 15.0, False),
    ("first token later by, p95", 40.0, False),
    ("stop takes beyond a step, p95", 50.0, False),
    ("resume after a cut, p95", 200.0, False),
    ("answers with something lost or doubled", 0.0, False),
    ("events sent twice", 0.0, False),
    ("takeover after SIGKILL", 13.0, False),
    ("admission", 10.0, False),
    ("memory of each", 40.0, False),
]


def judge(rows: list[Row]) -> None:
    """Print each target that was measured, and whether it holds."""
    for name, _, _, metric, value, unit in rows:
        for words, limit, more in TARGETS:
            if metric.startswith(words):
                held = value >= limit if more else value <= limit
                sign = ">=" if more else "<="
                print(f"{'holds' if held else 'FAILS'}: {name}: {metric} = {value:.4g} {unit} ({sign} {limit:g})")


async def measure(bench: Bench, only: list[str], out: Path) -> list[Row]:
    """Everything that was asked for; each result is recorded at once."""
    rows: list[Row] = []

    async def one(what: Awaitable[list[Row]]) -> None:
        found = await what
        record(out, found)
        rows.extend(found)

    shared = [name for name in ("speed", "first", "stop", "cuts", "admission", "idle") if name in only]
    # What does not depend on the model is measured with the quicker one alone.
    if bench.name != "demo":
        shared = [name for name in shared if name not in ("admission", "idle")]
    if shared or "takeover" in only:
        with bench.stack() as stack:
            for name in shared:
                await one(getattr(bench, name)(stack))
            if "takeover" in only:
                await one(bench.takeover(stack, "the same worker"))
    if "takeover" in only and bench.name == "demo":
        with bench.stack(workers=2) as stack:
            await one(bench.takeover(stack, "another worker"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["speed", "first", "stop", "cuts", "takeover", "admission", "idle"]
    parser.add_argument("--models", nargs="+", choices=["demo", "100M"], default=["demo", "100M"])
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--corpus", help="taken for the sake of `make bench`; no corpus is read")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rows += asyncio.run(measure(Bench(name, Path(folder), args.quick), args.only, args.out))
    judge(rows)


if __name__ == "__main__":
    main()
