"""Final records on their way to the database: each comes again until it is acknowledged; several processes may read."""

import logging
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wire.keys import Keys
from wire.messages import Finished
from wire.strict import WireError

log = logging.getLogger(__name__)

GROUP = "fin"


class DoneQueue:
    """The finalizer's side. Plain calls: it works in the thread of its database.

    Args:
        consumer: this process's name; another takes over what it took and did not acknowledge within `idle_ms`.
    """

    def __init__(self, url: str, consumer: str, prefix: str = "c", idle_ms: int = 30_000) -> None:
        self.keys = Keys(prefix)
        self._consumer, self._idle_ms = consumer, idle_ms
        self._redis = redis.Redis.from_url(
            url, protocol=2, decode_responses=True, socket_timeout=60.0, retry=Retry(NoBackoff(), 0)
        )
        self._before = "0"

    def take(self, block_ms: int, count: int = 100) -> list[tuple[str, Finished]]:
        """Records with the numbers to acknowledge them by; after `block_ms` (1 to 30,000) maybe none.

        What this consumer took before it was restarted comes first, then what others took and left, then what is new.

        Raises:
            redis.ConnectionError, redis.TimeoutError: if Redis cannot be reached; call again.
        """
        try:
            return self._take(block_ms, count)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            # A new Redis, or one that lost its data.
            try:
                self._redis.xgroup_create(self.keys.done, GROUP, id="0", mkstream=True)
            except redis.ResponseError as exists:
                if not str(exists).startswith("BUSYGROUP"):
                    raise
            return self._take(block_ms, count)

    def _take(self, block_ms: int, count: int) -> list[tuple[str, Finished]]:
        if self._before != ">":
            entries = self._read(self._before, count, None)
            if entries:
                self._before = entries[-1][0]
                return self._records(entries)
            self._before = ">"
        fallen = self._redis.xautoclaim(
            self.keys.done, GROUP, self._consumer, min_idle_time=self._idle_ms, start_id="0-0", count=count
        )[1]
        return self._records(fallen or self._read(">", count, block_ms))

    def _read(self, after: str, count: int, block_ms: int | None) -> list[Any]:
        found = self._redis.xreadgroup(GROUP, self._consumer, {self.keys.done: after}, count=count, block=block_ms)
        return found[0][1] if found else []

    def _records(self, entries: Sequence[tuple[str, dict[str, str]]]) -> list[tuple[str, Finished]]:
        records = []
        for number, values in entries:
            try:
                if values:
                    records.append((number, Finished.from_json(values.get("d", ""))))
            except WireError as error:
                # It would come again before all others, and never be read.
                log.error("a final record cannot be read, and is dropped: %s", error)
                self.acknowledge([number])
        return records

    def acknowledge(self, numbers: Sequence[str]) -> None:
        """These are kept: they need not come again."""
        if numbers:
            pipe = self._redis.pipeline(transaction=True)
            pipe.xack(self.keys.done, GROUP, *numbers)
            pipe.xdel(self.keys.done, *numbers)
            pipe.execute()

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()
