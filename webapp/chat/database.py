"""The sockets' work on the database: reads in threads of their own, writes in others, and no write without an end.

SQLite lets one connection write at a time, and whoever comes second waits. In one thread for all, everybody would wait
for that write: also those who only want to stop an answer.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from channels.db import DatabaseSyncToAsync
from django.db import OperationalError, connection

P = ParamSpec("P")
T = TypeVar("T")

WRITE_SECONDS = 1.5
"""So long a write waits for its turn: a person waits for it."""

# A thread keeps its connection, and more of them would find nothing to do on the few cores that there are.
_READERS = ThreadPoolExecutor(4, thread_name_prefix="chat-read")
_WRITERS = ThreadPoolExecutor(8, thread_name_prefix="chat-write")


async def read(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a call that only reads returns."""
    asked: Any = DatabaseSyncToAsync(call, thread_sensitive=False, executor=_READERS)
    found: T = await asked(*args, **kwargs)
    return found


async def write(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a call that writes returns.

    Raises:
        OperationalError: if it had no turn in `WRITE_SECONDS`; then nothing of it was written, or it is all undone.
    """
    deadline = time.monotonic() + WRITE_SECONDS

    def hurried() -> T:
        left = deadline - time.monotonic()
        if left <= 0:
            raise OperationalError(f"no thread was free for {WRITE_SECONDS:g} s")
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {int(left * 1_000)}")
        return call(*args, **kwargs)

    asked: Any = DatabaseSyncToAsync(hurried, thread_sensitive=False, executor=_WRITERS)
    found: T = await asked()
    return found
