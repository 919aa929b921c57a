"""Bits a byte of the reference answers."""

import json

import pandas as pd
import pytest
import torch

from lib.config import Prompt
from lib.evaluation import likelihood
from lib.model.prompts import encode_example, to_messages, to_sharegpt


def texts(*lengths):
    words = ["Ibu", "kota", "Jepang", "adalah", "Tokyo", "saya"]
    made = [(f"Apa {' '.join(words[: n % 6])}?", " ".join((words * n)[:n])) for n in lengths]
    return pd.DataFrame(made, columns=["input", "output"])


def expected(model, tokenizer, rows, settings):
    """The nats of each row's answer by transformers, an example at a time: without what ends a turn."""
    found = []
    for prompt, output in zip(rows["input"], rows["output"], strict=True):
        example = encode_example(
            tokenizer, to_messages(to_sharegpt(prompt, output)), settings, settings.max_evaluation_tokens
        )
        ids = torch.tensor([example.input_ids])
        labels = torch.where(torch.tensor([example.loss_mask]) == 1, ids, -100)
        if not example.answer_cut:
            labels[0, -1] = -100
        with torch.no_grad():
            found.append(model(input_ids=ids, labels=labels).loss.item() * int((labels != -100).sum()))
    return found


def test_the_nats_of_an_answer_are_those_that_transformers_computes(tiny_model, tokenizer, settings):
    rows = texts(5)
    found = likelihood.answers(tiny_model, tokenizer, rows, settings)
    assert found["nats"].tolist() == pytest.approx(expected(tiny_model, tokenizer, rows, settings), rel=1e-5)
    assert found["nats"].iloc[0] > 1


def test_the_answer_of_a_conversation_is_predicted_from_all_its_turns(tiny_model, tokenizer, settings):
    turns = [
        {"role": role, "content": text} for role, text in [("user", "Halo"), ("assistant", "Hai."), ("user", "Ya?")]
    ]
    rows = texts(5).assign(turns=json.dumps(turns))
    found = likelihood.answers(tiny_model, tokenizer, rows, settings)
    said = pd.DataFrame({"input": [turns], "output": rows["output"]})
    assert found["nats"].tolist() == pytest.approx(expected(tiny_model, tokenizer, said, settings), rel=1e-5)


def test_what_stands_before_a_prompt_is_read_before_it(tiny_model, tokenizer, settings):
    rows, shown = texts(5), [("Siapa kamu?", "Saya asisten.")]
    found = likelihood.answers(tiny_model, tokenizer, rows, settings, "", "Jawab dalam bahasa Indonesia.", shown)
    prompt, output = rows.iloc[0]
    messages = [
        {"role": "user", "content": "Siapa kamu?"},
        {"role": "assistant", "content": "Saya asisten."},
        {"role": "user", "content": f"Jawab dalam bahasa Indonesia.\n\n{prompt}"},
        {"role": "assistant", "content": output},
    ]
    example = encode_example(tokenizer, messages, settings, settings.max_evaluation_tokens)
    ids, own = torch.tensor([example.input_ids]), torch.tensor([[*example.loss_mask[:-1], 0]]) == 1
    with torch.no_grad():
        loss = tiny_model(input_ids=ids, labels=torch.where(own, ids, -100)).loss.item()
    assert found["nats"].iloc[0] == pytest.approx(loss * int(own.sum()), rel=1e-5)


def test_the_bytes_are_of_the_answer_in_utf_8_and_of_no_prompt(tiny_model, tokenizer, settings):
    rows = pd.DataFrame({"input": ["Apa itu?", "Siapa?"], "output": [" Kafé. ", "Saya"]})
    assert likelihood.answers(tiny_model, tokenizer, rows, settings)["bytes"].tolist() == [6, 4]


@pytest.mark.parametrize("limit", [1, 200, 4_096])
def test_each_row_keeps_its_own_nats_however_rows_are_batched(tiny_model, tokenizer, settings, monkeypatch, limit):
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", limit)
    rows = texts(3, 40, 1, 17, 9, 25, 2).set_axis([7, 3, 9, 1, 20, 4, 5])
    found = likelihood.answers(tiny_model, tokenizer, rows, settings)
    assert found.index.tolist() == rows.index.tolist()
    assert found["nats"].tolist() == pytest.approx(expected(tiny_model, tokenizer, rows, settings), rel=1e-5)


def test_a_batch_holds_no_more_tokens_than_the_limit(tiny_model, tokenizer, settings, monkeypatch):
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", 200)
    shapes = []
    forward = type(tiny_model).forward

    def watched(self, *args, **options):
        shapes.append(tuple(options["input_ids"].shape))
        return forward(self, *args, **options)

    monkeypatch.setattr(type(tiny_model), "forward", watched)
    likelihood.answers(tiny_model, tokenizer, texts(3, 40, 1, 17, 9, 25, 2), settings)
    assert sum(count for count, _ in shapes) == 7
    assert all(count * longest <= 200 or count == 1 for count, longest in shapes)
    assert max(count for count, _ in shapes) > 1


def test_of_a_long_row_only_what_evaluation_keeps_is_counted(tiny_model, tokenizer):
    settings = Prompt(max_evaluation_tokens=80)
    rows = texts(200)
    found = likelihood.answers(tiny_model, tokenizer, rows, settings)
    assert found["nats"].tolist() == pytest.approx(expected(tiny_model, tokenizer, rows, settings), rel=1e-5)
    whole = rows["output"].iloc[0]
    assert 0 < found["bytes"].iloc[0] < len(whole) / 2
    example = encode_example(tokenizer, to_messages(to_sharegpt(rows["input"].iloc[0], whole)), settings, 80)
    kept = sum(example.loss_mask)
    answer = tokenizer(whole, add_special_tokens=False)["input_ids"][:kept]
    assert found["bytes"].iloc[0] == len(tokenizer.decode(answer).encode())


def test_a_row_that_cannot_be_encoded_counts_nothing(tiny_model, tokenizer, settings):
    rows = pd.DataFrame({"input": ["Apa?", "Apa?"], "output": ["  ", "Itu"]})
    found = likelihood.answers(tiny_model, tokenizer, rows, settings)
    assert found.iloc[0].tolist() == [0, 0]
    assert found.iloc[1]["bytes"] == 3


def test_rows_of_which_none_can_be_encoded_are_refused(tiny_model, tokenizer, settings):
    with pytest.raises(ValueError, match="of 1 rows none can be encoded"):
        likelihood.answers(tiny_model, tokenizer, pd.DataFrame({"input": ["Apa?"], "output": ["  "]}), settings)
