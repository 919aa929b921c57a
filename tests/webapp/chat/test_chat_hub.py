import asyncio

from chat import hub
from chat.hub import Hub, Ring
from fake_service import FakeService, world
from socket_client import run
from wire.events import ORIGIN, Delta, End
from wire.messages import Request, Timings, Turn, Usage


class Ear:
    """A listener that takes what it lacks each time it is stirred."""

    def __init__(self, hub):
        self.hub, self.got, self.cursors, self.stirred = hub, {}, {}, asyncio.Event()

    def stir(self, gid):
        ring = self.hub.ring(gid)
        items = ring.after(self.cursors.get(gid, ORIGIN)) if ring else None
        for event_id, event in items or []:
            self.cursors[gid] = event_id
            self.got.setdefault(gid, []).append(event)
        self.stirred.set()

    def stir_status(self):
        pass

    async def hears(self, gid, count):
        while len(self.got.get(gid, [])) < count:
            self.stirred.clear()
            await self.stirred.wait()


def request(gid):
    return Request(gid, "1", "c", (Turn("user", "Halo"),), "adapter", 1)


def test_a_ring_gives_what_is_after_a_cursor_and_says_when_it_cannot():
    ring = Ring(start=ORIGIN, last=ORIGIN)
    for number in range(1, hub.RING + 11):
        ring.append(f"1-{number}", Delta("x", ()))
    assert [event_id for event_id, _ in ring.after(f"1-{hub.RING + 8}")] == [f"1-{hub.RING + 9}", f"1-{hub.RING + 10}"]
    assert len(ring.after("1-10")) == hub.RING
    assert ring.after("1-9") is None
    assert ring.after(f"1-{hub.RING + 10}") == []


def test_a_ring_takes_ids_by_their_numbers_and_echoes_not_at_all():
    ring = Ring(start=ORIGIN, last=ORIGIN)
    for event_id in ("1-9", "1-10", "1-9", "2-1", "1-11"):
        ring.append(event_id, Delta(event_id, ()))
    assert [event_id for event_id, _ in ring.events] == ["1-9", "1-10", "2-1"]
    ring.append(
        "2-2",
        End(
            "stop",
            None,
            Usage(prompt_tokens=1, completion_tokens=1),
            Timings(queued_ms=None, first_token_ms=None, total_ms=None, tokens_per_second=None),
        ),
    )
    assert ring.ended


def test_one_read_serves_all_listeners_and_those_that_come_while_it_blocks():
    async def scenario():
        here = Hub(FakeService("memory://"))
        first, second = Ear(here), Ear(here)
        for gid in ("a", "b"):
            await here.service.submit(request(gid), gid)
        here.join(first)
        here.join(second)
        await here.follow("a", ORIGIN, first)
        # The read of "a" blocks now: "b" must not wait for its end.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await here.follow("b", ORIGIN, second)
        await here.follow("a", ORIGIN, second)
        world.answer("b", "satu dua")
        world.answer("a", "tiga")
        async with asyncio.timeout(60):
            await second.hears("b", 4)
            await second.hears("a", 3)
            await first.hears("a", 3)
        assert "b" not in first.got
        await here.close()

    run(scenario())


def test_nobody_who_left_costs_anything():
    async def scenario():
        here = Hub(FakeService("memory://"))
        one, other = Ear(here), Ear(here)
        for ear in (one, other):
            here.join(ear)
            await here.follow("a", ORIGIN, ear)
        here.quit(one)
        assert here.ring("a") is not None
        here.leave("a", other)
        assert here.ring("a") is None
        await here.close()

    run(scenario())


def test_who_leaves_while_another_begins_to_follow_takes_nothing_with_them():
    class SlowToWake(FakeService):
        """Waking the blocked read takes until it is told."""

        def __init__(self):
            super().__init__("memory://")
            self.waking, self.go_on = asyncio.Event(), asyncio.Event()

        async def wake(self, process):
            self.waking.set()
            await self.go_on.wait()
            await super().wake(process)

    async def scenario():
        here = Hub(SlowToWake())
        leaving, coming = Ear(here), Ear(here)
        for gid, ear in (("a", leaving), ("b", coming)):
            here.join(ear)
            await here.service.submit(request(gid), gid)
        await here.follow("a", ORIGIN, leaving)
        # The read of "a" blocks now.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            following = asyncio.create_task(here.follow("b", ORIGIN, coming))
            await here.service.waking.wait()
            here.quit(leaving)
            here.service.go_on.set()
            await following
            world.answer("b", "satu dua")
            await coming.hears("b", 4)
        await here.close()

    run(scenario())


