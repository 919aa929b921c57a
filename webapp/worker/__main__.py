"""`python -m worker`: one worker, told what to do by its environment.

REDIS_URL        where Redis is: redis://…, rediss://… or unix://…
ADAPTER          folder of the adapter, by which a server at ENGINE_URL is known too
BASE_MODEL       hub id or folder of the base model; without it, the one that the adapter was trained on
ENGINE_URL       an OpenAI-compatible server (http://host:port/v1) instead of a model in this process
ENGINE_BASE      name of the base model there; without it, the first that the server lists
ENGINE_ADAPTER   name of the adapter there; without it, the second that the server lists
ENGINE_KEY       its key
KLEPON_BATCH     answers decoded at once (8)
KLEPON_CHAT      folder for the worker's lock

It ends with status 0 when it was told to, 2 if it cannot start as it is set up, 1 after a failure, and while the server
at ENGINE_URL is not there.
"""

import hashlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TextIO

from wire.claims import Claims
from wire.messages import WorkerState

from lib import lock
from lib.allocator import keep_pages
from worker.engine import Engine, EngineAwayError, EngineError
from worker.loop import DRAIN_SECONDS, Worker
from worker.writer import Writer


def main() -> int:
    """Run until a signal ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        url = _redis_url()
        batch = _number("KLEPON_BATCH", 8)
        name, kept = take_name(Path(os.environ.get("KLEPON_CHAT") or tempfile.gettempdir()))
        engine = _engine(batch)
    except EngineError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1 if isinstance(error, EngineAwayError) else 2
    about = WorkerState(
        name=name,
        engine=engine.kind,
        model=engine.model,
        adapter_sha=engine.adapter_sha,
        batch=batch,
        active=0,
        tokens_per_second=0.0,
    )
    worker = Worker(engine, Writer(Claims(url, name, uuid.uuid4().hex[:12]), about, engine.offered))
    times = 0

    def stop(number: int, _: object) -> None:
        nonlocal times
        times += 1
        # Ctrl-C, or asked twice: what runs is handed over at once.
        worker.stop(0.0 if number == signal.SIGINT or times > 1 else DRAIN_SECONDS)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logging.info("%s answers with %s", name, engine.model)
    with kept:
        worker.run()
    return 0


def take_name(folder: Path) -> tuple[str, TextIO]:
    """A name that no other living worker has, the same again after a restart, and its lock.

    It holds the machine and the folder: several chats of one machine may share a Redis. The system lets go of the lock
    when the process ends, however it ends; a process that merely hangs keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "worker"
    chat = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]
    number = 1
    while True:
        # Kept open, and never deleted: a lock on a deleted file keeps nobody out.
        file = (folder / f"worker-{number}.lock").open("a")
        if lock.take(file.fileno()):
            return f"{host}-{chat}-{number}", file
        file.close()
        number += 1


def _engine(batch: int) -> Engine:
    adapter = os.environ.get("ADAPTER")
    if url := os.environ.get("ENGINE_URL"):
        from worker.openai_engine import load_engine as load_server

        names = (os.environ.get("ENGINE_BASE"), os.environ.get("ENGINE_ADAPTER"))
        return load_server(url, *names, key=os.environ.get("ENGINE_KEY"), folder=Path(adapter) if adapter else None)
    from worker.transformers_engine import load_engine

    return load_engine(os.environ.get("BASE_MODEL"), Path(adapter) if adapter else None)


def _redis_url() -> str:
    url = os.environ.get("REDIS_URL")
    if not url:
        raise EngineError("REDIS_URL is not set; set it to the address of a Redis")
    if not url.startswith(("redis://", "rediss://", "unix://")):
        # The rest may hold a password.
        raise EngineError(f"REDIS_URL begins with {url[:3]!r}: expected redis://…, rediss://… or unix://…")
    return url


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise EngineError(f"{name}={text}: set it to a number from 1")
    return int(text)


if __name__ == "__main__":
    keep_pages()
    sys.exit(main())
