"""From rows of every shape to prompts and completions."""

import json

import pytest

from lib.corpus.conversations import RowError, pair


def turns(*said, role="role", content="content"):
    return [{role: name, content: text} for name, text in said]


TALK = turns(("user", "Halo"), ("assistant", "Hai."), ("user", "Apa itu laut?"), ("assistant", "Air asin."))


def test_a_prompt_and_a_completion_are_taken_as_they_are():
    assert pair("prompt and completion", {"prompt": " Apa?", "completion": "Itu. "}) == (" Apa?", "Itu. ", None)
    assert pair("input and output", {"input": "Apa?", "output": "Itu."}) == ("Apa?", "Itu.", None)


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}, {"input": " \n"}])
def test_an_instruction_alone_is_the_prompt(given):
    assert pair("Alpaca", {"instruction": "Terjemahkan.", "output": "Ya."} | given).input == "Terjemahkan."


def test_an_instruction_with_an_input_has_it_below():
    row = {"instruction": "Terjemahkan.", "input": "yes", "output": "ya"}
    assert pair("Alpaca", row) == ("Terjemahkan.\n\nyes", "ya", None)


def test_the_last_answer_is_the_completion_and_all_turns_before_it_are_the_prompt():
    found = pair("messages", {"messages": TALK})
    assert (found.input, found.output) == ("Halo\n\nHai.\n\nApa itu laut?", "Air asin.")
    assert json.loads(found.turns) == TALK[:-1]


def test_one_question_with_its_answer_needs_no_turns():
    assert pair("messages", {"messages": TALK[2:]}) == ("Apa itu laut?", "Air asin.", None)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns(("system", "Singkat."), *[tuple(t.values()) for t in TALK[2:]])},
        {"messages": TALK[2:], "system": "Singkat."},
    ],
)
def test_a_system_s_turn_is_read_and_ties_no_rows(row):
    found = pair("messages", row)
    assert (found.input, found.output) == ("Apa itu laut?", "Air asin.")
    assert json.loads(found.turns) == turns(("system", "Singkat."), ("user", "Apa itu laut?"))


@pytest.mark.parametrize(
    ("user", "assistant"), [("human", "gpt"), ("user", "assistant"), ("Human", "chatgpt"), ("prompter", "bing")]
)
@pytest.mark.parametrize(("role", "content"), [("from", "value"), ("role", "content")])
def test_sharegpt_s_turns_are_read_whatever_they_call_who_speaks(user, assistant, role, content):
    said = turns((user, "Apa itu laut?"), (assistant, "Air asin."), role=role, content=content)
    assert pair("ShareGPT", {"conversations": said}) == ("Apa itu laut?", "Air asin.", None)


def test_turns_may_be_a_text_of_json_or_have_the_keys_of_both_ways_as_parquet_does():
    assert pair("messages", {"messages": json.dumps(TALK)}).output == "Air asin."
    both = [{**turn, "from": None, "value": None} for turn in TALK]
    assert pair("messages", {"messages": both}).output == "Air asin."


def test_a_conversational_prompt_and_its_completion_are_one_conversation():
    row = {"prompt": TALK[:3], "completion": TALK[3:]}
    assert pair("prompt and completion", row) == pair("messages", {"messages": TALK})


def test_content_in_parts_of_text_is_their_text():
    parts = [{"type": "text", "text": "Apa "}, {"type": "text", "text": "itu?"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Laut."}]
    assert pair("messages", {"messages": said}).input == "Apa itu?"


@pytest.mark.parametrize(
    "said",
    [
        [*TALK, *turns(("user", "Terima kasih."))],
        [*turns(("assistant", "Selamat datang.")), *TALK],
        [*turns(("user", " ")), *TALK, *turns(("assistant", ""))],
    ],
    ids=["ends with a question", "begins with an answer", "has empty turns"],
)
def test_what_is_no_question_or_answer_at_the_ends_is_left_out(said):
    assert pair("messages", {"messages": said}) == pair("messages", {"messages": TALK})


def test_what_one_side_says_in_several_turns_is_one():
    said = turns(("user", "Halo."), ("user", "Apa itu?"), ("assistant", "Laut."), ("assistant", "Air asin."))
    assert pair("messages", {"messages": said}) == ("Halo.\n\nApa itu?", "Laut.\n\nAir asin.", None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "messages is null"),
        ("Halo", "messages is text that is no JSON, as json.dumps would write it"),
        ({"role": "user"}, "messages is not a list of turns"),
        (["Halo"], "messages has a turn that is no object"),
        (turns(("tool", "42")), "messages has a turn by neither system, user nor assistant"),
        ([{"content": "Halo"}], "messages has a turn by neither system, user nor assistant"),
        ([{"role": "user"}], "messages has a turn whose content is not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages has a turn whose content is not text"),
        ([], "no user's turn with an answer"),
        (TALK[:1], "no user's turn with an answer"),
        (TALK[1:2], "no user's turn with an answer"),
        ([*TALK[:2], *turns(("system", "Singkat.")), *TALK[2:]], "a system's turn comes after others"),
        (turns(("user", "a\ud800"), ("assistant", "b")), "lone surrogate"),
        (turns(("user", "a"), ("assistant", b"caf\xe9".decode(errors="surrogateescape"))), "invalid UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_told_apart_by_its_reason(said, reason):
    with pytest.raises(RowError) as told:
        pair("messages", {"messages": said})
    assert told.value.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Apa?"}, "missing key: output"),
        ({"instruction": None, "output": "Itu."}, "instruction is null"),
        ({"instruction": " ", "output": "Itu."}, "empty instruction"),
        ({"instruction": "Apa?", "output": 3}, "output is not a string"),
        ({"instruction": "Apa?", "input": [1], "output": "Itu."}, "input is not a string"),
    ],
)
def test_a_row_without_its_texts_is_told_apart_by_its_reason(row, reason):
    with pytest.raises(RowError) as told:
        pair("Alpaca", row)
    assert told.value.reason == reason
