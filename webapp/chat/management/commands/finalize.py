"""`manage.py finalize`: brings ended answers from Redis into the database, until a signal ends it.

A record is acknowledged only when it is stored, and storing it again changes nothing: so it may be killed at any
moment, and any number of it may run.
"""

import logging
import signal
import socket
import time
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, close_old_connections, transaction
from wire.done import DoneQueue

from chat import answers

log = logging.getLogger(__name__)

BLOCK_MS = 2_000
RETRY_SECONDS = 1.0


def bring(queue: DoneQueue) -> int:
    """Store the records that are there and acknowledge them; how many there were."""
    records = queue.take(BLOCK_MS)
    close_old_connections()
    with transaction.atomic():
        for _, record in records:
            if not answers.store(record):
                log.info("answer %s has no message (any more)", record.gid)
    queue.acknowledge([number for number, _ in records])
    return len(records)


class Command(BaseCommand):
    """The finalizer."""

    help = "Bring ended answers from Redis into the database, until a signal ends it."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or SIGINT; a record in hand is stored first."""
        going = True

        def end(*_: Any) -> None:
            nonlocal going
            going = False

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, end)
        queue = DoneQueue(settings.REDIS_URL, socket.gethostname())
        well = True
        while going:
            try:
                bring(queue)
                well = True
            except (redis.RedisError, DatabaseError) as error:
                if well:
                    log.warning("ended answers wait: %s: %s", type(error).__name__, error)
                well = False
                time.sleep(RETRY_SECONDS)
        queue.close()
