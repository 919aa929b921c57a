"""Who owns a generation: the rules, with workers that are played by hand."""

import pytest
from wire import events
from wire.claims import MAX_TAKEOVERS, Claim, Claims, Write
from wire.events import Delta, End, Snapshot
from wire.messages import Finished, Timings, Usage

USAGE = Usage(prompt_tokens=1, completion_tokens=1)
TIMINGS = Timings(queued_ms=None, first_token_ms=None, total_ms=None, tokens_per_second=None)


@pytest.fixture
def worker(valkey):
    made = []

    def make(name, instance="1"):
        made.append(Claims(valkey.url, name, instance))
        return made[-1]

    yield make
    for claims in made:
        claims.close()


@pytest.fixture
def lapse(valkey, site):
    """The time of all leases is over."""

    def over():
        with valkey.client() as client:
            for gid in client.zrange(site.service.keys.leases, 0, -1):
                client.zadd(site.service.keys.leases, {gid: 1})

    return over


def taken(claims, **options):
    return [(claim.gid, claim.epoch, claim.takeovers) for claim in claims.exchange(room=8, **options).claims]


def delta(number, epoch=1):
    return f"{epoch}-{number}", events.to_json(Delta(f"{number} ", (number,)))


def write(claims, gid, *items, epoch=1, previous="0-0", **options):
    return claims.exchange([Write(gid, epoch, previous, items)], **options).verdicts[gid]


def test_each_is_claimed_by_one_in_the_order_of_arrival(site, worker):
    one, two = worker("one"), worker("two")
    gids = [site.ask() for _ in range(3)]
    assert [claim.gid for claim in one.exchange(room=2).claims] == gids[:2]
    assert taken(two) == [(gids[2], 1, 0)]
    assert taken(one) == []
    assert site.run(site.service.state(gids[0])) == "running"
    assert gids[0] not in site.run(site.service.positions(gids))


def test_a_worker_that_is_silent_is_replaced_and_one_that_renews_is_not(site, worker, lapse):
    one, two = worker("one"), worker("two")
    gid = site.ask()
    taken(one)
    lapse()
    assert write(one, gid, renew=True) == "ok"
    assert taken(two) == []
    lapse()
    assert taken(two) == [(gid, 2, 1)]


def test_what_a_replaced_worker_writes_is_refused_even_before_its_successor_has_written(site, worker, lapse):
    one, two = worker("one"), worker("two")
    gid = site.ask()
    taken(one)
    write(one, gid, delta(1))
    lapse()
    taken(two)
    record = Finished(gid, "stop", None, "x", (), None, None, None, USAGE, TIMINGS)
    last = ("1-3", events.to_json(End("stop", None, USAGE, TIMINGS)))
    assert write(one, gid, delta(2), previous="1-1", renew=True) == "lost"
    assert one.exchange([Write(gid, 1, "1-1", [last], "", record)]).verdicts == {gid: "lost"}
    one.release(gid, 1)
    assert not one.recover(Claim(gid, "{}", 1, 0, False, True, 0.0, 0.0, ("",) * 7), 2, None, Snapshot("", ()))
    assert write(two, gid, delta(1, 2), epoch=2, previous="1-1") == "ok"
    replay = site.run(site.service.replay(gid))
    assert [event_id for event_id, _ in replay.items] == ["1-1", "2-1"]
    assert site.run(site.service.state(gid)) == "running"


def test_the_server_itself_refuses_an_old_epoch(site, valkey, worker):
    """The rule that all rests on, should a script ever be wrong: ids only grow."""
    one = worker("one")
    gid = site.ask()
    taken(one)
    write(one, gid, delta(1, 2))
    with valkey.client() as client, pytest.raises(Exception, match="equal or smaller"):
        client.xadd(site.service.keys.events(gid), {"d": "x"}, id="1-99")


def test_what_is_written_again_is_not_doubled(site, worker):
    one = worker("one")
    gid = site.ask()
    taken(one)
    assert write(one, gid, delta(1), delta(2)) == "ok"
    assert write(one, gid, delta(1), delta(2), delta(3)) == "ok"
    assert [event_id for event_id, _ in site.run(site.service.replay(gid)).items] == ["1-1", "1-2", "1-3"]


def test_an_end_that_is_written_again_is_not_doubled_either(site, worker):
    one = worker("one")
    gid = site.ask()
    taken(one)
    record = Finished(gid, "stop", None, "1 ", (1,), None, None, None, USAGE, TIMINGS)
    last = ("1-2", events.to_json(End("stop", None, USAGE, TIMINGS)))
    for _ in range(2):
        assert one.exchange([Write(gid, 1, "0-0", [delta(1), last], "", record)]).verdicts == {gid: "ok"}
    assert site.end_of(gid).finish == "stop"
    assert site.records == [gid]
    assert site.run(site.service.state(gid)) == "ended"


def test_a_worker_hears_with_its_next_write_that_it_shall_stop(site, worker):
    one = worker("one")
    gid = site.ask()
    taken(one)
    assert write(one, gid) == "ok"
    site.run(site.service.cancel(gid))
    assert write(one, gid) == "cancel"