def test_what_a_read_brings_for_a_page_that_left_is_not_told_to_one_that_came_back_further_behind():
    class HeldRead(FakeService):
        """A read that has begun returns when it is told."""

        def __init__(self):
            super().__init__("memory://")
            self.reading, self.go_on = asyncio.Event(), asyncio.Event()

        async def read(self, cursors, block_ms):
            found = await super().read(cursors, block_ms)
            if cursors == {"a": "1-3"}:
                self.reading.set()
                await self.go_on.wait()
            return found

    async def scenario():
        here = Hub(HeldRead())
        leaving, coming = Ear(here), Ear(here)
        here.join(leaving)
        await here.service.submit(request("a"), "a")
        world.start("a")
        world.tell("a", "satu", " dua")
        async with asyncio.timeout(60):
            await here.follow("a", ORIGIN, leaving)
            await leaving.hears("a", 3)
            world.tell("a", " tiga")
            await here.service.reading.wait()
            # The page is cut before it has the last two words, and comes back.
            here.quit(leaving)
            here.join(coming)
            coming.cursors["a"] = "1-2"
            await here.follow("a", "1-2", coming)
            here.service.go_on.set()
            await coming.hears("a", 2)
        assert [event.text for event in coming.got["a"]] == [" dua", " tiga"]
        await here.close()

    run(scenario())


def test_reading_goes_on_after_redis_was_away(monkeypatch):
    monkeypatch.setattr(hub, "LOOK_SECONDS", 0.01)

    async def scenario():
        here = Hub(FakeService("memory://"))
        ear = Ear(here)
        here.join(ear)
        await here.service.submit(request("a"), "a")
        world.online = False
        await here.follow("a", ORIGIN, ear)
        async with asyncio.timeout(60):
            while here.status.online:
                await asyncio.sleep(0.01)
            world.online = True
            world.answer("a", "satu dua tiga")
            await ear.hears("a", 5)
        assert here.status.online
        await here.close()

    run(scenario())


def test_of_many_that_wait_a_few_at_a_time_are_told_their_place(monkeypatch):
    told, pauses = [], []

    class Waiting(Ear):
        def stir(self, gid):
            if self.hub.ring(gid).place:
                told.append(gid)

    async def many():
        made = Hub(FakeService(""))
        ear, gids = Waiting(made), [f"g{n:02}" for n in range(35)]
        for gid in gids:
            await made.service.submit(request(gid), gid)
            await made.follow(gid, ORIGIN, ear)
        pause, begun = asyncio.sleep, asyncio.Event()

        async def counted(seconds):
            if seconds:
                pauses.append((len(told), seconds))
                if len(told) == len(gids):
                    begun.set()
            await pause(0)

        monkeypatch.setattr(hub.asyncio, "sleep", counted)
        made.join(ear)
        async with asyncio.timeout(60):
            await begun.wait()
        await made.close()

    run(many())
    first = pauses[: [count for count, _ in pauses].index(35) + 1]
    assert [count for count, _ in first] == [10, 20, 30, 35]
    assert sum(seconds for _, seconds in first[:-1]) < hub.LOOK_SECONDS


class Choosy(FakeService):
    """Of some generations nothing can be read, and nothing at all while it refuses."""

    def __init__(self, *bad):
        super().__init__("memory://")
        self.bad, self.refuses = set(bad), False

    async def read(self, cursors, block_ms):
        if self.refuses or self.bad & set(cursors):
            raise ValueError("Invalid stream ID")
        return await super().read(cursors, block_ms)


def test_a_generation_that_cannot_be_read_is_lost_and_keeps_no_other_from_being_read():
    async def scenario():
        here = Hub(Choosy("bad"))
        ear = Ear(here)
        here.join(ear)
        for gid in ("good", "bad"):
            await here.service.submit(request(gid), gid)
            await here.follow(gid, ORIGIN, ear)
        world.answer("good", "satu dua")
        async with asyncio.timeout(60):
            await ear.hears("good", 4)
        assert here.ring("bad").lost and not here.ring("good").lost and here.status.online
        await here.close()

    run(scenario())


def test_while_nothing_can_be_read_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(hub, "LOOK_SECONDS", 0.01)

    async def scenario():
        here = Hub(Choosy())
        here.service.refuses = True
        ear = Ear(here)
        here.join(ear)
        await here.service.submit(request("a"), "a")
        await here.follow("a", ORIGIN, ear)
        async with asyncio.timeout(60):
            while here.status.online:
                await asyncio.sleep(0)
            assert not here.ring("a").lost
            here.service.refuses = False
            world.answer("a", "satu")
            await ear.hears("a", 3)
        await here.close()

    run(scenario())
