"""Faults with real processes: workers and a server that die, hang, come back or are told to go."""

import signal
import threading
import time

import pytest
from chat_parts import FakeEngine, WorkerProcess, about, text_of
from wire.claims import Claims
from wire.service import UnavailableError
from worker import loop, writer


def assert_whole(site, gid):
    assert site.end_of(gid).finish == "stop"
    assert site.shown[gid].text == text_of(site.asked[gid])


def test_a_killed_worker_is_replaced_in_the_middle_of_the_answer(site, valkey):
    with WorkerProcess(valkey.url, "one", step_seconds=0.1) as one:
        gids = [site.ask("say 60", seed=n) for n in range(3)]
        for gid in gids:
            site.until_tokens(gid, 5)
        with WorkerProcess(valkey.url, "two"):
            one.kill()
            for gid in gids:
                assert_whole(site, gid)
                assert site.resumes(gid) == 1


def test_a_restarted_worker_goes_on_without_waiting_for_its_lease(site, valkey):
    with WorkerProcess(valkey.url, "one", step_seconds=0.1, lease_ms=3_600_000) as one:
        gid = site.ask("say 60")
        site.until_tokens(gid, 5)
        one.kill()
    with WorkerProcess(valkey.url, "one", lease_ms=3_600_000):
        assert_whole(site, gid)
        assert site.resumes(gid) == 1


def test_a_frozen_worker_is_replaced_and_writes_nothing_when_it_wakes(site, valkey):
    with (
        WorkerProcess(valkey.url, "one", step_seconds=0.1, lease_ms=4_000) as one,
        WorkerProcess(valkey.url, "two", step_seconds=0.05, lease_ms=4_000) as two,
    ):
        two.signal(signal.SIGSTOP)
        gid = site.ask("say 80")
        site.until_tokens(gid, 5)
        one.signal(signal.SIGSTOP)
        two.signal(signal.SIGCONT)
        site.until(lambda: site.resumes(gid) == 1)
        one.signal(signal.SIGCONT)
        assert_whole(site, gid)
        assert site.resumes(gid) == 1
        # It is fit for the next.
        two.kill()
        again = site.ask("say 5")
        assert site.end_of(again).finish == "stop"


def test_a_poisonous_prompt_ends_in_an_error_and_the_queue_moves(site, valkey):
    bad = site.ask("die at the fifth")
    others = [site.ask("say 30", seed=n) for n in range(2)]
    deaths = 0
    while True:
        # As the supervisor does: it starts again.
        with WorkerProcess(valkey.url, "one") as one:
            site.until(lambda: site.shown[bad].end or one.dead)
            if site.shown[bad].end:
                for gid in others:
                    assert_whole(site, gid)
                break
            deaths += 1
    assert deaths == 3
    assert site.end_of(bad).finish == "error"
    assert len(site.shown[bad].ids) >= 3


def test_a_worker_that_is_told_to_go_finishes_first_and_takes_nothing_new(site, valkey):
    # One answer at a time: there is no room for another before this one's end, when it has long heard that it is to go.
    with WorkerProcess(valkey.url, "one", step_seconds=0.05, batch=1) as one:
        gid = site.ask("say 40")
        site.until_tokens(gid, 5)
        one.signal(signal.SIGTERM)
        late = site.ask("say 5")
        assert_whole(site, gid)
        assert one.wait() == 0
        assert site.resumes(gid) == 0
        assert site.run(site.service.state(late)) == "queued"
        assert site.run(site.service.workers()) == []


def test_a_worker_that_is_interrupted_hands_over_at_once(site, valkey):
    with WorkerProcess(valkey.url, "one", step_seconds=0.1, lease_ms=3_600_000) as one:
        gid = site.ask("say 60")
        site.until_tokens(gid, 5)
        one.signal(signal.SIGINT)
        assert one.wait() == 0
    assert site.run(site.service.state(gid)) == "queued"
    with WorkerProcess(valkey.url, "two"):
        assert_whole(site, gid)
        assert site.resumes(gid) == 1


def test_an_idle_worker_goes_at_once(site, valkey):
    with WorkerProcess(valkey.url, "one") as one:
        site.until(lambda: site.run(site.service.workers()))
        one.signal(signal.SIGTERM)
        assert one.wait() == 0


@pytest.mark.parametrize("keep_data", [True, False])
def test_the_server_restarts_in_the_middle_of_the_answers(site, valkey, keep_data):
    with WorkerProcess(valkey.url, "one", step_seconds=0.05):
        gids = [site.ask("say 80", seed=n) for n in range(3)]
        for gid in gids:
            site.until_tokens(gid, 5)
        valkey.kill()
        time.sleep(0.3)
        with pytest.raises(UnavailableError):
            site.send()
        valkey.restart(keep_data=keep_data)
        for gid in gids:
            assert_whole(site, gid)
        # And on with what is new.
        assert site.end_of(site.ask("say 5")).finish == "stop"


def test_without_a_worker_a_prompt_is_taken_and_waits(site, valkey):
    gid = site.ask("say 5")
    place = site.run(site.service.positions([gid])).get(gid)
    assert (place.position, place.workers, place.eta_seconds) == (1, 0, None)
    with WorkerProcess(valkey.url, "one"):
        assert site.end_of(gid).finish == "stop"


def test_a_stop_takes_effect_within_a_long_step(site, valkey):
    with WorkerProcess(valkey.url, "one", step_seconds=4.0):
        gid = site.ask("say 100")
        site.until_tokens(gid, 1)
        site.run(site.service.cancel(gid))
        began = time.monotonic()
        assert site.end_of(gid).finish == "cancelled"
        assert time.monotonic() - began < 3


def test_the_first_word_does_not_wait(site, valkey, monkeypatch):
    # Whichever of the two looked only now and then would look too late.
    for part in (loop, writer):
        monkeypatch.setattr(part, "IDLE_SECONDS", 4.0)
    worker = loop.Worker(FakeEngine(), writer.Writer(Claims(valkey.url, "w", "1"), about()))
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        site.until(lambda: site.run(site.service.workers()))
        gid = site.ask("say 3")
        timings = site.end_of(gid).timings
        assert timings["queued_ms"] + timings["first_token_ms"] < 2_000
    finally:
        worker.stop(0.0)
        running.join(20)


def test_a_closed_browser_ends_nothing(site, valkey):
    gid = site.ask("say 20")
    with WorkerProcess(valkey.url, "one"):
        # Nobody reads; the record comes all the same.
        deadline = time.monotonic() + 60
        while gid not in site.stored:
            assert time.monotonic() < deadline
            site.store(50)
    assert site.end_of(gid).finish == "stop"
