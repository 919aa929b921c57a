import copy
from dataclasses import replace

import pytest

from lib.model.prompts import encode_example, to_messages, to_sharegpt
from lib.training.audit import AuditError, audit, require


@pytest.fixture
def example(tokenizer, settings):
    messages = to_messages(to_sharegpt("Apa ibu kota Jepang?", "Ibu kota Jepang adalah Tokyo."))
    return encode_example(tokenizer, messages, settings, 2048)


def failed(table):
    return [name for name, row in table.iterrows() if row["verdict"] == "FAIL"]


def test_sound_examples_pass_every_check(example, tokenizer, settings):
    table = audit([example] * 3, 2, tokenizer, settings)
    assert failed(table) == []
    assert table["verdict"].value_counts().to_dict() == {"pass": 7, "count": 3}
    assert table.loc["dropped: no room for the answer", ["examples", "of"]].tolist() == [2, 5]
    require(table)


def test_no_examples_at_all_are_not_sound(tokenizer, settings):
    with pytest.raises(
        AuditError, match=r"^all rows .* were dropped \(1,200\), .*max_train_tokens = 2048: raise that$"
    ):
        audit([], 1_200, tokenizer, settings)


def test_a_cut_example_needs_no_end_of_turn_and_is_counted(tokenizer, settings):
    messages = to_messages(to_sharegpt("Hitung!", "satu dua tiga " * 50))
    cut = encode_example(tokenizer, messages, settings, 80)
    table = audit([cut], 0, tokenizer, settings)
    assert failed(table) == []
    assert table.loc["answer cut to fit (it keeps no end of turn)", "examples"] == 1
    assert table.loc["prompt cut to fit", "examples"] == 0


def test_an_example_with_only_its_prompt_cut_still_needs_its_end_of_turn(tokenizer, settings):
    messages = to_messages(to_sharegpt("satu dua tiga " * 50, "Ya."))
    cut = encode_example(tokenizer, messages, settings, 80)
    assert failed(audit([cut], 0, tokenizer, settings)) == []
    endless = replace(cut, input_ids=cut.input_ids[:-1], loss_mask=cut.loss_mask[:-1])
    assert failed(audit([endless], 0, tokenizer, settings)) == [END]


