"""Between the decoding loop and Redis: a thread that claims for the loop, and writes what the loop decodes.

The loop hands over tokens and never waits for Redis. Every exchange is one pipeline for all answers: their new events,
and with Redis's answer whether somebody wants one stopped. While Redis is away, events pile up here under the ids that
they will have, so that sending them again doubles nothing; once Redis is back without its data, each answer is put back
whole, as a snapshot under a new epoch.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wire import events
from wire.claims import OUTAGE, Claim, Claims, Write
from wire.events import Delta, End, Event, Resume, Snapshot, Start
from wire.messages import Finish, Finished, Request, Timings, Usage, WorkerState
from wire.strict import WireError

from worker.engine import Added, Step

log = logging.getLogger(__name__)

EXCHANGE_SECONDS = 0.04
"""Between two exchanges with Redis: so soon a stop is heard of, even during a long step."""
TEXT_SECONDS = 0.08
"""Between two pieces of text, of all answers together: each is work for the site and for every page, on cores that the
model may want. First words, ends and whatever else is urgent do not wait."""
IDLE_SECONDS = 0.5
"""How long an idle worker waits for work before it looks for itself."""
RENEWALS = 4
"""In the time of a lease."""
BEAT_SECONDS = 2.0
STALL_SECONDS = 120.0
"""A loop that has done no step for so long hangs: its leases are no longer renewed, and another worker takes over."""
OUTAGE_SECONDS = 30.0
"""The loop goes on for so long without Redis; then it waits."""
SNAPSHOT_EVENTS = 1_000
"""After so many events comes a snapshot; what is older than the snapshot before goes."""


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


Mail = Begin | Drop


@dataclass
class _Row:
    """One answer that this worker owns."""

    claim: Claim
    request: Request | None
    epoch: int
    claimed_at: float
    number: int = 0
    """Of the last event that was given an id."""
    acknowledged: str = events.ORIGIN
    outgoing: list[tuple[str, str]] = field(default_factory=list)
    """Events with their ids, until Redis has said that it has them."""
    start: Start | None = None
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    shown: int = 0
    """How many of the pieces of text, and of the ids, are in events."""
    shown_ids: int = 0
    tokens: int = 0
    usage: Usage | None = None
    first_at: float | None = None
    last_at: float | None = None
    timed_tokens: int = 0
    ending: tuple[Finish, str | None] | None = None
    finished: Finished | None = None
    """The final record, once the end has an id."""
    lost_data: bool = False
    kept: tuple[Start | None, Snapshot] | None = None
    """What Redis is to get back: the same at every try, since an earlier one may have succeeded unheard."""
    snapshots: list[str] = field(default_factory=list)
    trim: str = ""

    def frame(self, event: Event) -> str:
        self.number += 1
        event_id = f"{self.epoch}-{self.number}"
        self.outgoing.append((event_id, events.to_json(event)))
        return event_id

    def unwritten(self) -> bool:
        return bool(self.lost_data or self.outgoing or self.ending or self.shown < len(self.text))

    def snapshot(self) -> Snapshot:
        # All that is known, sent or not: the ids are those whose text is complete.
        self.shown, self.shown_ids = len(self.text), len(self.ids)
        return Snapshot("".join(self.text), tuple(self.ids))


class Writer:
    """The Redis side of one worker.

    Args:
        about: this worker's heartbeat; its `active` and `tokens_per_second` are filled in.
    """

    def __init__(self, claims: Claims, about: WorkerState) -> None:
        self._claims, self._about = claims, about
        self._changed = threading.Condition()
        self._rows: dict[str, _Row] = {}
        self._mail: list[Mail] = []
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
            row = self._rows.get(gid)
            if row is None or row.ending or row.request is None:
                return
            if row.start is None:
                row.start = Start(
                    worker=self._about.name,
                    model=self._about.model,
                    adapter_sha=self._about.adapter_sha if row.request.target == "adapter" else None,
                    seed=row.request.seed,
                    prompt_tokens=added.prompt_tokens,
                    target=row.request.target,
                    turns_left_out=added.turns_left_out,
                )
                row.frame(row.start)

    def put(self, steps: Sequence[Step]) -> None:
        """What one step of the engine did."""
        now = time.monotonic()
        with self._changed:
            for step in steps:
                row = self._rows.get(step.gid)
                if row is None or row.ending:
                    continue
                self._put(row, step, now)
            if now - self._flushed >= TEXT_SECONDS:
                self._urgent = True
            if self._urgent:
                self._changed.notify_all()

    def _put(self, row: _Row, step: Step, now: float) -> None:
        if step.replaces:
            row.text, row.shown = [step.text], 0
            row.ids.extend(step.ids)
            row.frame(row.snapshot())
        else:
            row.ids.extend(step.ids)
            if step.text:
                # The first words do not wait.
                self._urgent |= row.shown_ids == 0 or row.first_at is None
                row.text.append(step.text)
        if step.ids or step.text:
            row.tokens += len(step.ids) or 1
            self._tokens += len(step.ids) or 1
            if row.first_at is None:
                row.first_at = now
            else:
                row.timed_tokens += len(step.ids) or 1
            row.last_at = now
        if step.finish:
            row.usage = step.usage
            row.ending = (step.finish, step.message)
            self._urgent = True

    def end(self, gid: str, finish: Finish, message: str | None = None) -> None:
        """An answer is at its end, without a step."""
        with self._changed:
            if (row := self._rows.get(gid)) and not row.ending:
                row.ending = (finish, message)
                self._urgent = True
                self._changed.notify_all()

    def written(self, gid: str) -> tuple[tuple[int, ...], str]:
        """The tokens and the text of an answer so far; none of either if it is not this worker's any more."""
        with self._changed:
            row = self._rows.get(gid)
            return (tuple(row.ids), "".join(row.text)) if row else ((), "")

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
        return not self._rows

    @property
    def waiting_for_redis(self) -> bool:
        """Redis has been away for so long that decoding should wait for it."""
        since = self._down_since
        return since is not None and time.monotonic() - since > OUTAGE_SECONDS

    def hand_over(self, seconds: float) -> None:
        """Write what there is, hand the rest back to the queue and end the thread; give up after this time."""
        self.release_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._rows or self.failure, seconds)
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
            if self._rows or not self._claiming:
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
                lost = [row for row in self._rows.values() if row.lost_data]
            for row in lost:
                self._recover(row)
            with self._changed:
                due = self._urgent or now - self._flushed >= TEXT_SECONDS
                self._urgent = False
                writes = [self._write(row, due) for row in self._rows.values()]
                room = self._room()
            exchange = self._claims.exchange(writes, room=room, own=self._own, renew=renew, beat=beat)
            if len(exchange.claims) < room:
                self._own = ""
            if any(write.events for write in writes):
                self._flushed = now
            self._settle(writes, exchange.verdicts)
            for claim in exchange.claims:
                self._begin(claim, now)
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
        with self._changed:
            rate, self._tokens = self._tokens / (now - self._beaten), 0
        return replace(self._about, active=len(self._rows), tokens_per_second=round(rate, 2))

    def _room(self) -> int:
        if not self._claiming or any(row.claim.suspect for row in self._rows.values()):
            return 0
        return max(0, self._about.batch - len(self._rows))

    def _write(self, row: _Row, due: bool) -> Write:
        if due:
            self._frame(row)
        return Write(row.claim.gid, row.epoch, row.acknowledged, tuple(row.outgoing), row.trim, row.finished)

    def _frame(self, row: _Row) -> None:
        """Give ids to what has none."""
        if row.finished:
            return
        if row.shown < len(row.text) or (row.ending and row.shown_ids < len(row.ids)):
            row.frame(Delta("".join(row.text[row.shown :]), tuple(row.ids[row.shown_ids :])))
            row.shown, row.shown_ids = len(row.text), len(row.ids)
        if row.ending:
            self._end(row, *row.ending)
        elif row.number >= SNAPSHOT_EVENTS * (len(row.snapshots) + 1):
            # Whoever reads closely behind still finds what is between the two snapshots.
            row.trim = row.snapshots[-1] if row.snapshots else ""
            row.snapshots.append(row.frame(row.start) if row.start else f"{row.epoch}-{row.number + 1}")
            row.frame(row.snapshot())

    def _end(self, row: _Row, finish: Finish, message: str | None) -> None:
        now = time.monotonic()
        rate = None
        if row.timed_tokens and row.first_at is not None and row.last_at is not None and row.last_at > row.first_at:
            rate = round(row.timed_tokens / (row.last_at - row.first_at), 2)
        start = row.start
        usage = row.usage or Usage(
            prompt_tokens=start.prompt_tokens if start else None, completion_tokens=len(row.ids) or row.tokens
        )
        timings = Timings(
            queued_ms=row.claim.queued_ms,
            first_token_ms=None
            if row.first_at is None or not row.claim.new
            else round(1_000 * (row.first_at - row.claimed_at), 2),
            total_ms=round(row.claim.age_ms + 1_000 * (now - row.claimed_at), 2),
            tokens_per_second=rate,
        )
        row.finished = Finished(
            gid=row.claim.gid,
            finish=finish,
            message=message,
            text="".join(row.text),
            ids=tuple(row.ids),
            worker=start.worker if start else None,
            model=start.model if start else None,
            adapter_sha=start.adapter_sha if start else None,
            usage=usage,
            timings=timings,
        )
        row.frame(End(finish, message, usage, timings))

    def _begin(self, claim: Claim, now: float) -> None:
        """Take in a claim: what others wrote of it, and what is to be done with it."""
        row = _Row(claim, None, claim.epoch, now)
        try:
            row.request = Request.from_json(claim.spec)
        except WireError as error:
            row.ending = ("error", f"The request cannot be read: {error}")
        if not claim.new:
            self._take_over(row)
        if claim.poisonous:
            row.ending = ("error", f"The model's process ended {claim.takeovers} times while it answered this.")
        elif claim.cancel and not row.ending:
            row.ending = ("cancelled", None)
        with self._changed:
            if claim.gid in self._rows:
                # Redis forgot it, and the same was asked for again.
                self._mail.append(Drop(claim.gid))
            self._rows[claim.gid] = row
            if row.ending:
                self._urgent = True
            elif row.request:
                self._mail.append(Begin(row.request, tuple(row.ids), "".join(row.text), claim.suspect))
                self._changed.notify_all()

    def _take_over(self, row: _Row) -> None:
        found = self._claims.transcript(row.claim.gid)
        row.acknowledged, row.start = found.last, found.start
        row.text, row.ids = [found.text], list(found.ids)
        row.shown, row.shown_ids = len(row.text), len(row.ids)
        ends = row.ending or row.claim.poisonous or row.claim.cancel
        if ends or row.request is None or (found.start is None and not found.text):
            return
        adapter_sha = self._about.adapter_sha if row.request.target == "adapter" else None
        if found.start and (found.start.model, found.start.adapter_sha) == (self._about.model, adapter_sha):
            row.frame(Resume(len(row.ids)))
        else:
            # Another model would go on with another's words: it begins anew.
            row.start, row.text, row.ids = None, [], []
            row.frame(row.snapshot())

    def _settle(self, writes: Sequence[Write], verdicts: dict[str, str]) -> None:
        with self._changed:
            for write in writes:
                row = self._rows[write.gid]
                match verdicts[write.gid]:
                    case "ok" | "cancel" as verdict:
                        if write.events:
                            row.acknowledged = write.events[-1][0]
                            del row.outgoing[: len(write.events)]
                        row.trim = ""
                        if write.finished:
                            del self._rows[write.gid]
                        elif verdict == "cancel" and not row.ending:
                            row.ending, self._urgent = ("cancelled", None), True
                            self._mail.append(Drop(write.gid))
                    case "lost":
                        log.warning("%s is another worker's now", write.gid)
                        del self._rows[write.gid]
                        self._mail.append(Drop(write.gid))
                    case "gone" | "gap" as verdict:
                        log.warning("Redis has lost %s of %s", {"gone": "all", "gap": "events"}[verdict], write.gid)
                        self._forget(row)
                    case _:
                        pass
            self._changed.notify_all()

    def _forget(self, row: _Row) -> None:
        """Redis is to get this answer whole, under a new epoch."""
        row.lost_data = self._urgent = True
        row.epoch += 1
        row.number, row.outgoing, row.snapshots, row.trim, row.finished = 2, [], [], "", None
        row.acknowledged = f"{row.epoch}-2"

    def _recover(self, row: _Row) -> None:
        with self._changed:
            row.kept = row.kept or (row.start, row.snapshot())
        owned = self._claims.recover(row.claim, row.epoch, *row.kept)
        with self._changed:
            row.lost_data, row.kept = False, None
            if not owned:
                del self._rows[row.claim.gid]
                self._mail.append(Drop(row.claim.gid))

    def _release(self) -> None:
        if not self._releasing:
            return
        with self._changed:
            leaving = [row for row in self._rows.values() if not row.unwritten()]
        for row in leaving:
            self._claims.release(row.claim.gid, row.epoch)
            with self._changed:
                del self._rows[row.claim.gid]
                self._changed.notify_all()
