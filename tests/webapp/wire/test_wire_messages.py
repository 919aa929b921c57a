import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import events
from wire.events import Delta, End, Resume, Snapshot, Start, Transcript, id_of
from wire.messages import Finished, Offered, Request, Settings, Timings, Turn, Usage, WorkerState
from wire.strict import WireError

USAGE = Usage(prompt_tokens=3, completion_tokens=2)
TIMINGS = Timings(queued_ms=1.0, first_token_ms=None, total_ms=2.5, tokens_per_second=None)
REQUEST = Request("g-1", "u", "c", (Turn("user", "Apa kabar?"),), "adapter", 7, Settings(temperature=0.5))
EVENTS = [
    Start("w", "llama", None, 7, 12, "base"),
    Delta("日本 ", (1, 2)),
    Resume(2),
    Snapshot("日本 ", (1, 2)),
    End("error", "too_long", USAGE, TIMINGS),
]


def broken(changes):
    value = json.loads(REQUEST.to_json())
    for path, new in changes.items():
        *parents, last = path.split(".")
        at = value
        for name in parents:
            at = at[int(name)] if isinstance(at, list) else at[name]
        if new is KeyError:
            del at[last]
        else:
            at[last] = new
    return json.dumps(value)


def test_messages_come_back_from_json_as_they_were():
    record = Finished("g", "stop", None, "日本", (1, 2), "w", "llama", None, USAGE, TIMINGS)
    state = WorkerState("w", "transformers", "llama", None, 8, 1, 3.5, (Offered("demo/5_seed0", "ab", "chrF 31.3"),))
    for message in (REQUEST, record, state):
        assert type(message).from_json(message.to_json()) == message


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_back_from_json_as_they_were(event):
    text = events.to_json(event)
    assert events.from_json(text) == event
    assert json.loads(text) == {"type": type(event).__name__.lower(), **json.loads(json.dumps(asdict(event)))}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "Request: unknown key 'extra'"),
        ({"seed": KeyError}, "Request: missing key 'seed'"),
        ({"settings.top_q": 0.5}, "Request.settings: unknown key 'top_q'"),
        ({"seed": "7"}, "Request.seed: expected int, got str '7'"),
        ({"seed": True}, "Request.seed: expected int, got bool True"),
        ({"seed": 7.0}, "Request.seed: expected int, got float 7.0"),
        ({"seed": -1}, "seed=-1: choose from 0"),
        ({"seed": 2**32}, "seed=4294967296: choose from 0"),
        ({"turns": {}}, "Request.turns: expected a list, got dict {}"),
        ({"turns": []}, "turns: the last one must be the user's"),
        ({"turns.0.role": "robot"}, "expected one of system, user, assistant, got str 'robot'"),
        ({"turns.0.role": "assistant"}, "turns[0]: user and assistant take turns, the user begins; got assistant"),
        ({"turns.0.content": None}, "Request.turns[0].content: expected str, got NoneType None"),
        ({"turns.0.content": "a\ud800"}, "Request.turns[0].content: half of a surrogate pair at character 1"),
        ({"target": ["base"]}, "expected one of base, adapter"),
        ({"gid": "a b"}, "gid='a b': up to 64 letters"),
        ({"settings.temperature": 0}, "temperature=0.0: choose above 0 and up to 10; for 0, set greedy"),
        ({"settings.top_p": 1.5}, "top_p=1.5: choose above 0 and up to 1"),
        ({"settings.top_k": -1}, "top_k=-1: choose 0 (no limit) or more"),
        ({"settings.max_new_tokens": 0}, "max_new_tokens=0: choose from 1 to 4096"),
        ({"settings": None}, "Request.settings: expected an object, got NoneType None"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_place_and_the_reason(changes, reason):
    with pytest.raises(WireError) as error:
        Request.from_json(broken(changes))
    assert reason in str(error.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"seed": NaN}', "[" * 100_000, b"\xff\xfe{"])
def test_what_is_no_message_at_all_is_refused(text):
    for load in (Request.from_json, events.from_json):
        with pytest.raises(WireError):
            load(text)


@pytest.mark.parametrize("text", ['{"type": "shout", "text": "a"}', '{"text": "a", "ids": []}', '{"type": ["delta"]}'])
def test_an_event_needs_a_known_type(text):
    with pytest.raises(WireError, match="it needs a type out of start, delta, resume, snapshot, end"):
        events.from_json(text)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "a-b", "1-٣", " 1-2", "1-2\n", "9" * 40 + "-1"])
def test_an_event_id_is_two_numbers(text):
    with pytest.raises(WireError, match="expected <epoch>-<number>"):
        id_of(text)


def test_event_ids_compare_as_numbers_and_not_as_letters():
    assert id_of("2-9") < id_of("2-10") < id_of("10-1")


@given(st.lists(st.integers(0, 6), max_size=20))
def test_a_transcript_is_the_same_whatever_comes_twice(order):
    stream = [(f"1-{n}", Delta(f"{n} ", (n,))) for n in range(1, 8)]
    once = Transcript.of(stream)
    again = Transcript()
    for n, item in enumerate(stream):
        again.add(*item)
        for earlier in order:
            if earlier <= n:
                again.add(*stream[earlier])
    assert (again.text, again.ids, again.last) == (once.text, once.ids, once.last)


def test_a_snapshot_replaces_what_came_before_and_deltas_go_on_from_it():
    made = Transcript.of([("1-1", Delta("ab", (1,))), ("2-1", Snapshot("a", (1,))), ("2-2", Delta("c", (2,)))])
    assert (made.text, made.ids) == ("ac", [1, 2])