@pytest.mark.parametrize("known", [True, False])
def test_where_the_template_begins_no_text_the_examples_begin_with_no_such_token(tokenizer, settings, known):
    """As Qwen's, whose tokenizer has no such token."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("{{- bos_token -}}", "")
    messages = to_messages(to_sharegpt("Apa ibu kota Jepang?", "Ibu kota Jepang adalah Tokyo."))
    bos = other.bos_token_id
    if not known:
        other.bos_token = None
    plain = encode_example(other, messages, settings, 2048)
    assert plain.input_ids[0] != bos
    assert failed(audit([plain], 0, other, settings)) == []
    doubled = replace(plain, input_ids=[bos, *plain.input_ids], loss_mask=[0, *plain.loss_mask])
    no_token = "exactly 0 beginning-of-text token(s), at the start"
    assert failed(audit([doubled], 0, other, settings)) == ([no_token] if known else [])


def double_bos(example, tokenizer):
    return replace(example, input_ids=[tokenizer.bos_token_id, *example.input_ids], loss_mask=[0, *example.loss_mask])


def no_bos(example, tokenizer):
    return replace(example, input_ids=example.input_ids[1:], loss_mask=example.loss_mask[1:])


def bos_inside(example, tokenizer):
    ids = list(example.input_ids)
    ids[0], ids[5] = ids[5], ids[0]
    return replace(example, input_ids=ids)


def empty_mask(example, tokenizer):
    return replace(example, loss_mask=[0] * len(example.loss_mask))


def mask_shifted_left(example, tokenizer):
    return replace(example, loss_mask=[*example.loss_mask[1:], 0])


def mask_from_the_first_token(example, tokenizer):
    return replace(example, loss_mask=[1] * len(example.loss_mask))


def hole_in_mask(example, tokenizer):
    return replace(example, loss_mask=[*example.loss_mask[:-2], 0, 1])


def end_of_turn_missing(example, tokenizer):
    return replace(example, input_ids=example.input_ids[:-1], loss_mask=example.loss_mask[:-1])


def end_of_turn_untrained(example, tokenizer):
    return replace(example, loss_mask=[*example.loss_mask[:-1], 0])


def second_end_of_turn(example, tokenizer):
    return replace(example, input_ids=[*example.input_ids, example.input_ids[-1]], loss_mask=[*example.loss_mask, 1])


def too_long(example, tokenizer):
    return replace(
        example,
        input_ids=[*example.input_ids[:-1], *[5] * 2048, example.input_ids[-1]],
        loss_mask=[*example.loss_mask, *[1] * 2048],
    )


def padding_inside(example, tokenizer):
    ids = list(example.input_ids)
    ids[10] = tokenizer.pad_token_id
    return replace(example, input_ids=ids)


BOS = "exactly 1 beginning-of-text token(s), at the start"
SOME = "at least one trained token"
MASKED = "prompt wholly masked: one unbroken trained stretch, at the end"
END = "end of turn trained, once, as the last token (answers that were not cut)"


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        (double_bos, [BOS]),
        (no_bos, [BOS]),
        (bos_inside, [BOS]),
        (empty_mask, [SOME, END]),
        (mask_shifted_left, [MASKED, END]),
        (mask_from_the_first_token, [MASKED, END]),
        (hole_in_mask, [MASKED]),
        (end_of_turn_missing, [END]),
        (end_of_turn_untrained, [MASKED, END]),
        (second_end_of_turn, [END]),
        (too_long, ["at most 2048 tokens"]),
        (padding_inside, ["no padding inside"]),
    ],
)
def test_a_planted_fault_fails_its_checks_and_stops_the_run_by_name(example, tokenizer, settings, fault, checks):
    table = audit([example, fault(example, tokenizer), example], 0, tokenizer, settings)
    assert failed(table) == checks
    assert table.loc[checks[0], ["examples", "of"]].tolist() == [2, 3]
    with pytest.raises(AuditError) as error:
        require(table)
    for check in checks:
        assert f"{check}: 2 of 3" in str(error.value)


def test_padding_with_the_end_of_turn_fails(example, tokenizer, settings):
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = tokenizer.eos_token
    table = audit([example], 0, padded, settings)
    assert "pad is not an end of turn" in failed(table)
    with pytest.raises(AuditError, match="pad is not an end of turn"):
        require(table)


def test_the_papers_doubled_beginning_passes_where_it_is_asked_for(tokenizer, settings):
    doubled = replace(settings, bos_tokens=2)
    messages = to_messages(to_sharegpt("Apa?", "Itu."))
    table = audit([encode_example(tokenizer, messages, doubled, 2048)], 0, tokenizer, doubled)
    assert failed(table) == []


@pytest.fixture
def opened(chatml, settings):
    """An example whose every turn begins with the token that begins a text; its tokenizer pads with another."""
    chatml = copy.deepcopy(chatml)
    chatml.pad_token = "<|endoftext|>"
    return encode_example(chatml, to_messages(to_sharegpt("Apa?", "Itu.")), settings, 2048), chatml


def test_turns_may_begin_with_the_token_that_begins_a_text(opened, settings):
    example, chatml = opened
    assert example.input_ids.count(chatml.bos_token_id) == 3
    assert failed(audit([example], 0, chatml, settings)) == []


@pytest.mark.parametrize("fault", [double_bos, no_bos, bos_inside])
def test_where_turns_begin_so_a_wrong_beginning_is_still_found(opened, settings, fault):
    example, chatml = opened
    assert failed(audit([fault(example, chatml)], 0, chatml, settings)) == [BOS]
