"""The loop and the writer, in this process and step by step, against a real server."""

import re
import threading
from dataclasses import replace

import pytest
import redis
from chat_parts import Driven, FakeEngine, about, request_for, text_of
from wire import claims as wire_claims
from wire import service
from wire.claims import Claims
from wire.events import Delta, Resume, Snapshot, Start
from worker import answer as answers
from worker import writer as writers
from worker.loop import Worker
from worker.writer import Writer


@pytest.fixture
def driven(valkey, monkeypatch):
    # Turn by turn: what a step said stands in Redis after its turn.
    monkeypatch.setattr(writers, "TEXT_SECONDS", 0)
    made = []

    def make(*args, **options):
        made.append(Driven(valkey.url, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.claims.close()


@pytest.fixture
def lapse(valkey, site):
    def over():
        with valkey.client() as client:
            for gid in client.zrange(site.service.keys.leases, 0, -1):
                client.zadd(site.service.keys.leases, {gid: 1})

    return over


def test_an_answer_is_told_from_start_to_end(site, driven):
    one = driven()
    gid = site.ask("say 6", seed=3, target="adapter")
    one.turn(12)
    end = site.end_of(gid)
    assert site.shown[gid].text == text_of(site.asked[gid])
    assert (end.finish, end.reason) == ("stop", None)
    assert end.usage == {"prompt_tokens": 5, "completion_tokens": 6}
    assert end.timings["queued_ms"] >= 0 and end.timings["first_token_ms"] >= 0 and end.timings["total_ms"] > 0
    assert end.timings["tokens_per_second"] > 0
    assert site.seen[gid][0] == Start("w", "fake", "ad" * 32, 3, 5, "adapter", 0)
    record = site.stored[gid]
    assert (record.worker, record.model, record.adapter_sha) == ("w", "fake", "ad" * 32)
    assert one.writer.empty


def test_the_base_model_answers_without_the_adapters_hash(site, driven):
    gid = site.ask("say 2", target="base")
    driven().turn(6)
    assert site.end_of(gid).finish == "stop"
    assert site.stored[gid].adapter_sha is None


def test_an_answer_ends_at_its_length(site, driven):
    gid = site.ask("say 100", max_new_tokens=7)
    driven().turn(12)
    end = site.end_of(gid)
    assert (end.finish, end.usage["completion_tokens"]) == ("length", 7)


def test_answers_of_several_users_share_the_steps_and_leave_room_for_the_next(site, driven):
    one = driven(batch=3)
    gids = [site.ask(f"say {4 + n}", user=f"u{n}", seed=n) for n in range(5)]
    one.turn(3)
    assert one.engine.most == 3
    one.turn(20)
    for gid in gids:
        assert site.end_of(gid).finish == "stop"
        assert site.shown[gid].text == text_of(site.asked[gid])
    assert one.engine.most == 3


def test_a_refusal_is_an_end_with_its_reason(site, driven):
    gid = site.ask("refuse this")
    driven().turn(3)
    end = site.end_of(gid)
    assert (end.finish, end.reason) == ("error", "too_long")


def test_a_request_that_cannot_be_read_ends_with_an_error_and_holds_nobody_up(site, valkey, driven):
    gid, other = site.ask(), site.ask("say 3")
    with valkey.client() as client:
        client.hset(site.service.keys.generation(gid), "spec", '{"from": "another version"}')
    driven().turn(8)
    end = site.end_of(gid)
    assert (end.finish, end.reason) == ("error", "unreadable")
    assert site.end_of(other).finish == "stop"


def stop(site, one, gid):
    """Stop an answer after nine turns: it ends, with all that was decoded."""
    site.run(site.service.cancel(gid))
    one.writer.turn()
    one.writer.turn()
    # No step was needed: it does not have to wait for a long one.
    assert site.end_of(gid).finish == "cancelled"
    assert 4 <= len(site.shown[gid].ids) <= 9
    assert text_of(site.asked[gid]).startswith(site.shown[gid].text)


def test_a_stop_ends_the_answer_with_the_text_so_far(site, driven):
    one = driven()
    gid = site.ask("say 100")
    one.turn(9)
    stop(site, one, gid)
    one.turn()
    assert not one.engine.answers


def test_a_stop_between_two_pieces_of_text_is_heard_and_loses_no_word(site, driven, monkeypatch):
    one = driven()
    monkeypatch.setattr(writers, "TEXT_SECONDS", 3_600)
    gid = site.ask("say 100")
    one.turn(9)
    site.read()
    first = len(site.shown[gid].ids)
    assert 0 < first < 4
    stop(site, one, gid)


def test_another_goes_on_in_the_middle_with_the_same_text(site, driven, lapse):
    one, two = driven("one"), driven("two")
    gid = site.ask("say 30", seed=5)
    one.turn(12)
    site.read()
    shown = len(site.shown[gid].ids)
    assert 5 < shown < 30
    lapse()
    two.turn(40)
    end = site.end_of(gid)
    assert site.shown[gid].text == text_of(site.asked[gid])
    assert site.resumes(gid) == 1
    assert Resume(shown) in site.seen[gid]
    assert end.finish == "stop" and end.timings["first_token_ms"] is None
    # The first one wakes, and finds that it is not its answer any more.
    before = site.run(site.service.replay(gid)).last
    one.turn(5)
    assert one.writer.empty and not one.engine.answers
    assert site.run(site.service.replay(gid)).last == before


def test_one_that_died_after_its_last_token_is_ended_by_the_next(site, driven, lapse):
    gid = site.ask("say 9", max_new_tokens=4)
    one, two = driven("one"), driven("two")
    put = one.writer.put

    def lose_the_end(steps):
        if any(step.finish for step in steps):
            one.writer.put = lambda _: None
            steps = [replace(step, finish=None) for step in steps]
        put(steps)

    one.writer.put = lose_the_end
    one.turn(8)
    lapse()
    two.turn(3)
    end = site.end_of(gid)
    assert (end.finish, end.usage["completion_tokens"]) == ("length", 4)
    assert not two.engine.together


def test_events_of_another_version_are_begun_anew(site, valkey, driven, lapse):
    gid = site.ask("say 12")
    driven("one").turn(6)
    with valkey.client() as client:
        client.xadd(site.service.keys.events(gid), {"d": '{"type": "sigh"}'}, id="1-1000")
    lapse()
    driven("two").turn(20)
    record = next(iter(site.done.take(1)))[1]
    assert (record.finish, record.text) == ("stop", text_of(site.asked[gid]))


def test_another_model_begins_anew(site, driven, lapse):
    one, two = driven("one"), driven("two", state=replace(about("two"), adapter_sha="other"))
    gid, base = site.ask("say 12", target="adapter"), site.ask("say 12", target="base")
    one.turn(8)
    site.read()
    lapse()
    two.turn(20)
    for answer in (gid, base):
        site.end_of(answer)
        assert site.shown[answer].text == text_of(site.asked[answer])
    assert site.resumes(gid) == 0 and Snapshot("", ()) in site.seen[gid]
    assert site.stored[gid].adapter_sha == "other"
    assert site.resumes(base) == 1


def test_a_poisonous_answer_ends_with_an_error_and_what_it_said(site, valkey, driven, lapse):
    gid = site.ask("say 50")
    for n in range(3):
        driven(f"w{n}").turn(4)
        lapse()
    driven("last").turn(3)
    end = site.end_of(gid)
    assert (end.finish, end.reason) == ("error", "crashed")
    assert site.shown[gid].text
    assert site.resumes(gid) == 2


def test_a_worker_that_is_told_to_go_says_what_it_waits_for_and_not_for_long(site, valkey, caplog):
    worker = Worker(FakeEngine(0.01), Writer(Claims(valkey.url, "w", "1"), about()))
    running = threading.Thread(target=worker.run)
    with caplog.at_level("INFO"):
        running.start()
        gid = site.ask("say forever", max_new_tokens=4_096)
        site.until_tokens(gid, 3)
        worker.stop()
        running.join(20)
    assert not running.is_alive()
    assert re.search(r"waiting up to [34] s for 1 answers that are being written", caplog.text)
    assert site.run(site.service.state(gid)) == "queued", "the next worker goes on with it"


@pytest.mark.parametrize(("text", "reason"), [("Kue", None), ("refuse", "no_look"), ("raise", "failed")])
def test_a_finished_answer_is_looked_at_while_others_are_written(site, valkey, text, reason):
    worker = Worker(FakeEngine(0.01), Writer(Claims(valkey.url, "w", "1"), about()))
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        seen = site.run(site.service.look(request_for("Apa?"), text, True))
        gid = site.ask("say forever", max_new_tokens=4_096)
        site.until_tokens(gid, 3)
        again = site.run(site.service.look(request_for("Apa?"), text, True))
        count = len(site.shown[gid].ids)
        site.until_tokens(gid, count + 3)
    finally:
        worker.stop(0.0)
        running.join(20)
    assert seen == again and seen.reason == reason
    if reason is None:
        assert (seen.prompt[0].text, seen.answer[0].text, seen.answer[0].adapter) == ("Apa?", "Kue", 0.75)


def test_a_look_that_nobody_answers_ends(site, monkeypatch):
    monkeypatch.setattr(service, "LOOK_SECONDS", 1)
    assert site.run(site.service.look(request_for("Apa?"), "Kue", True)) is None


def test_what_is_handed_over_goes_on_elsewhere(site, driven):
    one, two = driven("one"), driven("two")
    gids = [site.ask("say 20", seed=n) for n in range(3)]
    one.turn(7)
    one.release()
    two.turn(30)
    for gid in gids:
        assert site.end_of(gid).finish == "stop"
        assert site.shown[gid].text == text_of(site.asked[gid])
        assert site.resumes(gid) == 1


def test_the_one_at_fault_fails_alone_and_the_others_are_answered(site, driven):
    one = driven()
    fine = [site.ask("say 9", seed=n) for n in range(2)]
    bad = site.ask("say 20 and raise")
    one.turn(60)
    end = site.end_of(bad)
    assert (end.finish, end.reason) == ("error", "failed")
    for gid in fine:
        assert site.end_of(gid).finish == "stop"
        assert site.shown[gid].text == text_of(site.asked[gid])
    after = site.ask("say 3")
    one.turn(8)
    assert site.end_of(after).finish == "stop"


def test_an_error_that_passes_costs_nobody_the_answer(site, driven):
    one = driven()
    gids = [site.ask("say 9", seed=n) for n in range(3)]
    one.turn(4)
    one.engine.raise_next = 1
    one.turn(60)
    for gid in gids:
        assert site.end_of(gid).finish == "stop"
        assert site.shown[gid].text == text_of(site.asked[gid])


def test_an_error_at_a_prompt_is_tried_once_more_and_the_others_go_on_together(site, driven):
    one = driven()
    fine = [site.ask("say 30", seed=n) for n in range(2)]
    one.turn(4)
    bad = site.ask("stumble")
    one.turn(2)
    assert {frozenset(gids) for gids in one.engine.together[-2:]} == {frozenset(fine)}
    one.turn(60)
    assert site.end_of(bad).finish == "error"
    for gid in fine:
        assert site.end_of(gid).finish == "stop"


class Faulty:
    """A connection that breaks: before the server was asked, or before its answer came."""

    def __init__(self, claims):
        self._exchange, self.plan = claims.exchange, []
        claims.exchange = self

    def __call__(self, *args, **options):
        fault = self.plan.pop(0) if self.plan else None
        if fault == "before":
            raise redis.ConnectionError("broken")
        answer = self._exchange(*args, **options)
        if fault == "after":
            raise redis.ConnectionError("broken")
        return answer


@pytest.mark.parametrize("plan", [["before"], ["after"], ["after", "before", "after"], ["before", None] * 5])
@pytest.mark.parametrize("turns_before", [0, 1, 2, 4, 10])
def test_a_broken_connection_loses_and_doubles_nothing(site, driven, plan, turns_before):
    one = driven()
    faulty = Faulty(one.claims)
    gid = site.ask("say 8")
    one.turn(turns_before)
    faulty.plan = list(plan)
    one.turn(30)
    assert site.end_of(gid).finish == "stop"
    assert site.shown[gid].text == text_of(site.asked[gid])
    assert site.records == [gid]
    assert one.writer.empty


@pytest.mark.parametrize("keep_data", [True, False])
def test_decoding_goes_on_while_the_server_is_away_and_nothing_is_lost(site, valkey, driven, keep_data):
    one = driven()
    gid, other = site.ask("say 40", seed=1), site.ask("say 12", seed=2)
    one.turn(6)
    site.read()
    valkey.kill()
    one.turn(10)
    assert len(one.writer.written(gid)[0]) >= 15
    valkey.restart(keep_data=keep_data)
    one.turn(50)
    for answer in (gid, other):
        assert site.end_of(answer).finish == "stop"
        assert site.shown[answer].text == text_of(site.asked[answer])
    snapshots = [event for event in site.seen[gid] if isinstance(event, Snapshot)]
    assert len(snapshots) == (0 if keep_data else 1)


def test_data_lost_and_lost_again_while_it_is_put_back(site, valkey, driven):
    one = driven()
    gid = site.ask("say 30")
    one.turn(6)
    recover = one.claims.recover

    def unheard(*args):
        recover(*args)
        one.claims.recover = recover
        raise redis.ConnectionError("broken")

    for fault in (unheard, recover):
        one.claims.recover = fault
        with valkey.client() as client:
            client.flushall()
        one.turn(4)
    one.turn(60)
    assert site.end_of(gid).finish == "stop"
    assert site.shown[gid].text == text_of(site.asked[gid])


def test_an_answer_that_begins_while_its_data_is_lost_is_told_once(site, valkey, driven):
    one = driven()
    gid = site.ask("say 12")
    one.writer.turn()
    with valkey.client() as client:
        client.flushall()
    # The writer sees the loss, and the model begins before the answer is put back.
    one.writer.turn()
    one.worker.turn()
    one.turn(20)
    assert site.end_of(gid).finish == "stop"
    whole = site.run(site.service.replay(gid))
    assert site.shown[gid].text == whole.text == text_of(site.asked[gid])
    assert sum(isinstance(event, Start) for _, event in whole.items) == 1


def test_decoding_waits_when_the_server_stays_away(site, valkey, driven, monkeypatch):
    monkeypatch.setattr(writers, "OUTAGE_SECONDS", 0.0)
    one = driven()
    gid = site.ask("say 30")
    one.turn(3)
    valkey.kill()
    one.turn(2)
    steps = len(one.engine.together)
    one.turn(5)
    assert len(one.engine.together) == steps
    valkey.start()
    one.turn(60)
    assert site.end_of(gid).finish == "stop"


def test_a_loop_that_hangs_loses_its_leases(site, driven, monkeypatch):
    one = driven()
    site.ask("say 100")
    one.turn(2)
    leases = site.service.keys.leases

    def renewed():
        one.writer._renewed = -1e9
        site.run(site.service._commands.zadd(leases, {gid: 1 for gid in site.shown}))
        one.writer.turn()
        return site.run(site.service._commands.zscore(leases, next(iter(site.shown)))) > 1

    assert renewed()
    monkeypatch.setattr(writers, "STALL_SECONDS", 0.0)
    assert not renewed()


def test_a_long_answer_is_kept_short_in_the_server_and_whole_for_the_reader(site, driven, monkeypatch):
    monkeypatch.setattr(answers, "SNAPSHOT_EVENTS", 20)
    one, two = driven("one"), driven("two")
    gid = site.ask("say 300", max_new_tokens=300)
    late = 0
    for n in range(150):
        one.turn()
        if n % 7 == 0:
            site.read()
        late = max(late, len(site.run(site.service.replay(gid)).items))
    assert late <= 3 * 20 + 4
    one.release()
    two.turn(3)
    site.read()
    two.turn(250)
    site.end_of(gid)
    assert site.shown[gid].text == text_of(site.asked[gid])
    assert site.resumes(gid) == 1
    assert any(isinstance(event, Snapshot) for event in site.seen[gid])


def test_the_heartbeat_tells_how_much_is_going_on(site, driven):
    one = driven(batch=3)
    for n in range(2):
        site.ask("say 50", seed=n)
    one.turn(4)
    one.writer._beaten -= 10
    one.turn()
    (state,) = site.run(site.service.workers())
    assert (state.name, state.batch, state.active) == ("w", 3, 2)
    assert state.tokens_per_second > 0


def test_the_lease_and_its_renewal_are_as_promised():
    claims = Claims("unix:///nowhere", "w", "1")
    assert claims.lease_ms == 10_000
    assert claims.lease_ms / writers.RENEWALS == 2_500
    assert wire_claims.MAX_TAKEOVERS == 2


def test_deltas_hold_whole_tokens_and_their_texts_add_up(site, driven):
    gid = site.ask("say 40")
    driven().turn(50)
    site.end_of(gid)
    deltas = [event for event in site.seen[gid] if isinstance(event, Delta)]
    assert "".join(one.text for one in deltas) == text_of(request_for("say 40"))
    assert [token for one in deltas for token in one.ids] == list(range(40))
