"""The site's side, against a real server and workers that are played by hand."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_parts import Site, about, request_for
from wire import events
from wire.claims import Claims, Write
from wire.done import DoneQueue
from wire.events import Delta, End
from wire.messages import Finished, Timings, Usage
from wire.service import Accepted, Busy, Limits, Place, UnavailableError

USAGE = Usage(prompt_tokens=1, completion_tokens=1)
TIMINGS = Timings(queued_ms=None, first_token_ms=None, total_ms=None, tokens_per_second=None)


@pytest.fixture
def claims(valkey):
    made = Claims(valkey.url, "w", "1")
    yield made
    made.close()


def delta(number, epoch=1):
    return f"{epoch}-{number}", events.to_json(Delta(f"{number} ", (number,)))


def end(gid, number, epoch=1):
    record = Finished(gid, "stop", None, "text", (1,), "w", "fake", None, USAGE, TIMINGS)
    return Write(
        gid, epoch, "0-0", [(f"{epoch}-{number}", events.to_json(End("stop", None, USAGE, TIMINGS)))], "", record
    )


def test_the_first_is_first_and_the_next_is_behind_it(site):
    assert site.send(gid="a") == Accepted("a", 1, 1, False)
    assert site.send(gid="b") == Accepted("b", 2, 2, False)
    assert site.run(site.service.positions(["b", "never"])) == {"b": Place(2, 2, None, 0)}
    assert site.run(site.service.state("a")) == "queued"
    assert site.run(site.service.state("never")) == "lost"


def test_what_is_sent_twice_is_generated_once(site):
    site.send(gid="a", client_id="click")
    assert site.send(gid="b", client_id="click") == Accepted("a", 1, 1, True)
    assert site.run(site.service.state("b")) == "lost"


def test_what_is_sent_many_times_at_once_is_generated_once(valkey):
    def send(n):
        with Site(valkey.url) as site:
            return site.send(gid=f"g{n}", client_id="click")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert len({answer.gid for answer in answers}) == 1
    assert sum(not answer.existing for answer in answers) == 1


def test_the_same_client_id_of_two_users_is_two_generations(site):
    assert site.send(user="u", gid="a", client_id="1").gid == "a"
    assert site.send(user="v", gid="b", client_id="1").gid == "b"


def test_a_user_has_only_so_many_at_once_and_others_are_not_held_up(site, claims):
    for n in range(4):
        assert isinstance(site.send(user="u", gid=f"a{n}"), Accepted)
    busy = site.send(user="u", gid="a4", client_id="a4")
    assert isinstance(busy, Busy) and busy.reason == "user" and busy.retry_after >= 1
    assert isinstance(site.send(user="v"), Accepted)
    claims.exchange(room=1)
    claims.exchange([end("a0", 1)])
    assert site.send(user="u", gid="a4", client_id="a4") == Accepted("a4", 5, 5, False)


def test_what_a_lost_generation_left_behind_locks_nobody_out(site, valkey):
    for n in range(4):
        site.send(gid=f"a{n}")
    with valkey.client() as client:
        client.delete(*(site.service.keys.generation(f"a{n}") for n in range(4)))
    assert isinstance(site.send(gid="b"), Accepted)


def test_a_full_queue_says_when_to_come_again_and_says_it_soon(valkey):
    limits = Limits(waiting=200, active_per_user=1_000, per_minute=1_000)
    with Site(valkey.url, limits=limits) as site:
        for _ in range(200):
            assert isinstance(site.send(), Accepted)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            busy = site.send(gid="late")
            took.append(time.perf_counter() - began)
            assert isinstance(busy, Busy) and busy.reason == "queue" and busy.retry_after >= 1
        # The promise is 50 ms; a machine at work on something else gets more.
        assert min(took) < 0.5
        assert site.run(site.service.state("late")) == "lost"


def test_too_many_in_a_minute_are_refused_until_the_minute_is_over(valkey):
    with Site(valkey.url, limits=Limits(active_per_user=100, per_minute=3)) as site:
        answers = [site.send() for _ in range(8)]
        # A minute may end between two of them.
        refused = [answer for answer in answers if isinstance(answer, Busy)]
        assert refused and {answer.reason for answer in refused} == {"rate"}
        assert all(1 <= answer.retry_after <= 60 for answer in refused)
        assert isinstance(site.send(user="another"), Accepted)


def test_a_server_out_of_memory_admits_nothing_and_what_runs_is_written_to_its_end(valkey, claims):
    with Site(valkey.url) as site, valkey.client() as client:
        gid = site.ask()
        claims.exchange(room=1)
        client.config_set("maxmemory", "1mb")
        assert isinstance(site.send(), Busy)
        assert claims.exchange([Write(gid, 1, "0-0", [delta(1)])]).verdicts == {gid: "ok"}
        assert claims.exchange([end(gid, 2)], room=1, renew=True, beat=about()).refusal is None
        site.until(lambda: site.shown[gid].end)
        assert site.shown[gid].text == "1 "


def test_one_that_waits_is_cancelled_at_once_and_stored_as_such(site, claims):
    gid, other = site.ask(), site.ask()
    site.run(site.service.cancel(gid))
    assert site.end_of(gid).finish == "cancelled"
    assert site.run(site.service.state(gid)) == "ended"
    assert site.run(site.service.positions([other]))[other].position == 1
    assert [claim.gid for claim in claims.exchange(room=4).claims] == [other]


def test_cancelling_twice_or_after_the_end_or_what_never_was_changes_nothing(site, claims):
    gid = site.ask()
    claims.exchange(room=1)
    claims.exchange([end(gid, 1)])
    for _ in range(2):
        site.run(site.service.cancel(gid))
        site.run(site.service.cancel("never"))
    site.until(lambda: site.shown[gid].end)
    assert site.shown[gid].end.finish == "stop"
    assert site.run(site.service.state("never")) == "lost"
    site.store()
    assert site.records == [gid]


def test_one_read_serves_many_generations_and_each_from_its_cursor(site, claims):
    gids = [site.ask() for _ in range(3)]
    claims.exchange(room=3)
    claims.exchange([Write(gid, 1, "0-0", [delta(1), delta(2)]) for gid in gids])
    found = site.run(site.service.read(dict(zip(gids, ("0-0", "1-1", "1-2"), strict=True)), 1))
    assert [(gid, event_id) for gid, event_id, _ in found] == [(gids[0], "1-1"), (gids[0], "1-2"), (gids[1], "1-2")]


def test_the_last_cursor_that_there_is_keeps_no_other_generation_from_being_read(site, claims):
    gids = [site.ask() for _ in range(2)]
    claims.exchange(room=2)
    claims.exchange([Write(gid, 1, "0-0", [delta(1)]) for gid in gids])
    last = f"{2**64 - 1}-{2**64 - 1}"
    found = site.run(site.service.read({gids[0]: "0-0", gids[1]: last}, 1))
    assert [(gid, event_id) for gid, event_id, _ in found] == [(gids[0], "1-1")]


def test_a_blocked_read_wakes_for_events_and_when_it_is_told_to(site, valkey, claims):
    gid = site.ask()
    claims.exchange(room=1)
    claims_too = Claims(valkey.url, "w", "1")
    threading.Timer(0.1, lambda: claims_too.exchange([Write(gid, 1, "0-0", [delta(1)])])).start()
    began = time.monotonic()
    assert site.run(site.service.read({gid: "0-0"}, 20_000))[0][1] == "1-1"
    with Site(valkey.url) as another:
        process = site.service.process
        timer = threading.Timer(0.1, lambda: another.run(another.service.wake(process)))
        timer.start()
        assert site.run(site.service.read({gid: "1-1"}, 20_000)) == []
        timer.join()
    assert time.monotonic() - began < 10
    # A wake-up is heard once.
    assert site.run(site.service.read({gid: "1-1"}, 1)) == []
    claims_too.close()


def test_a_replay_gives_what_a_reader_lacks_and_the_whole_text(site, claims):
    gid = site.ask()
    claims.exchange(room=1)
    claims.exchange([Write(gid, 1, "0-0", [delta(1), delta(2), delta(3)])])
    replay = site.run(site.service.replay(gid, "1-2"))
    assert not replay.gap and not replay.ended
    assert [event_id for event_id, _ in replay.items] == ["1-3"]
    assert (replay.text, replay.last) == ("1 2 3 ", "1-3")
    lost = site.run(site.service.replay("never", "1-2"))
    assert lost.gap and lost.text == "" and not lost.items


def test_workers_are_those_that_were_heard_of_lately(site, valkey, claims):
    assert site.run(site.service.workers()) == []
    claims.exchange(beat=about())
    site.send()
    assert site.run(site.service.workers()) == [about()]
    assert list(site.run(site.service.positions(list(site.shown))).values()) == [Place(1, 1, 0.0, 1)]
    with valkey.client() as client:
        client.zadd(site.service.keys.workers, {"w": 1})
    assert site.run(site.service.workers()) == []


def test_the_waiting_time_comes_from_how_long_answers_took_and_how_many_run_at_once(valkey, claims):
    with Site(valkey.url, limits=Limits(active_per_user=100)) as site, valkey.client() as client:
        gids = [site.ask() for _ in range(6)]
        claims.exchange(beat=about(batch=2))
        client.set(site.service.keys.pace, 4_000)
        places = site.run(site.service.positions(gids))
        assert [places[gid].eta_seconds for gid in gids] == [0, 0, 2, 4, 6, 8]


def test_a_server_that_is_away_is_one_kind_of_error(valkey):
    with Site(valkey.url) as site:
        site.ask()
        valkey.kill()
        for call in (
            site.service.submit(request_for("x"), "x"),
            site.service.cancel("x"),
            site.service.positions(["x"]),
            site.service.state("x"),
            site.service.read({"x": "0-0"}, 10),
            site.service.replay("x", "0-0"),
            site.service.workers(),
            site.service.wake("x"),
        ):
            with pytest.raises(UnavailableError, match="is REDIS_URL right"):
                site.run(call)
        valkey.start()
        assert isinstance(site.send(), Accepted)


def test_records_come_again_until_they_are_acknowledged(site, valkey, claims):
    gid = site.ask()
    claims.exchange(room=1)
    claims.exchange([end(gid, 1)])
    first = DoneQueue(valkey.url, "one")
    assert [record.gid for _, record in first.take(1)] == [gid]
    # Restarted under its name, it has it again; and another has it once it lay too long.
    again = DoneQueue(valkey.url, "one")
    assert [record.gid for _, record in again.take(1)] == [gid]
    other = DoneQueue(valkey.url, "two", idle_ms=1)
    time.sleep(0.01)
    ((number, record),) = other.take(1)
    assert record.gid == gid
    other.acknowledge([number])
    for queue in (DoneQueue(valkey.url, "one", idle_ms=1), other):
        assert queue.take(1) == []


def test_a_record_that_cannot_be_read_is_told_once_and_holds_up_no_other(site, valkey, claims, caplog):
    gid = site.ask()
    claims.exchange(room=1)
    with valkey.client() as client:
        for values in ({"d": '{"gid":"a"}'}, {"x": ""}):
            client.xadd(site.service.keys.done, values)
        claims.exchange([end(gid, 1)])
        queue = DoneQueue(valkey.url, "one")
        assert [record.gid for _, record in queue.take(1)] == [gid]
        assert [line.levelname for line in caplog.records] == ["ERROR", "ERROR"] and "missing key" in caplog.text
        # Restarted, it has what it did not acknowledge, and nothing else.
        assert [record.gid for _, record in DoneQueue(valkey.url, "one").take(1)] == [gid]
        assert client.xlen(site.service.keys.done) == 1


def test_a_finalizer_goes_on_after_the_server_lost_its_data(site, valkey, claims):
    queue = DoneQueue(valkey.url, "one")
    assert queue.take(1) == []
    with valkey.client() as client:
        client.flushall()
    gid = site.ask()
    claims.exchange(room=1)
    claims.exchange([end(gid, 1)])
    assert [record.gid for _, record in queue.take(1)] == [gid]


def test_two_chats_share_a_server_without_seeing_each_other(valkey):
    with Site(valkey.url) as one, Site(valkey.url, prefix="d") as two:
        gid = one.ask(gid="a")
        assert two.run(two.service.state(gid)) == "lost"
        claims = Claims(valkey.url, "w", "1", prefix="d")
        assert claims.exchange(room=1).claims == []
