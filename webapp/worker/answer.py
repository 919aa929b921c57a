"""One answer that this worker owns: what has been decoded, which events tell it, and how much of that Redis has.

Nothing here waits, and nothing here is called by two threads at once: the writer sees to both.
"""

import logging
import time
from dataclasses import dataclass, field

from wire import events
from wire.claims import Claim, Write
from wire.events import Delta, End, Event, Resume, Snapshot, Start, Transcript
from wire.messages import Finish, Finished, Reason, Request, Timings, Usage, WorkerState
from wire.strict import WireError

from worker.engine import Added, Step

log = logging.getLogger(__name__)

SNAPSHOT_EVENTS = 1_000
"""After so many events comes a snapshot; what is older than the snapshot before goes."""


@dataclass
class Answer:
    """The bookkeeping of one answer, from the claim to the final record."""

    claim: Claim
    epoch: int
    claimed_at: float
    request: Request | None = None
    """None: it cannot be read."""

    # What has been decoded.
    start: Start | None = None
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    tokens: int = 0
    usage: Usage | None = None
    first_at: float | None = None
    last_at: float | None = None
    timed_tokens: int = 0
    ending: tuple[Finish, Reason | None] | None = None
    finished: Finished | None = None
    """The final record, once the end has an id."""

    # Which events tell it.
    number: int = 0
    """Of the last event that was given an id."""
    shown: int = 0
    """How many of the pieces of text, and of the ids, are in events."""
    shown_ids: int = 0
    snapshots: list[str] = field(default_factory=list)
    trim: str = ""

    # How much of that Redis has.
    acknowledged: str = events.ORIGIN
    outgoing: list[tuple[str, str]] = field(default_factory=list)
    """Events with their ids, until Redis has said that it has them."""
    lost_data: bool = False
    kept: tuple[Start | None, Snapshot] | None = None
    """What Redis is to get back: the same at every try, since an earlier one may have succeeded unheard."""

    @classmethod
    def of(cls, claim: Claim, now: float) -> "Answer":
        """The answer to a claim; some claims end at once."""
        answer = cls(claim, claim.epoch, now)
        try:
            answer.request = Request.from_json(claim.spec)
        except WireError as error:
            log.warning("the request of %s cannot be read: %s", claim.gid, error)
            answer.ending = ("error", "unreadable")
        if claim.poisonous:
            log.warning("%s is given up: %d workers died with it", claim.gid, claim.takeovers)
            answer.ending = ("error", "crashed")
        elif claim.cancel and not answer.ending:
            answer.ending = ("cancelled", None)
        return answer

    def take_over(self, found: Transcript, about: WorkerState) -> None:
        """Take in what other workers wrote of it, and go on after that."""
        self.acknowledged, self.start = found.last, found.start
        self.text, self.ids = [found.text], list(found.ids)
        self.shown, self.shown_ids = len(self.text), len(self.ids)
        if self.ending or self.request is None or (found.start is None and not found.text):
            return
        adapter_sha = about.sha_of(self.request)
        if found.start and (found.start.model, found.start.adapter_sha) == (about.model, adapter_sha):
            self._add(Resume(len(self.ids)))
        else:
            # Another model would go on with another's words: it begins anew.
            self.start, self.text, self.ids = None, [], []
            self._add(self._snapshot())

    def begin(self, added: Added, about: WorkerState) -> None:
        """Say who answers and how, unless that was said before."""
        if self.request is None or self.start:
            return
        self.start = Start(
            worker=about.name,
            model=about.model,
            adapter_sha=about.sha_of(self.request),
            seed=self.request.seed,
            prompt_tokens=added.prompt_tokens,
            target=self.request.target,
            turns_left_out=added.turns_left_out,
        )
        self._add(self.start)

    def take(self, step: Step, now: float) -> bool:
        """Take in what a step of the engine did. Returns whether that must not wait: first words and ends do not."""
        urgent = bool(step.finish)
        if step.replaces:
            self.text, self.shown = [step.text], 0
            self.ids.extend(step.ids)
            self._add(self._snapshot())
        else:
            self.ids.extend(step.ids)
            if step.text:
                urgent |= self.shown_ids == 0 or self.first_at is None
                self.text.append(step.text)
        if step.ids or step.text:
            self.tokens += len(step.ids) or 1
            if self.first_at is None:
                self.first_at = now
            else:
                self.timed_tokens += len(step.ids) or 1
            self.last_at = now
        if step.finish:
            self.usage = step.usage
            self.ending = (step.finish, step.reason)
        return urgent

    def compose(self) -> None:
        """Make events of what is in none yet."""
        if self.finished:
            return
        if self.shown < len(self.text) or (self.ending and self.shown_ids < len(self.ids)):
            self._add(Delta("".join(self.text[self.shown :]), tuple(self.ids[self.shown_ids :])))
            self.shown, self.shown_ids = len(self.text), len(self.ids)
        if self.ending:
            self._end(*self.ending)
        elif self.number >= SNAPSHOT_EVENTS * (len(self.snapshots) + 1):
            # Whoever reads closely behind still finds what is between the two snapshots.
            self.trim = self.snapshots[-1] if self.snapshots else ""
            self.snapshots.append(self._add(self.start) if self.start else f"{self.epoch}-{self.number + 1}")
            self._add(self._snapshot())

    def unwritten(self) -> bool:
        """Whether Redis lacks something of it."""
        return bool(self.lost_data or self.outgoing or self.ending or self.shown < len(self.text))

    def to_write(self) -> Write:
        """What Redis is to be told of it now."""
        return Write(self.claim.gid, self.epoch, self.acknowledged, tuple(self.outgoing), self.trim, self.finished)

    def acknowledge(self, write: Write) -> None:
        """Redis has this."""
        if write.events:
            self.acknowledged = write.events[-1][0]
            del self.outgoing[: len(write.events)]
        self.trim = ""

    def lose_data(self) -> None:
        """Redis has lost some of it, and is to get it back whole, under a new epoch."""
        self.lost_data = True
        self.epoch += 1
        self.snapshots, self.trim, self.finished = [], "", None
        self.acknowledged = f"{self.epoch}-2"

    def whole(self) -> tuple[Start | None, Snapshot]:
        """What Redis is to get back."""
        if self.kept is None:
            # What was not sent, or has come since the loss, such as its beginning, is part of it.
            self.number, self.outgoing = 2, []
            self.kept = (self.start, self._snapshot())
        return self.kept

    def recovered(self) -> None:
        """Redis has it back."""
        self.lost_data, self.kept = False, None

    def _add(self, event: Event) -> str:
        """Give an event its id, and keep it until Redis has it."""
        self.number += 1
        event_id = f"{self.epoch}-{self.number}"
        self.outgoing.append((event_id, events.to_json(event)))
        return event_id

    def _snapshot(self) -> Snapshot:
        # All that is known, sent or not: the ids are those whose text is complete.
        self.shown, self.shown_ids = len(self.text), len(self.ids)
        return Snapshot("".join(self.text), tuple(self.ids))

    def _end(self, finish: Finish, reason: Reason | None) -> None:
        start = self.start
        usage = self.usage or Usage(
            prompt_tokens=start.prompt_tokens if start else None, completion_tokens=len(self.ids) or self.tokens
        )
        timings = self._timings()
        self.finished = Finished(
            gid=self.claim.gid,
            finish=finish,
            reason=reason,
            text="".join(self.text),
            ids=tuple(self.ids),
            worker=start.worker if start else None,
            model=start.model if start else None,
            adapter_sha=start.adapter_sha if start else None,
            usage=usage,
            timings=timings,
        )
        self._add(End(finish, reason, usage, timings))

    def _timings(self) -> Timings:
        first, last = self.first_at, self.last_at
        rate = None
        if self.timed_tokens and first is not None and last is not None and last > first:
            rate = round(self.timed_tokens / (last - first), 2)
        first_ms = None
        if first is not None and self.claim.new:
            first_ms = round(1_000 * (first - self.claimed_at), 2)
        return Timings(
            queued_ms=self.claim.queued_ms,
            first_token_ms=first_ms,
            total_ms=round(self.claim.age_ms + 1_000 * (time.monotonic() - self.claimed_at), 2),
            tokens_per_second=rate,
        )
