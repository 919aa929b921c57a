"""Orders of faults that nobody thought of: text shown = text stored = tokens sent, whatever happens.

KLEPON_FAULT_SEQUENCES says how many sequences of faults are tried (50).
"""

import asyncio
import itertools
import os
from contextlib import suppress
from unittest import mock

import hypothesis.strategies as st
import redis
from chat_parts import Driven, Site, Valkey, text_of
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from wire import service
from wire.events import ORIGIN, Transcript
from wire.service import Accepted, Limits, UnavailableError

SEQUENCES = int(os.environ.get("KLEPON_FAULT_SEQUENCES", "50"))
NAMES = ("one", "two", "three")


class Breaking:
    """A worker's connection, which can be made to break before the server was asked, or before its answer came."""

    def __init__(self, claims):
        self.fault = None
        for name in ("exchange", "recover", "release", "transcript"):
            setattr(claims, name, self._breaking(getattr(claims, name)))

    def _breaking(self, call):
        def broken(*args, **options):
            fault, self.fault = self.fault, None
            if fault == "before":
                raise redis.ConnectionError("broken")
            answer = call(*args, **options)
            if fault == "after":
                raise redis.ConnectionError("broken")
            return answer

        return broken


def again(call):
    """As a browser: the first to use a connection that died with the server hears of it, and asks again."""

    async def asked(*args):
        try:
            return await call(*args)
        except UnavailableError:
            return await call(*args)

    return asked


