"""The real `python -m serve` with models that never end an answer by themselves, and pages without a browser.

The benchmark of the chat and its end-to-end tests share this.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

ROOT = Path(__file__).resolve().parents[2]
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

PROMPT = "Tulislah sebuah cerita panjang tentang laut."
#: Long enough that a part can be killed while it is written.
TOKENS = 1_200

# --- Models ----------------------------------------------------------------------------------------------------------


def make_model(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a base model and an adapter for it; the folders of both."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lib.config import Lora, Model, Prompt
    from lib.model import loading, prompts
    from lib.model.generation import decoding_of

    tokenizer = loading.load_tokenizer(Model(base_model="demo"))
    if name == "demo":
        model = loading.load_base(Model(base_model="demo"))
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
        for end in decoding_of(model, prompts.end_of_turn_id(tokenizer, Prompt()), 1).end_ids:
            model.get_input_embeddings().weight[end] = 0
    base, adapter = folder / f"{name}-base", folder / f"{name}-adapter"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    loading.attach_lora(model, Lora()).save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    prompt = {field: getattr(Prompt(), field) for field in Prompt.__dataclass_fields__}
    told = {"base_model": str(base), "chat_template_sha256": prompts.chat_template_hash(tokenizer, Prompt())}
    (adapter / "klepon.json").write_text(json.dumps(told | {"prompt": prompt}))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {parameters / 1e6:.1f} million parameters", flush=True)
    return base, adapter


def undisturbed(base: Path, adapter: Path, prompt: str, tokens: int) -> str:
    """What the engine says when nothing is in its way, greedily."""
    from wire.messages import Request, Settings, Turn
    from worker.transformers_engine import load_engine

    engine = load_engine(str(base), adapter)
    engine.add(Request("g", "u", "c", (Turn("user", prompt),), "adapter", 0, Settings(tokens, greedy=True)), (), "")
    text = ""
    while True:
        for step in engine.step():
            text = step.text if step.replaces else text + step.text
            if step.finish:
                return text


# --- The stack -------------------------------------------------------------------------------------------------------


class Stack:
    """`python -m serve`, running."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        adapter: Path,
        workers: int = 1,
        port: int = 0,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.state = folder / f"state-{uuid.uuid4().hex[:6]}"
        self.port = port or free_port()
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "webapp"), str(ROOT)]),
            "KLEPON_CHAT": str(self.state),
            "KLEPON_ACCOUNTS": "1",
            "KLEPON_PORT": str(self.port),
            "DJANGO_SETTINGS_MODULE": "klepon.settings",
            **(variables or {}),
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
        self.said: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        self._ready.wait()
        if self.process.poll() is not None:
            raise RuntimeError("the chat app does not start:\n" + "".join(self.said[-40:]))

    def _listen(self) -> None:
        """Until the last line: whoever writes must not wait for a reader."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if "is ready" in line:
                self._ready.set()
        self.process.wait()
        self._ready.set()

    async def stored(self, gid: str) -> str:
        """The text of an answer in the database, once the finalizer has put it there."""
        while True:
            with contextlib.closing(sqlite3.connect(self.state / "chat.sqlite3")) as database:
                found = database.execute(
                    "SELECT text FROM chat_message WHERE id = ? AND state = 'ended'", (uuid.UUID(gid).hex,)
                ).fetchone()
            if found:
                return str(found[0])
            await asyncio.sleep(0.05)

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
        return Browser(f"ws://127.0.0.1:{port or self.port}/ws", f"http://127.0.0.1:{self.port}", cookie)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)


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

    def __init__(self, url: str, origin: str, cookie: str, tls: ssl.SSLContext | None = None) -> None:
        self._url, self._origin, self._cookie, self._tls = url, origin, cookie, tls
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
            ssl=self._tls,
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
        accepted = await self._accepted[cid]
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

    async def follow(self, gid: str) -> Shown:
        """An answer to its end, over as many sockets as it takes, as a page does it."""
        async with asyncio.timeout(300):
            while self.shown[gid].ended is None:
                ending = asyncio.create_task(self.until(gid, lambda shown: shown.ended))
                losing = asyncio.create_task(self.lost())
                await asyncio.wait({ending, losing}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                while self.shown[gid].ended is None:
                    try:
                        await self.open()
                        break
                    except (OSError, EOFError, RuntimeError, WebSocketException):
                        await asyncio.sleep(0.1)
            return self.shown[gid]

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
