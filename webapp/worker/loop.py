"""The decoding loop: one thread, one engine, one step after another."""

import logging
import time
from collections import deque

from wire.messages import Look, Seen

from worker.engine import Engine, EngineRefusalError
from worker.writer import Begin, Drop, Writer

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.2
DRAIN_SECONDS = 4.0
"""For answers that are nearly at their end. The others are kept in Redis, and go on with the next worker."""
HAND_OVER_SECONDS = 5.0


class Worker:
    """Decodes what the writer claims, until it is told to stop.

    Whatever may have caused a failure runs alone: an answer whose workers died, and every answer that was in the batch
    when the engine raised. So the one at fault fails by itself, and the others are answered.
    """

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine, self._writer = engine, writer
        self._waiting: deque[Begin] = deque()
        self._live: dict[str, Begin] = {}
        self._deadline: float | None = None
        self._told = False

    def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Claim nothing more, and end after this time at the latest. It may be called by a signal's handler."""
        deadline = time.monotonic() + drain_seconds
        self._deadline = min(deadline, self._deadline or deadline)

    def run(self) -> None:
        """Until `stop`.

        Raises:
            RuntimeError: if the writer failed: then nothing that is decoded would be read.
        """
        self._writer.start()
        while not self._ended():
            if not self.turn():
                self._take_mail(IDLE_SECONDS)
            if self._writer.failure:
                raise RuntimeError("the writer's thread has ended") from self._writer.failure
        self._writer.hand_over(HAND_OVER_SECONDS)
        self._engine.close()

    def _ended(self) -> bool:
        if self._deadline is None:
            return False
        if not self._told:
            self._told = True
            if writing := len(self._live) + len(self._waiting):
                log.info(
                    "waiting up to %d s for %d answers that are being written; what is left of them goes on with the "
                    "next worker, or when the chat is started again",
                    max(0, round(self._deadline - time.monotonic())),
                    writing,
                )
        self._writer.stop_claiming()
        return time.monotonic() >= self._deadline or (self._writer.empty and not self._waiting and not self._live)

    def turn(self) -> bool:
        """One step of the engine, if there is something to decode."""
        self._take_mail()
        if self._writer.waiting_for_redis:
            return False
        self._begin()
        if not self._live:
            return False
        try:
            steps = self._engine.step()
        except Exception as error:
            log.exception("the engine failed with %d answers", len(self._live))
            self._retry(set(self._live), error)
            return True
        # An answer that was dropped meanwhile is not the writer's any more.
        self._writer.put(steps)
        for step in steps:
            if step.finish:
                self._live.pop(step.gid, None)
        return True

    def _take_mail(self, wait_seconds: float = 0.0) -> None:
        for letter in self._writer.mail(wait_seconds):
            match letter:
                case Begin():
                    self._waiting.append(letter)
                case Look():
                    self._look(letter)
                case Drop(gid):
                    self._waiting = deque(one for one in self._waiting if one.request.gid != gid)
                    if self._live.pop(gid, None):
                        self._engine.remove(gid)

    def _look(self, asked: Look) -> None:
        """As reading a prompt, it holds up the other answers for a moment."""
        try:
            seen = self._engine.look(asked.request, asked.text, asked.ended)
        except EngineRefusalError as refusal:
            log.info("an answer cannot be looked at: %s", refusal)
            seen = Seen(refusal.reason)
        except Exception:
            log.exception("the engine failed at looking at an answer")
            seen = Seen("failed")
        self._writer.show(asked.id, seen)

    def _begin(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if self._live and (first.alone or any(one.alone for one in self._live.values())):
                return
            self._waiting.popleft()
            gid = first.request.gid
            if len(first.ids) >= first.request.settings.max_new_tokens:
                self._writer.end(gid, "length")
                continue
            self._live[gid] = first
            try:
                self._writer.started(gid, self._engine.add(first.request, first.ids, first.text))
            except EngineRefusalError as refusal:
                del self._live[gid]
                log.info("%s is not answered: %s", gid, refusal)
                self._writer.end(gid, "error", refusal.reason)
            except Exception as error:
                log.exception("the engine failed at a prompt")
                self._retry({gid}, error)

    def _retry(self, suspects: set[str], error: Exception) -> None:
        """After an error: every answer is taken up again where it is; those that may be the reason, alone and once."""
        self._engine.reset()
        again = []
        for gid, one in self._live.items():
            if gid in suspects and one.alone:
                log.error("%s is given up: the model failed on it alone (%s)", gid, type(error).__name__)
                self._writer.end(gid, "error", "failed")
                continue
            ids, text = self._writer.written(gid)
            alone = one.alone or gid in suspects
            again.append(Begin(one.request, ids, text, alone))
        self._live.clear()
        # Those that are under no suspicion first: they need not wait for the others.
        self._waiting.extendleft(reversed(sorted(again, key=lambda one: one.alone)))
