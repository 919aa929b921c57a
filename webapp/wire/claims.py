"""The worker's side: which generations it owns, and what it writes about them. One thread, plain calls, no state.

A generation is owned by one instance of a worker, at one epoch, for as long as its lease is renewed. Redis checks owner
and epoch in the same script that appends, so a worker that was replaced while it hung can wake and write nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from wire import events, scripts
from wire.events import Event, Snapshot, Start, Transcript
from wire.keys import Keys
from wire.messages import Finished, Seen, WorkerState
from wire.strict import WireError

#: Redis did not answer, or not yet: whatever was asked may or may not have happened.
OUTAGE = (redis.ConnectionError, redis.TimeoutError)

MAX_TAKEOVERS = 2


@dataclass(frozen=True)
class Claim:
    """A generation that this worker owns now."""

    gid: str
    spec: str
    """The request, as JSON."""
    epoch: int
    takeovers: int
    """How many workers died with it."""
    cancel: bool
    new: bool
    """No worker had it before."""
    age_ms: float
    """Since its admission."""
    queued_ms: float
    """From its admission to the first claim."""
    record: tuple[str, ...]
    """What Redis knows of it, to put it back: user, idem, spec, takeovers, place, enqueued, claimed."""

    @property
    def suspect(self) -> bool:
        """It may be what killed its workers: it runs alone."""
        return self.takeovers == MAX_TAKEOVERS

    @property
    def poisonous(self) -> bool:
        """It has killed all workers that it may."""
        return self.takeovers > MAX_TAKEOVERS


@dataclass(frozen=True)
class Write:
    """What one exchange does for one generation: appends these events, and ends it if there is a final record."""

    gid: str
    epoch: int
    previous: str
    """The last event id that Redis is known to have."""
    events: Sequence[tuple[str, str]] = ()
    trim: str = ""
    finished: Finished | None = None


@dataclass(frozen=True)
class Exchange:
    """Redis's answers to one pipeline."""

    verdicts: dict[str, str]
    """By gid: ok, cancel, lost, gone, gap, or refused (an error of Redis: try again)."""
    claims: list[Claim]
    refusal: str | None
    """The last error that Redis answered, if any."""
    look: str | None = None
    """What somebody wants to look at, as JSON."""