def test_a_restarted_worker_has_at_once_what_it_let_fall(site, worker):
    gid = site.ask()
    taken(worker("one", "1"))
    assert taken(worker("two"), own="name") == []
    assert taken(worker("one", "2")) == []
    assert taken(worker("one", "2"), own="name") == [(gid, 2, 1)]


def test_a_name_that_begins_like_anothers_is_another(site, worker):
    site.ask()
    taken(worker("one-1"))
    assert taken(worker("one"), own="name") == []


def test_a_claim_whose_answer_got_lost_is_made_again_and_counts_as_no_takeover(site, worker):
    one = worker("one")
    gid, held = site.ask(), site.ask()
    taken(one)
    claims = one.exchange([Write(held, 1, "0-0")], room=4, own="instance").claims
    assert [(claim.gid, claim.epoch, claim.takeovers) for claim in claims] == [(gid, 2, 0)]


def test_what_is_handed_over_keeps_its_place_and_counts_as_no_takeover(site, worker):
    one, two = worker("one"), worker("two")
    first, second = site.ask(), site.ask()
    assert [claim.gid for claim in one.exchange(room=1).claims] == [first]
    one.release(first, 1)
    assert site.run(site.service.positions([first]))[first].position == 1
    assert site.run(site.service.state(first)) == "queued"
    assert taken(two) == [(first, 2, 0), (second, 1, 0)]


def test_one_that_waits_with_text_is_cancelled_by_the_worker_that_takes_it(site, worker):
    one, two = worker("one"), worker("two")
    gid = site.ask()
    taken(one)
    write(one, gid, delta(1))
    one.release(gid, 1)
    site.run(site.service.cancel(gid))
    assert site.run(site.service.state(gid)) == "queued"
    (claim,) = two.exchange(room=1).claims
    assert claim.cancel


def test_what_brought_two_workers_down_runs_alone_and_is_poison_after_the_third(site, worker, lapse):
    one, two, three = worker("one"), worker("two"), worker("three")
    poison, innocent = site.ask(gid="a"), site.ask(gid="b")
    taken(one)
    lapse()
    assert taken(two) == [(poison, 2, 1), (innocent, 2, 1)]
    lapse()
    # The third time, alone: the other waits, and whatever is new waits too.
    site.ask()
    assert taken(one) == [("a", 3, MAX_TAKEOVERS)]
    lapse()
    (claim,) = three.exchange(room=8).claims
    assert claim.gid == poison and claim.poisonous and not claim.suspect


def test_a_suspect_waits_for_the_batch_to_be_empty_and_nothing_new_comes_before_it(site, valkey, worker):
    one = worker("one")
    busy = site.ask()
    one.exchange(room=1)
    suspect = site.ask()
    with valkey.client() as client:
        client.hset(site.service.keys.generation(suspect), "takeovers", MAX_TAKEOVERS)
    site.ask()
    assert one.exchange([Write(busy, 1, "0-0")], room=4).claims == []
    (claim,) = one.exchange(room=4).claims
    assert claim.gid == suspect and claim.suspect


def test_a_generation_without_its_hash_is_passed_over(site, valkey, worker):
    gid, other = site.ask(), site.ask()
    with valkey.client() as client:
        client.delete(site.service.keys.generation(gid))
    assert taken(worker("one")) == [(other, 1, 0)]


def test_what_the_server_forgot_is_put_back_under_a_new_epoch(site, valkey, worker):
    one = worker("one")
    gid = site.ask(client_id="click")
    (claim,) = one.exchange(room=1).claims
    write(one, gid, delta(1))
    with valkey.client() as client:
        client.flushall()
    assert write(one, gid, delta(2), previous="1-1") == "gone"
    for _ in range(2):
        assert one.recover(claim, 2, None, Snapshot("1 2 ", (1, 2)))
    assert write(one, gid, delta(3, 2), epoch=2, previous="2-2") == "ok"
    site.until(lambda: site.shown[gid].last == "2-3")
    assert site.shown[gid].text == "1 2 3 "
    # All of it is back: whose it is, that it was asked for already, and that its worker may die.
    assert site.send(client_id="click").existing
    assert taken(worker("one", "2"), own="name") == [(gid, 3, 1)]


def test_events_that_the_server_forgot_are_noticed(site, valkey, worker):
    one = worker("one")
    gid = site.ask()
    (claim,) = one.exchange(room=1).claims
    write(one, gid, delta(1), delta(2))
    with valkey.client() as client:
        client.xdel(site.service.keys.events(gid), "1-2")
    assert write(one, gid, delta(3), previous="1-2") == "gap"
    assert one.recover(claim, 2, None, Snapshot("1 2 3 ", (1, 2, 3)))
    assert site.run(site.service.replay(gid)).text == "1 2 3 "


def test_a_refusal_of_the_server_is_no_verdict(site, valkey, worker):
    one = worker("one")
    gid = site.ask()
    taken(one)
    with valkey.client() as client:
        client.delete(site.service.keys.events(gid))
        client.set(site.service.keys.events(gid), "no stream")
    exchange = one.exchange([Write(gid, 1, "0-0", [delta(1)])])
    assert exchange.verdicts == {gid: "refused"}
    assert "WRONGTYPE" in exchange.refusal


def test_an_idle_worker_wakes_when_something_comes_and_by_itself(site, worker):
    one = worker("one")
    site.ask()
    one.wait(20)
    one.wait(0.01)
