"""What one socket is told: news of the answers that it follows, and of the workers.

The hub says that there is news; the follower sends it as fast as the client takes it, from where the client is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from django.contrib.auth.models import AbstractBaseUser
from django.db import OperationalError
from wire.events import id_of
from wire.service import Place, UnavailableError

from chat import answers, database, payloads, queries
from chat.hub import Hub
from chat.models import Message

log = logging.getLogger(__name__)

STALL_SECONDS = 60.0


class Follower:
    """The hub's listener for one socket.

    Args:
        say: sends a frame to the client.
        close: closes the socket with a code.
    """

    def __init__(
        self,
        hub: Hub,
        user: AbstractBaseUser,
        say: Callable[..., Awaitable[None]],
        close: Callable[[int], Awaitable[None]],
    ) -> None:
        self._hub, self._user, self._say, self._close = hub, user, say, close
        self._cursors: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        self._stirred: set[str] = set()
        self._status_changed = False
        # Only while there is news.
        self._pumping: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    async def follow(self, gid: str, cursor: str) -> None:
        """Tell the client all events of an answer that come after `cursor`."""
        # A hello may cross what was sent meanwhile. That arrives, and deltas that are joined cannot be told apart.
        cursor = self._cursors[gid] = max(cursor, self._cursors.get(gid, cursor), key=id_of)
        await self._hub.follow(gid, cursor, self)

    def quit(self) -> None:
        """Tell the client nothing more."""
        if self._again:
            self._again.cancel()
        if self._pumping:
            self._pumping.cancel()
        self._hub.quit(self)

    def stir(self, gid: str) -> None:
        """The hub has news of an answer."""
        self._stirred.add(gid)
        self._wake()

    def stir_status(self) -> None:
        """The hub has news of the workers."""
        self._status_changed = True
        self._wake()

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        """Send news as fast as the client takes it, and no faster, until there is none."""
        try:
            while self._stirred or self._status_changed:
                async with asyncio.timeout(STALL_SECONDS):
                    if self._status_changed:
                        self._status_changed = False
                        await self._say(type="status", **payloads.status_json(self._hub.status))
                    while self._stirred:
                        await self._bring(self._stirred.pop())
        except TimeoutError:
            await self._close(4408)
        except (UnavailableError, OperationalError):
            # What could not be read is asked for again; a client that is told twice passes it over.
            self._again = asyncio.get_running_loop().call_later(1, self._all_again)
        except OSError:
            log.debug("a socket closed while it was written to")
        finally:
            self._pumping = None

    def _all_again(self) -> None:
        for gid in self._cursors:
            self.stir(gid)

    async def _bring(self, gid: str) -> None:
        ring, cursor = self._hub.ring(gid), self._cursors.get(gid)
        if ring is None or cursor is None:
            return
        if ring.lost:
            await self._lost(gid)
            return
        items = ring.after(cursor)
        if items is None:
            items = list((await self._hub.service.replay(gid, cursor)).items)
        if items:
            self._cursors[gid] = items[-1][0]
            await self._say(**payloads.events_frame(gid, items))
        elif ring.place is not None and ring.place != self._places.get(gid):
            place = self._places[gid] = ring.place
            await self._say(type="queued", gid=gid, position=place.position, of=place.of, eta=place.eta_seconds)
        if ring.ended and self._cursors.get(gid) == ring.last:
            self._forget(gid)

    async def _lost(self, gid: str) -> None:
        message = await database.write(_stored_as_lost, self._user, gid)
        self._forget(gid)
        if message:
            await self._say(type="messages", messages=[payloads.message_json(message)])

    def _forget(self, gid: str) -> None:
        self._hub.leave(gid, self)
        self._cursors.pop(gid, None)
        self._places.pop(gid, None)


def _stored_as_lost(user: AbstractBaseUser, gid: str) -> Message | None:
    answers.store_lost(gid)
    return queries.owned(user, [gid]).first()