class Claims:
    """One instance of a worker.

    Args:
        name: the same after a restart, so that the new process takes up what the old one dropped, without waiting for
            leases to end.
        instance: never the same twice.
    """

    def __init__(self, url: str, name: str, instance: str, prefix: str = "c", lease_ms: int = 10_000) -> None:
        self.keys = Keys(prefix)
        self.name, self.instance, self.lease_ms = name, instance, lease_ms
        self.owner = f"{name}/{instance}"
        # The caller decides when to try again: the Redis client must not do so by itself.
        self.redis = redis.Redis.from_url(
            url,
            protocol=2,
            decode_responses=True,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
        )
        self._seen = "0-0"

    def exchange(
        self,
        writes: Sequence[Write] = (),
        *,
        room: int = 0,
        own: str = "",
        renew: bool = False,
        beat: WorkerState | None = None,
        look: bool = False,
    ) -> Exchange:
        """Write, renew leases, send a heartbeat and claim, in one round trip.

        Args:
            room: how many generations to claim at most.
            own: `name` to claim also what an earlier process of this name dropped, `instance` to claim also what this
                process was given in an answer that got lost.
            look: whether to ask for what somebody wants to look at.

        Raises:
            OUTAGE: if Redis cannot be reached; the same call can be made again.
        """
        pipe = self.redis.pipeline(transaction=False)
        for write in writes:
            self._write(pipe, write, renew)
        if beat is not None:
            pipe.eval(scripts.BEAT, 2, self.keys.workers, self.keys.worker(self.name), self.name, beat.to_json())
        asked = len(pipe)
        if look:
            pipe.lpop(self.keys.looks)
        if room > 0:
            held = [write.gid for write in writes]
            pipe.eval(
                scripts.CLAIM, 2, self.keys.wait, self.keys.leases,
                self.keys.shared, self.name, self.instance, room, self.lease_ms, MAX_TAKEOVERS, own, *held,
            )  # fmt: skip
        answers = pipe.execute(raise_on_error=False) if len(pipe) else []
        refusal = None
        for answer in answers:
            if isinstance(answer, OUTAGE):
                raise answer
            if isinstance(answer, Exception):
                refusal = str(answer)
        verdicts = {
            write.gid: "refused" if isinstance(answer, Exception) else answer
            for write, answer in zip(writes, answers, strict=False)
        }
        taken = answers[-1] if room > 0 and not isinstance(answers[-1], Exception) else []
        spec = answers[asked] if look and not isinstance(answers[asked], Exception) else None
        return Exchange(verdicts, [_claim(found) for found in taken], refusal, spec)

    def _write(self, pipe: Any, write: Write, renew: bool) -> None:
        keys = self.keys
        pipe.eval(
            scripts.WRITE, 5, keys.generation(write.gid), keys.events(write.gid), keys.leases, keys.done, keys.pace,
            keys.shared, write.gid, self.owner, write.epoch, write.previous, self.lease_ms if renew else 0, write.trim,
            scripts.KEEP_MS, write.finished.to_json() if write.finished else "",
            *(part for event in write.events for part in event),
        )  # fmt: skip

    def transcript(self, gid: str) -> Transcript:
        """What earlier owners wrote; nothing but its last id, if that is of another version and cannot be read."""
        entries = self.redis.xrange(self.keys.events(gid))
        try:
            return Transcript.of(read_events(entries))
        except WireError:
            return Transcript(last=entries[-1][0])

    def recover(self, claim: Claim, epoch: int, start: Start | None, snapshot: Snapshot) -> bool:
        """Put a generation back that Redis has forgotten, under a new epoch. False: another worker owns it.

        Its last event is then number 2 of that epoch.
        """
        gid, keys = claim.gid, self.keys
        answer = self.redis.eval(
            scripts.RECOVER, 3, keys.generation(gid), keys.events(gid), keys.leases,
            keys.shared, gid, self.owner, epoch, self.lease_ms, scripts.KEEP_MS,
            events.to_json(start) if start else "", events.to_json(snapshot),
            *claim.record,
        )  # fmt: skip
        return answer == "ok"

    def release(self, gid: str, epoch: int) -> None:
        """Hand a generation back to the queue; it keeps its place and its text."""
        keys = self.keys
        self.redis.eval(
            scripts.RELEASE, 4, keys.generation(gid), keys.wait, keys.leases, keys.jobs, gid, self.owner, epoch
        )

    def show(self, look: str, seen: Seen) -> None:
        """Tell whoever asked."""
        self.redis.set(self.keys.seen(look), seen.to_json(), ex=60)

    def leave(self) -> None:
        """Say that this worker is no more."""
        self.redis.zrem(self.keys.workers, self.name)
        self.redis.delete(self.keys.worker(self.name))

    def wait(self, seconds: float) -> None:
        """Return when there may be work, and after this time in any case."""
        found = self.redis.xread({self.keys.jobs: self._seen}, count=1_000, block=max(1, round(seconds * 1_000)))
        for _, entries in found:
            self._seen = entries[-1][0]

    def close(self) -> None:
        """Let go of the connection."""
        self.redis.close()


def read_events(entries: Iterable[tuple[str, dict[str, str]]]) -> list[tuple[str, Event]]:
    """A stream's entries as ids and events."""
    return [(event_id, events.from_json(values["d"])) for event_id, values in entries]


def _claim(found: list[Any]) -> Claim:
    gid, spec, epoch, takeovers, cancel, enqueued, claimed, now, user, idem, place, new = found
    return Claim(
        gid=gid,
        spec=spec,
        epoch=int(epoch),
        takeovers=int(takeovers),
        cancel=cancel == "1",
        new=new == 1,
        age_ms=float(now) - float(enqueued),
        queued_ms=float(claimed) - float(enqueued),
        record=(user, idem, spec, takeovers, place, enqueued, claimed),
    )