class Chat(RuleBasedStateMachine):
    """Any number of workers that may be dead, frozen or awake; one reader; one finalizer; one server."""

    gids = Bundle("gids")

    def __init__(self):
        super().__init__()
        self.valkey = Valkey()
        self.valkey.start()
        self.site = Site(self.valkey.url, limits=Limits(active_per_user=6, per_minute=10_000))
        clock = itertools.count(0, 1_000)
        self.site.service._first_epoch = lambda: next(clock)
        for name in ("submit", "cancel", "read", "replay", "state"):
            setattr(self.site.service, name, again(getattr(self.site.service, name)))
        self.workers: dict[str, Driven] = {}
        self.zombies: list[Driven] = []
        self.links: dict[Driven, Breaking] = {}
        self.forgotten: set[str] = set()
        self.looks: list[tuple[str, asyncio.Task]] = []
        # A look asks again whenever something is run, however soon that is.
        self.impatient = mock.patch.object(service, "LOOK_PAUSE_SECONDS", 0.0)
        self.impatient.start()
        self.away = False

    def teardown(self):
        try:
            self.settle()
        finally:
            for worker in [*self.workers.values(), *self.zombies]:
                worker.claims.close()
            self.site.__exit__()
            self.valkey.__exit__()
            self.impatient.stop()

    @initialize(target=gids)
    def first(self):
        self.start_worker("one")
        return self.ask(20, 0, "base")

    def ask(self, words, seed, target, **more):
        answer = self.site.send(f"say {words}", seed=seed, target=target, max_new_tokens=40, **more)
        return answer.gid if isinstance(answer, Accepted) else None

    @precondition(lambda self: not self.away)
    @rule(
        target=gids,
        words=st.integers(0, 45),
        seed=st.integers(0, 3),
        target_=st.sampled_from(["base", "adapter"]),
        given=st.sampled_from(["", "Begini: "]),
        adapter=st.sampled_from(["", "mine/8_seed0"]),
    )
    def send(self, words, seed, target_, given, adapter):
        """A question, or the rest of an answer that was cut; of the chat's own adapter or another."""
        return self.ask(words, seed, target_, given=given, adapter=adapter)

    @precondition(lambda self: not self.away)
    @rule(gid=gids)
    def look(self, gid):
        """Somebody wants to see an answer token by token; what comes back is looked at when all is over."""
        if gid is None:
            return
        text = self.site.shown[gid].text

        async def looked():
            with suppress(UnavailableError):
                return await self.site.service.look(self.site.asked[gid], text, True)

        self.looks.append((text, self.site.begin(looked())))

    @precondition(lambda self: not self.away)
    @rule(gid=gids)
    def resend(self, gid):
        if gid is None:
            return
        request = self.site.asked[gid]
        again = self.site.run(self.site.service.submit(request, gid))
        if isinstance(again, Accepted):
            assert again.gid == gid
            if not again.existing:
                # Only a server that lost its data can take it for a new one. The reader just reads on.
                assert gid in self.forgotten
                self.forgotten.discard(gid)
                self.site.stored.pop(gid, None)
                self.site.shown[gid].end = None

    @precondition(lambda self: not self.away)
    @rule(gid=gids)
    def stop(self, gid):
        if gid is not None:
            self.site.run(self.site.service.cancel(gid))

    @rule(gid=gids)
    def reload(self, gid):
        """The browser forgets all that it had, and asks for it anew."""
        if gid is None or self.away:
            return
        replay = self.site.run(self.site.service.replay(gid, ORIGIN))
        if not replay.gap:
            self.site.shown[gid] = Transcript.of(replay.items)

    @precondition(lambda self: not self.away)
    @rule()
    def read(self):
        self.site.read()

    @precondition(lambda self: not self.away)
    @rule()
    def store(self):
        self.site.store()

    @rule(name=st.sampled_from(NAMES))
    def start_worker(self, name):
        if name not in self.workers:
            worker = Driven(self.valkey.url, name, batch=3)
            self.links[worker] = Breaking(worker.claims)
            self.workers[name] = worker

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 15))
    def work(self, name, count):
        if name in self.workers:
            self.workers[name].turn(count)

    @rule(name=st.sampled_from(NAMES), writer_first=st.booleans())
    def half_a_turn(self, name, writer_first):
        if worker := self.workers.get(name):
            (worker.writer if writer_first else worker.worker).turn()

    @rule(name=st.sampled_from(NAMES))
    def kill_worker(self, name):
        if worker := self.workers.pop(name, None):
            worker.claims.close()

    @rule(name=st.sampled_from(NAMES))
    def freeze_worker(self, name):
        """It hangs, keeps its name's lock, and its work goes to others once its lease is over."""
        if worker := self.workers.pop(name, None):
            self.zombies.append(worker)

    @precondition(lambda self: self.zombies)
    @rule(count=st.integers(1, 5))
    def zombie_wakes(self, count):
        self.zombies[0].turn(count)

    @precondition(lambda self: not self.away)
    @rule()
    def leases_end(self):
        with self.valkey.client() as client:
            for gid in client.zrange(self.site.service.keys.leases, 0, -1):
                client.zadd(self.site.service.keys.leases, {gid: 1})

    @precondition(lambda self: not self.away)
    @rule(name=st.sampled_from(NAMES))
    def hand_over(self, name):
        if worker := self.workers.pop(name, None):
            self.links[worker].fault = None
            worker.release()
            worker.claims.close()

    @rule(name=st.sampled_from(NAMES), fault=st.sampled_from(["before", "after"]))
    def connection_breaks(self, name, fault):
        if worker := self.workers.get(name):
            self.links[worker].fault = fault

    @rule(name=st.sampled_from(NAMES))
    def engine_raises(self, name):
        if worker := self.workers.get(name):
            worker.engine.raise_next = 1

    @precondition(lambda self: not self.away)
    @rule()
    def server_restarts(self):
        self.valkey.restart(keep_data=True)

    @precondition(lambda self: not self.away)
    @rule()
    def server_dies(self):
        self.valkey.kill()
        self.away = True

    @precondition(lambda self: self.away)
    @rule()
    def server_returns(self):
        self.valkey.start()
        self.away = False

    @precondition(lambda self: not self.away)
    @rule()
    def server_loses_its_data(self):
        # Whoever is awake has noticed by now what is not his any more; of the others, none wakes at this moment.
        for zombie in self.zombies:
            zombie.claims.close()
        self.zombies.clear()
        for worker in self.workers.values():
            self.links[worker].fault = None
            worker.turn(2)
        with self.valkey.client() as client:
            client.flushall()
        # What waited, and what no finalizer had fetched yet, is gone; what is being decoded comes back.
        self.forgotten |= set(self.site.asked)

    @invariant()
    def what_is_shown_is_the_start_of_what_was_meant(self):
        for gid, shown in self.site.shown.items():
            assert text_of(self.site.asked[gid]).startswith(shown.text)

    def settle(self):
        """All faults are over: everything ends, and every text is one text."""
        if self.away:
            self.server_returns()
        for link in self.links.values():
            link.fault = None
        self.start_worker("one")
        for _ in range(12):
            for worker in [*self.workers.values(), *self.zombies]:
                worker.turn(70)
            self.leases_end()
            for _ in range(5):
                self.site.read()
                self.site.store()
        for gid, shown in self.site.shown.items():
            request = self.site.asked[gid]
            state = self.site.run(self.site.service.state(gid))
            if state == "lost":
                assert gid in self.forgotten
                continue
            assert state == "ended", (gid, state)
            replay = self.site.run(self.site.service.replay(gid))
            record = self.site.stored[gid]
            assert shown.end is not None
            assert shown.text == record.text == replay.text
            assert tuple(shown.ids) == record.ids
            assert record.finish == shown.end.finish
            if record.finish in ("stop", "length"):
                assert record.text == text_of(request)
            else:
                assert text_of(request).startswith(record.text)
        for worker in [*self.workers.values(), *self.zombies]:
            assert worker.writer.empty and not worker.engine.answers
        # A look may be lost with the worker or the server that had it, but it is never of another answer.
        for text, task in self.looks:
            if not task.done():
                task.cancel()
            elif seen := task.result():
                assert [chosen.text for chosen in seen.answer] == [text]


Chat.TestCase.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestChat = Chat.TestCase
