"""Between the decoding loop and Redis: a thread that claims for the loop, and writes what the loop decodes.

The loop hands over tokens and never waits for Redis. Every exchange is one pipeline for all answers: their new events,
and with Redis's answer whether somebody wants one stopped. While Redis is away, events pile up here under the ids that
they will have, so that sending them twice doubles nothing; once Redis is back without its data, each answer is put back
whole, as a snapshot under a new epoch.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wire.claims import OUTAGE, Claim, Claims, Write
from wire.messages import Finish, Look, Offered, Reason, Request, Seen, WorkerState
from wire.strict import WireError

from worker.answer import Answer
from worker.engine import Added, Step

log = logging.getLogger(__name__)

EXCHANGE_SECONDS = 0.04
"""Between two exchanges with Redis. A stop is heard of this soon, even during a long step."""
TEXT_SECONDS = 0.08
"""Between two pieces of text, of all answers together: each is work for the site and for every page, on cores that the
model may want. First words, ends and whatever else is urgent do not wait."""
IDLE_SECONDS = 0.5
"""How long an idle worker waits for work before it looks for itself."""
RENEWALS = 4
"""How often a lease is renewed in its time."""
BEAT_SECONDS = 2.0
STALL_SECONDS = 120.0
"""A loop that has done no step for so long hangs: its leases are no longer renewed, and another worker takes over."""
OUTAGE_SECONDS = 30.0
"""For so long the loop goes on without Redis; then it waits."""


@dataclass(frozen=True)
class Begin:
    """To the loop: decode this, after the tokens and the text that it has."""

    request: Request
    ids: tuple[int, ...]
    text: str
    alone: bool
    """It may have killed its workers: nothing may run beside it."""


@dataclass(frozen=True)
class Drop:
    """To the loop: forget this; somebody stopped it, or another worker has it."""

    gid: str


Mail = Begin | Drop | Look


class Writer:
    """The Redis side of one worker.

    Args:
        about: this worker's heartbeat; its `active`, `tokens_per_second` and `adapters` are filled in.
        offers: the adapters that can be asked beside the chat's own.
    """

    def __init__(self, claims: Claims, about: WorkerState, offers: Callable[[], tuple[Offered, ...]] = tuple) -> None:
        self._claims, self._about, self._offers = claims, about, offers
        self._changed = threading.Condition()
        self._answers: dict[str, Answer] = {}
        self._mail: list[Mail] = []
        self._looking = False
        self._seen: list[tuple[str, Seen]] = []
        self._own = "name"
        self._claiming, self._releasing, self._closed = True, False, False
        self._urgent = False
        self._flushed = -1e9
        self._down_since: float | None = None
        self._backoff = 0.0
        self._renewed = self._beaten = -1e9
        self._loop_at = time.monotonic()
        self._tokens = 0
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        """What ended the thread, if anything did."""

    # The loop's side.

    def started(self, gid: str, added: Added) -> None:
        """The loop has begun with an answer."""
        with self._changed:
            self._loop_at = time.monotonic()
            answer = self._answers.get(gid)
            if answer and not answer.ending:
                answer.begin(added, self._about)

    def put(self, steps: Sequence[Step]) -> None:
        """What one step of the engine did."""
        now = time.monotonic()
        with self._changed:
            for step in steps:
                answer = self._answers.get(step.gid)
                if answer is None or answer.ending:
                    continue
                before = answer.tokens
                self._urgent |= answer.take(step, now)
                self._tokens += answer.tokens - before
            if now - self._flushed >= TEXT_SECONDS:
                self._urgent = True
            if self._urgent:
                self._changed.notify_all()

    def show(self, look: str, seen: Seen) -> None:
        """What somebody wanted to look at."""
        with self._changed:
            self._seen.append((look, seen))
            self._urgent = True
            self._changed.notify_all()

    def end(self, gid: str, finish: Finish, reason: Reason | None = None) -> None:
        """An answer is at its end, without a step."""
        with self._changed:
            if (answer := self._answers.get(gid)) and not answer.ending:
                answer.ending = (finish, reason)
                self._urgent = True
                self._changed.notify_all()

    def written(self, gid: str) -> tuple[tuple[int, ...], str]:
        """The tokens and the text of an answer so far; none of either if it is not this worker's any more."""
        with self._changed:
            answer = self._answers.get(gid)
            return (tuple(answer.ids), "".join(answer.text)) if answer else ((), "")

    def mail(self, wait_seconds: float = 0.0) -> list[Mail]:
        """What the loop is to do; it waits so long for something. To be called between steps: it is a sign of life."""
        with self._changed:
            self._loop_at = time.monotonic()
            if wait_seconds and not self._mail:
                self._changed.wait_for(lambda: self._mail or self.failure, wait_seconds)
                self._loop_at = time.monotonic()
            mail, self._mail = self._mail, []
            return mail

    def stop_claiming(self) -> None:
        """Take nothing new."""
        self._claiming = False

    @property
    def empty(self) -> bool:
        """Nothing is owned, so nothing is unwritten."""
        return not self._answers

    @property
    def waiting_for_redis(self) -> bool:
        """Redis has been away for so long that decoding should wait for it."""
        since = self._down_since
        return since is not None and time.monotonic() - since > OUTAGE_SECONDS

    def hand_over(self, seconds: float) -> None:
        """Write what there is, hand the rest back to the queue and end the thread; give up after this time."""
        self.release_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._answers or self.failure, seconds)
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(seconds)
        try:
            self._claims.leave()
        except OUTAGE:
            log.warning("Redis is away: it will notice by itself that this worker is gone")
        self._claims.close()

    def release_all(self) -> None:
        """Hand everything back to the queue, as soon as what there is of it is written."""
        with self._changed:
            self._claiming, self._releasing, self._urgent = False, True, True
            self._changed.notify_all()

    # The thread's side.

    def start(self) -> None:
        """Begin to claim."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._closed:
                self.turn()
                self._pause()
        except BaseException as error:
            log.exception("the writer cannot go on")
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _pause(self) -> None:
        """Until there is something to say, or something to ask."""
        began = time.monotonic()
        with self._changed:
            if self._backoff:
                self._changed.wait_for(lambda: self._closed, self._backoff)
                return
            if self._answers or self._looking or not self._claiming:
                while not (self._urgent or self._closed):
                    left = began + EXCHANGE_SECONDS - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(left)
                return
        try:
            self._claims.wait(IDLE_SECONDS)
        except OUTAGE as error:
            self._outage(error)

    def turn(self) -> None:
        """One exchange with Redis, and what follows from it."""
        now = time.monotonic()
        renew = now - self._renewed >= self._claims.lease_ms / 1_000 / RENEWALS and now - self._loop_at < STALL_SECONDS
        beat = self._beat(now) if now - self._beaten >= BEAT_SECONDS else None
        try:
            with self._changed:
                lost = [answer for answer in self._answers.values() if answer.lost_data]
            for answer in lost:
                self._recover(answer)
            with self._changed:
                if self._urgent or now - self._flushed >= TEXT_SECONDS:
                    for answer in self._answers.values():
                        answer.compose()
                self._urgent = False
                writes = [answer.to_write() for answer in self._answers.values()]
                room = self._room()
            look = self._claiming and not self._looking
            exchange = self._claims.exchange(writes, room=room, own=self._own, renew=renew, beat=beat, look=look)
            if len(exchange.claims) < room:
                self._own = ""
            if any(write.events for write in writes):
                self._flushed = now
            self._settle(writes, exchange.verdicts)
            for claim in exchange.claims:
                self._begin(claim, now)
            self._look(exchange.look)
            self._release()
        except OUTAGE as error:
            self._outage(error)
            return
        if self._down_since is not None:
            log.warning("Redis is back after %.1f s", now - self._down_since)
        self._down_since, self._backoff = None, 0.0
        if exchange.refusal:
            log.error("Redis refused: %s", exchange.refusal)
            self._backoff = 0.25
            return
        if renew:
            self._renewed = now
        if beat:
            self._beaten = now

    def _outage(self, error: Exception) -> None:
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.warning("Redis is away (%s); decoding goes on for %d s", error, OUTAGE_SECONDS)
        self._backoff = min(1.0, 2 * self._backoff or 0.05)
        # A claim may have been granted, and the answer lost.
        self._own = self._own or "instance"

    def _beat(self, now: float) -> WorkerState:
        self._about = replace(self._about, adapters=self._offers())
        with self._changed:
            rate, self._tokens = self._tokens / (now - self._beaten), 0
        return replace(self._about, active=len(self._answers), tokens_per_second=round(rate, 2))

    def _room(self) -> int:
        if not self._claiming or any(answer.claim.suspect for answer in self._answers.values()):
            return 0
        return max(0, self._about.batch - len(self._answers))

    def _begin(self, claim: Claim, now: float) -> None:
        """Take in a claim: what others wrote of it, and what is to be done with it."""
        answer = Answer.of(claim, now)
        if not claim.new:
            answer.take_over(self._claims.transcript(claim.gid), self._about)
        with self._changed:
            if claim.gid in self._answers:
                # Redis forgot it, and the same was asked for again.
                self._mail.append(Drop(claim.gid))
            self._answers[claim.gid] = answer
            if answer.ending:
                self._urgent = True
            elif answer.request:
                self._mail.append(Begin(answer.request, tuple(answer.ids), "".join(answer.text), claim.suspect))
                self._changed.notify_all()

    def _settle(self, writes: Sequence[Write], verdicts: dict[str, str]) -> None:
        with self._changed:
            for write in writes:
                answer = self._answers[write.gid]
                match verdicts[write.gid]:
                    case "ok" | "cancel" as verdict:
                        answer.acknowledge(write)
                        if write.finished:
                            del self._answers[write.gid]
                        elif verdict == "cancel" and not answer.ending:
                            answer.ending, self._urgent = ("cancelled", None), True
                            self._mail.append(Drop(write.gid))
                    case "lost":
                        log.warning("%s is another worker's now", write.gid)
                        del self._answers[write.gid]
                        self._mail.append(Drop(write.gid))
                    case "gone" | "gap" as verdict:
                        log.warning("Redis has lost %s of %s", {"gone": "all", "gap": "events"}[verdict], write.gid)
                        answer.lose_data()
                        self._urgent = True
                    case _:
                        pass
            self._changed.notify_all()

    def _recover(self, answer: Answer) -> None:
        with self._changed:
            start, snapshot = answer.whole()
        owned = self._claims.recover(answer.claim, answer.epoch, start, snapshot)
        with self._changed:
            answer.recovered()
            if not owned:
                del self._answers[answer.claim.gid]
                self._mail.append(Drop(answer.claim.gid))

    def _look(self, spec: str | None) -> None:
        """Pass on what is wanted to be looked at (JSON), one at a time, and what was seen."""
        with self._changed:
            seen, self._seen = self._seen, []
        for look, what in seen:
            self._looking = False
            self._claims.show(look, what)
        if spec is None:
            return
        try:
            asked = Look.from_json(spec)
        except WireError as error:
            log.warning("what is to be looked at cannot be read: %s", error)
            return
        self._looking = True
        with self._changed:
            self._mail.append(asked)
            self._changed.notify_all()

    def _release(self) -> None:
        if not self._releasing:
            return
        with self._changed:
            leaving = [answer for answer in self._answers.values() if not answer.unwritten()]
        for answer in leaving:
            self._claims.release(answer.claim.gid, answer.epoch)
            with self._changed:
                del self._answers[answer.claim.gid]
                self._changed.notify_all()
