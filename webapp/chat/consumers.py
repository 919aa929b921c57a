"""The controller of the WebSocket: it checks every frame, does what the frame asks for, and answers it.

News of answers is sent by the socket's follower (chat.follower). A bad frame is answered with an error frame and the
socket stays. Closing a socket never stops a generation.
Close codes: 1009 frame too large, 4401 not logged in (any more, or as somebody else), 4408 no hello or nobody reads,
4429 too many sockets.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar
from uuid import UUID

import orjson
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from wire.events import ORIGIN, Transcript
from wire.service import Busy, UnavailableError

from chat import answers, database, frames, payloads, queries, turns
from chat.allowance import Allowance
from chat.follower import Follower
from chat.frames import Edit, Frame, FrameError, Hello, Ping, Regenerate, Send, Stop
from chat.hub import Hub
from chat.users import socket_user

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
CHECK_SECONDS = 60.0
SOCKETS_PER_USER = 10


class ChatConsumer(AsyncWebsocketConsumer):
    """One socket of one user."""

    open_sockets: ClassVar[Counter[int]] = Counter()
    looking: ClassVar[defaultdict[UUID, set["ChatConsumer"]]] = defaultdict(set)
    """Sockets of this process by the conversation that they have open."""

    async def connect(self) -> None:
        """Accept, and then close with a code that the browser can read if this user may not come in."""
        self.user: Any = await database.read(socket_user, self.scope)
        self.counted = self.greeted = self.gone = False
        self.conversation: UUID | None = None
        self.language = settings.LANGUAGE_CODE
        self.allowance = Allowance()
        # Timers instead of tasks that sleep: an idle socket has no task.
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.opening: set[asyncio.Task[Any]] = set()
        self.one_by_one = asyncio.Lock()
        await self.accept()
        if self.user is None:
            await self.close(4401)
            return
        if self.open_sockets[self.user.pk] >= SOCKETS_PER_USER:
            await self.say(type="error", cid=None, code="sockets", message=_("Too many chat tabs are open."))
            await self.close(4429)
            return
        self.open_sockets[self.user.pk] += 1
        self.counted = True
        self.hub = Hub.here()
        self.follower = Follower(self.hub, self.user, self.say, self.close)
        self._later("hello", HELLO_SECONDS, self._no_hello)
        self._later("check", CHECK_SECONDS, self._check)

    async def disconnect(self, code: int) -> None:
        """Forget the socket. What it asked for goes on."""
        self.gone = True
        self._look_at(None)
        for timer in self.timers.values():
            timer.cancel()
        for task in self.tasks:
            task.cancel()
        if self.counted:
            self.counted = False
            self.follower.quit()
            self.open_sockets[self.user.pk] -= 1
            if not self.open_sockets[self.user.pk]:
                del self.open_sockets[self.user.pk]

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """One frame of the client."""
        if not self.counted:
            return
        if len(text_data or bytes_data or b"") > frames.MAX_FRAME:
            await self.close(1009)
            return
        with translation.override(self.language):
            cid = None
            try:
                if not self.allowance.take():
                    raise FrameError("rate", _("Too many messages at once; wait a second."))
                if text_data is None:
                    raise FrameError("json", "Frames are text, not bytes.")
                frame = frames.parse(text_data)
                cid = getattr(frame, "cid", None)
            except FrameError as error:
                await self.say(type="error", cid=error.cid, code=error.code, message=str(error))
                return
            if isinstance(frame, Send | Edit | Regenerate):
                # Apart: a write may have to wait, and a stop that comes after it must not.
                self._start(self._in_turn(frame, cid), self.opening)
            else:
                await self._answer(frame, cid)

    async def _in_turn(self, frame: Frame, cid: str | None) -> None:
        async with self.one_by_one:
            await self._answer(frame, cid)

    async def _answer(self, frame: Frame, cid: str | None) -> None:
        """Do what a frame asks for, or say why not."""
        try:
            await self._do(frame)
        except FrameError as error:
            await self.say(type="error", cid=error.cid or cid, code=error.code, message=str(error))
        except UnavailableError:
            # It may have arrived all the same: the client sends a frame with a cid again, which asks for the same ids.
            again = _("The queue is not responding. Trying again.")
            message = again if cid else _("The queue is not responding. Try again.")
            await self.say(type="error", cid=cid, code="unavailable", message=message)
        except OperationalError as error:
            log.warning("the database did not take a frame of user %s: %s", self.user.pk, error)
            message = _("This cannot be stored right now. What you wrote is kept; try again.")
            await self.say(type="error", cid=cid, code="storage", message=message)
        except Exception:
            # The text of the frame stays out of the log.
            log.exception("a frame of user %s failed", self.user.pk)
            message = _("Something went wrong. What you wrote is kept; try again.")
            await self.say(type="error", cid=cid, code="internal", message=message)

    async def say(self, **frame: Any) -> None:
        """Send a frame. Once the socket is closed nobody hears it: what it tells is found with the next hello."""
        if not self.gone:
            # News comes from tasks that other sockets began, in their languages.
            with translation.override(self.language):
                text = orjson.dumps(frame, default=str).decode()
            await self.send(text_data=text)

    # --- What the client says ----------------------------------------------------------------------------------------

    async def _do(self, frame: Frame) -> None:
        if isinstance(frame, Hello):
            await self._hello(frame)
            return
        if not self.greeted:
            raise FrameError("hello", "Say hello first.")
        match frame:
            case Ping():
                await self.say(type="pong")
            case Stop():
                if not await database.read(queries.is_own, self.user, frame.gid):
                    raise FrameError("unknown", _("There is no such answer."))
                await self.hub.service.cancel(frame.gid)
            case Send() | Edit() | Regenerate():
                await self._open(frame)

    async def _hello(self, frame: Hello) -> None:
        # A page stays open when its user's session ends, and its browser may have logged somebody else in since.
        if frame.user and frame.user != str(self.user.pk):
            await self.close(4401)
            return
        if frame.language in dict(settings.LANGUAGES):
            self.language = frame.language
            translation.activate(self.language)
        if not self.greeted:
            self.greeted = True
            self.timers.pop("hello").cancel()
        now = time.time()
        conversation, messages, live = await database.read(queries.state_of, self.user, frame)
        self._look_at(conversation.id if conversation else None)
        status = self.hub.status
        await self.say(
            type="ready",
            v=frames.VERSION,
            now=now - queries.OVERLAP_SECONDS,
            conversation=payloads.conversation_json(conversation),
            messages=[payloads.message_json(message) for message in messages],
            live=live,
            **payloads.status_json(status),
        )
        self.hub.join(self.follower)
        if self.hub.status != status:
            self.follower.stir_status()
        for gid in live:
            await self.follower.follow(gid, frame.cursors.get(gid, ORIGIN))

    async def _open(self, frame: Send | Edit | Regenerate) -> None:
        """Store, submit and say so; or take everything back."""
        try:
            opened = await database.write(self._stored, frame)
        except turns.UnfinishedError as unfinished:
            for gid in unfinished.gids:
                await self._settle(gid)
            try:
                opened = await database.write(self._stored, frame)
            except turns.UnfinishedError:
                message = _("The answer above is still being written: wait for it to finish, or stop it.")
                raise FrameError("unfinished", message) from None
        if opened is None:
            await self.close(4401)
            return
        busy = await self._submit(opened)
        if busy:
            await database.write(turns.withdraw, opened)
            await self.say(
                type="busy",
                cid=frame.cid,
                reason=busy.reason,
                retry_after=busy.retry_after,
                message=_busy(busy.reason, busy.retry_after),
            )
            return
        await self.say(
            type="accepted",
            cid=frame.cid,
            conversation=payloads.conversation_json(opened.conversation),
            messages=[payloads.message_json(message) for message in (*opened.revealed, *opened.messages)],
            gids=[one.gid for one in opened.requests],
        )
        if not self.gone:
            self._look_at(opened.conversation.id)
        # In other windows it is a branch; those that were closed or hidden find it with their next hello.
        for socket in self.looking.get(opened.conversation.id, set()) - {self}:
            socket._start(socket._see(opened), socket.tasks)
        await self._follow(opened)

    async def _see(self, opened: turns.Opened) -> None:
        """What was asked in another window; in one frame, since half a pair is none."""
        messages = (*opened.revealed, *opened.messages)
        await self.say(type="messages", messages=[payloads.message_json(message) for message in messages])
        await self._follow(opened)

    async def _follow(self, opened: turns.Opened) -> None:
        for one in opened.requests:
            if not self.gone:
                await self.follower.follow(one.gid, ORIGIN)

    def _look_at(self, conversation: UUID | None) -> None:
        """From now on this conversation is open here."""
        if self.conversation is not None:
            self.looking[self.conversation].discard(self)
            if not self.looking[self.conversation]:
                del self.looking[self.conversation]
        self.conversation = conversation
        if conversation is not None:
            self.looking[conversation].add(self)

    def _stored(self, frame: Send | Edit | Regenerate) -> turns.Opened | None:
        """Store what a frame opens; None if this user may not be here any more."""
        if not self._still_allowed():
            return None
        try:
            return turns.open_turn(self.user, frame)
        except IntegrityError:
            # The same frame came in on another socket at the same moment, and won.
            return turns.open_turn(self.user, frame)

    async def _submit(self, opened: turns.Opened) -> Busy | None:
        """Submit all requests of a frame, or none. Ids come from the frame's cid: sent again, it asks once."""
        taken: list[str] = []
        for request in opened.requests:
            answer = await self.hub.service.submit(request, request.gid)
            if isinstance(answer, Busy):
                for gid in taken:
                    await self.hub.service.cancel(gid)
                return answer
            taken.append(answer.gid)
        return None

    async def _settle(self, gid: str) -> None:
        """Store an answer that has ended but did not reach the database yet."""
        replay = await self.hub.service.replay(gid)
        if record := answers.finished(gid, Transcript.of(replay.items)):
            await database.write(answers.store, record)

    # --- Whether the client may still be here ------------------------------------------------------------------------

    def _later(self, name: str, seconds: float, then: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.timers[name] = asyncio.get_running_loop().call_later(seconds, lambda: self._start(then(), self.tasks))

    def _start(self, coroutine: Coroutine[Any, Any, None], among: set[asyncio.Task[Any]]) -> None:
        task = asyncio.create_task(coroutine)
        among.add(task)
        task.add_done_callback(among.discard)

    async def _no_hello(self) -> None:
        await self.close(4408)

    async def _check(self) -> None:
        self._later("check", CHECK_SECONDS, self._check)
        with contextlib.suppress(DatabaseError):
            if not await database.read(self._still_allowed):
                await self.close(4401)

    def _still_allowed(self) -> bool:
        user = socket_user(self.scope)
        return user is not None and user.pk == self.user.pk


def _busy(reason: str, retry_after: float) -> str:
    seconds = max(1, round(retry_after))
    wait = ngettext("Try again in %(n)d second.", "Try again in %(n)d seconds.", seconds) % {"n": seconds}
    why = {
        "queue": _("The queue is full."),
        "user": _("Your other answers are still being written."),
        "rate": _("Too many questions in a short time."),
    }[reason]
    return f"{why} {wait}"
