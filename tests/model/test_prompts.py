import json
import os
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lib.config import Prompt
from lib.model import prompts
from lib.model.prompts import PromptError, chat_template_hash, encode_example, encode_prompt, to_messages, to_sharegpt

HEAD = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\n<|eot_id|>"
)
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def user(text):
    return f"<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"


def messages(prompt, completion=None):
    return to_messages(to_sharegpt(prompt, completion or ""))[: 1 if completion is None else 2]


def tokenized(tokenizer, text):
    """The ids of a whole text at once, special tokens read as such, no beginning of text added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def llama3(tokenizer):
    """The real vocabulary of Llama 3, whose licence keeps it out of this repository."""
    folder = os.environ.get("KLEPON_LLAMA3_TOKENIZER")
    if not folder:
        pytest.skip("KLEPON_LLAMA3_TOKENIZER names no folder with the Llama 3 tokenizer")
    real = AutoTokenizer.from_pretrained(folder)
    real.chat_template = tokenizer.chat_template
    return real


@pytest.fixture(params=["demo", "llama3"])
def any_tokenizer(request):
    return request.getfixturevalue("tokenizer" if request.param == "demo" else "llama3")


def test_the_example_of_a_row_is_as_written_down(tokenizer, settings):
    example = encode_example(tokenizer, messages("Apa ibu kota Jepang?", "Tokyo."), settings, 2048)
    assert tokenizer.decode(example.input_ids) == HEAD + user("Apa ibu kota Jepang?") + ASSISTANT + "Tokyo.<|eot_id|>"
    assert example.input_ids == [
        622, 625, 577, 626, 301, 559, 618, 371, 25, 614, 220, 369, 18, 198, 543, 371, 25, 220, 382, 605, 220, 369, 19,
        301, 627, 625, 450, 626, 301, 308, 367, 306, 379, 30, 627, 625, 591, 626, 301, 333, 575, 13, 627,
    ]  # fmt: skip
    assert example.loss_mask == [0] * 39 + [1] * 4
    assert not example.truncated


def test_what_is_trained_is_the_completion_and_its_end_of_turn(any_tokenizer, settings):
    example = encode_example(any_tokenizer, messages("Halo", "Selamat pagi, dunia."), settings, 2048)
    trained = [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]
    assert any_tokenizer.decode(trained) == "Selamat pagi, dunia.<|eot_id|>"


def test_an_example_begins_with_the_very_prompt_that_is_completed_later(any_tokenizer, settings):
    prompt, _ = encode_prompt(any_tokenizer, messages("Halo, siapa kamu?"), settings, 2048)
    example = encode_example(any_tokenizer, messages("Halo, siapa kamu?", "Klepon."), settings, 2048)
    assert example.input_ids[: len(prompt)] == prompt
    assert example.loss_mask.index(1) == len(prompt)


def test_the_papers_first_ids_come_out_with_the_real_llama_3_vocabulary(llama3, settings):
    ids, _ = encode_prompt(llama3, messages("Halo"), settings, 2048)
    assert ids[:8] == [128000, 128006, 9125, 128007, 271, 38766, 1303, 33025]


def test_the_papers_doubled_beginning_comes_back_on_demand(llama3, settings):
    ids, _ = encode_prompt(llama3, messages("Halo"), replace(settings, bos_tokens=2), 2048)
    assert ids[:9] == [128000, 128000, 128006, 9125, 128007, 271, 38766, 1303, 33025]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_beginnings_of_text_are_as_many_as_asked_for(tokenizer, settings, count):
    example = encode_example(tokenizer, messages("Halo", "Ya."), replace(settings, bos_tokens=count), 2048)
    assert example.input_ids[: count + 1] == [tokenizer.bos_token_id] * count + tokenized(
        tokenizer, "<|start_header_id|>"
    )
    assert example.input_ids.count(tokenizer.bos_token_id) == count


SPECIAL = ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>assistant<|end_header_id|>", "<|end_of_text|>"]


@pytest.mark.parametrize("special", SPECIAL)
def test_a_special_token_inside_a_text_stays_text(any_tokenizer, settings, special):
    plain = encode_example(any_tokenizer, messages("Apa itu x?", "Itu x."), settings, 2048)
    example = encode_example(any_tokenizer, messages(f"Apa itu {special}?", f"Itu {special}."), settings, 2048)
    added = set(any_tokenizer.get_added_vocab().values())
    assert [t for t in example.input_ids if t in added] == [t for t in plain.input_ids if t in added]
    assert f"Apa itu {special}?" in any_tokenizer.decode(example.input_ids)
    assert example.input_ids[-1] == prompts.end_of_turn_id(any_tokenizer, settings)


def test_place_holders_inside_a_text_stay_text(tokenizer, settings):
    ids, _ = encode_prompt(tokenizer, messages("a \ue0000\ue001 b"), settings, 2048)
    assert tokenizer.decode(ids) == HEAD + user("a \ue0000\ue001 b") + ASSISTANT


@pytest.mark.parametrize(
    "text",
    ["Apa ibu kota Jepang?", "  spasi di tepi \n", "dua\n\nbaris\n", "Rp 15.000 / kg 🙂 こんにちは", "'s", "1234567"],
)
def test_the_ids_are_those_of_the_rendered_text_read_at_once(any_tokenizer, settings, text):
    example = encode_example(any_tokenizer, messages(text, text), settings, 2048)
    rendered = prompts.render(any_tokenizer, messages(text, text), settings)
    assert example.input_ids == tokenized(any_tokenizer, rendered)


# Hypothesis also tries the words of this project, special tokens among them.
plain_text = st.text(max_size=30).filter(lambda text: "<|" not in text)


@given(text=plain_text, reply=plain_text)
@examples(max_examples=60)
def test_any_text_without_special_tokens_reads_as_the_rendered_text(tokenizer, settings, text, reply):
    example = encode_example(tokenizer, messages(text, reply or "x"), settings, 2048)
    if example is None:
        assert not (reply or "x").strip()
    else:
        rendered = prompts.render(tokenizer, messages(text, reply or "x"), settings)
        assert example.input_ids == tokenized(tokenizer, rendered)


@given(
    text=st.text("abc <|eot_id|>\n", max_size=120),
    reply=st.text("abc <|eot_id|>\n", max_size=120),
    room=st.integers(1, 150),
    least=st.integers(1, 40),
    bos=st.integers(1, 2),
)
@examples(max_examples=150)
def test_a_mask_is_zeros_then_ones_and_nothing_is_longer_than_allowed(tokenizer, text, reply, room, least, bos):
    settings = Prompt(bos_tokens=bos, min_answer_tokens=least)
    example = encode_example(tokenizer, messages(text, reply or " "), settings, room)
    if example is None:
        return
    assert len(example.input_ids) == len(example.loss_mask) <= room
    zeros = example.loss_mask.count(0)
    assert example.loss_mask == [0] * zeros + [1] * (len(example.loss_mask) - zeros)
    answer = [*tokenizer(reply.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"], 627]
    trained = example.input_ids[zeros:]
    assert trained == answer[: len(trained)]
    assert len(trained) >= min(least, len(answer))
    assert (trained[-1] == 627) == (len(trained) == len(answer))


LONG = "satu dua tiga empat lima enam tujuh delapan sembilan sepuluh " * 20


def test_a_long_answer_loses_its_end_and_has_no_end_of_turn(tokenizer, settings):
    example = encode_example(tokenizer, messages("Hitung!", LONG), settings, 100)
    assert len(example.input_ids) == 100
    assert example.truncated
    trained = [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]
    assert LONG.startswith(tokenizer.decode(trained))
    assert tokenizer.eos_token_id not in trained


def test_a_long_prompt_is_cut_so_that_the_whole_short_answer_stays(tokenizer, settings):
    example = encode_example(tokenizer, messages(LONG, "Ya."), settings, 100)
    assert len(example.input_ids) == 100
    assert example.truncated
    assert tokenizer.decode(example.input_ids).endswith(f"<|eot_id|>{ASSISTANT}Ya.<|eot_id|>")


def test_a_long_prompt_and_a_long_answer_leave_the_least_answer(tokenizer, settings):
    example = encode_example(tokenizer, messages(LONG, LONG), replace(settings, min_answer_tokens=16), 100)
    assert len(example.input_ids) == 100
    assert sum(example.loss_mask) == 16


def test_an_example_without_room_for_its_answer_is_dropped(tokenizer, settings):
    bare = len(encode_prompt(tokenizer, messages("a"), settings, 2048)[0])
    assert encode_example(tokenizer, messages(LONG, LONG), replace(settings, min_answer_tokens=16), bare + 15) is None
    assert encode_example(tokenizer, messages(LONG, LONG), replace(settings, min_answer_tokens=16), bare + 16)


@pytest.mark.parametrize("completion", [" ", "\n\t\n"])
def test_an_example_without_an_answer_is_dropped(tokenizer, settings, completion):
    assert encode_example(tokenizer, messages("Apa?", completion), settings, 2048) is None


TALK = [
    {"role": "user", "content": "Siapa kamu?"},
    {"role": "assistant", "content": "Saya Klepon."},
    {"role": "user", "content": LONG},
]


def test_a_conversation_of_several_turns_is_rendered_whole(any_tokenizer, settings):
    ids, cut = encode_prompt(any_tokenizer, TALK, settings, 2048)
    assert not cut
    assert any_tokenizer.decode(ids) == (
        HEAD + user("Siapa kamu?") + ASSISTANT + "Saya Klepon.<|eot_id|>" + user(LONG.strip()) + ASSISTANT
    )


def test_only_the_last_users_text_of_a_conversation_is_cut(tokenizer, settings):
    ids, cut = encode_prompt(tokenizer, TALK, settings, 120)
    assert cut
    assert len(ids) == 120
    text = tokenizer.decode(ids)
    start = (
        HEAD + user("Siapa kamu?") + ASSISTANT + "Saya Klepon.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    )
    assert text.startswith(start)
    assert text.endswith("<|eot_id|>" + ASSISTANT)
    assert LONG.startswith(text.removeprefix(start).removesuffix("<|eot_id|>" + ASSISTANT))


def test_a_conversation_that_does_not_fit_without_its_last_text_is_refused(tokenizer, settings):
    turned = [{"role": "user", "content": LONG}, *TALK[1:2], {"role": "user", "content": "Ya?"}]
    with pytest.raises(PromptError, match="over the limit of 120"):
        encode_prompt(tokenizer, turned, settings, 120)


LONG_TALK = [
    {"role": "system", "content": "Singkat."},
    {"role": "user", "content": LONG},
    {"role": "assistant", "content": "Satu."},
    {"role": "user", "content": "Lalu?"},
    {"role": "assistant", "content": "Dua."},
    {"role": "user", "content": "Ya?"},
]


def test_a_conversation_of_a_row_that_is_too_long_loses_its_oldest_questions_with_their_answers(tokenizer, settings):
    ids, cut = encode_prompt(tokenizer, LONG_TALK, settings, 120, prompts.earlier(LONG_TALK))
    assert cut
    assert ids == encode_prompt(tokenizer, [LONG_TALK[0], *LONG_TALK[3:]], settings, 120)[0]
    room = len(ids) - 1
    ids, cut = encode_prompt(tokenizer, LONG_TALK, settings, room, prompts.earlier(LONG_TALK))
    assert cut
    assert ids == encode_prompt(tokenizer, [LONG_TALK[0], LONG_TALK[-1]], settings, room)[0]


def test_a_conversation_of_a_row_that_fits_is_whole(tokenizer, settings):
    whole = encode_prompt(tokenizer, LONG_TALK, settings, 2048)
    assert encode_prompt(tokenizer, LONG_TALK, settings, 2048, prompts.earlier(LONG_TALK)) == whole


def test_an_example_of_a_long_conversation_counts_as_cut_and_trains_its_last_answer(tokenizer, settings):
    talk = [*LONG_TALK, {"role": "assistant", "content": "Tiga."}]
    assert encode_example(tokenizer, talk, settings, 120) is None
    example = encode_example(tokenizer, talk, settings, 120, prompts.earlier(talk[:-1]))
    assert example.prompt_cut and not example.answer_cut
    text = tokenizer.decode(example.input_ids)
    assert "Singkat." in text and "Dua." in text and "Satu." not in text
    trained = [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]
    assert tokenizer.decode(trained) == "Tiga.<|eot_id|>"


def test_what_a_row_asks_is_its_turns_or_else_its_input():
    rows = pd.DataFrame({"input": ["Apa?", "x"], "turns": [None, json.dumps(LONG_TALK)]})
    assert prompts.asked(rows) == [[{"role": "user", "content": "Apa?"}], LONG_TALK]
    assert prompts.asked(rows[["input"]]) == [[{"role": "user", "content": text}] for text in ("Apa?", "x")]
    assert [prompts.earlier(said) for said in prompts.asked(rows)] == [0, 4]


def test_what_is_shown_stands_between_the_system_s_turn_and_a_row_s_own(settings):
    said = prompts.conversation(LONG_TALK, "Dalam bahasa Indonesia.", [("a", "b")])
    shown = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    last = {"role": "user", "content": "Dalam bahasa Indonesia.\n\nYa?"}
    assert said == [LONG_TALK[0], *shown, *LONG_TALK[1:-1], last]


def test_a_conversation_becomes_sharegpt_turns_and_messages_again():
    talk = [*LONG_TALK, {"role": "assistant", "content": "Tiga."}]
    assert to_messages(to_sharegpt(LONG_TALK, "Tiga.")) == talk
    assert to_sharegpt(LONG_TALK, "Tiga.")["conversations"][0] == {"from": "system", "value": "Singkat."}


def test_in_a_conversation_only_the_last_answer_is_trained(tokenizer, settings):
    talk = [*TALK[:2], {"role": "user", "content": "Lalu?"}, {"role": "assistant", "content": "Itu saja."}]
    example = encode_example(tokenizer, talk, settings, 2048)
    trained = [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]
    assert tokenizer.decode(trained) == "Itu saja.<|eot_id|>"
    assert "Saya Klepon.<|eot_id|>" in tokenizer.decode(example.input_ids)


def test_a_system_turn_comes_after_the_dates(tokenizer, settings):
    ids, _ = encode_prompt(tokenizer, [{"role": "system", "content": "Jawab singkat."}, *TALK[:1]], settings, 2048)
    assert tokenizer.decode(ids) == (
        HEAD.removesuffix("<|eot_id|>") + "Jawab singkat.<|eot_id|>" + user("Siapa kamu?") + ASSISTANT
    )


def test_a_row_becomes_sharegpt_turns_and_then_messages():
    turns = to_sharegpt("Apa?", "Itu.")
    assert turns == {"conversations": [{"from": "human", "value": "Apa?"}, {"from": "gpt", "value": "Itu."}]}
    assert to_messages(turns) == [
        {"role": "user", "content": "Apa?"},
        {"role": "assistant", "content": "Itu."},
    ]


def test_the_template_hash_tells_template_date_and_beginning_apart(tokenizer, settings, monkeypatch):
    found = {
        chat_template_hash(tokenizer, settings),
        chat_template_hash(tokenizer, replace(settings, date="27 July 2024")),
        chat_template_hash(tokenizer, replace(settings, bos_tokens=2)),
    }
    # What does not change a rendered conversation does not change the hash.
    assert chat_template_hash(tokenizer, replace(settings, max_train_tokens=5)) in found
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template + " ")
    found.add(chat_template_hash(tokenizer, settings))
    assert len(found) == 4


def test_the_date_is_the_settings_own(tokenizer, settings):
    ids, _ = encode_prompt(tokenizer, messages("Halo"), replace(settings, date="1 Mei 2025"), 2048)
    assert "Today Date: 1 Mei 2025\n" in tokenizer.decode(ids)


def test_a_template_that_never_ends_a_turn_is_refused(tokenizer, settings, monkeypatch):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(PromptError, match="without a special token"):
        encode_example(tokenizer, messages("Apa?", "Itu."), settings, 2048)


def test_a_template_that_leaves_a_message_out_is_refused(tokenizer, settings, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[-1]['content'] + eos_token }}")
    with pytest.raises(PromptError, match="every message once"):
        encode_prompt(tokenizer, TALK, settings, 2048)


def test_a_tokenizer_without_a_template_is_refused(tokenizer, settings, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(PromptError, match="no chat template"):
        encode_prompt(tokenizer, messages("Apa?"), settings, 2048)


# --- Other chat templates --------------------------------------------------------------------------------------------

CHATML_HEAD = "<|im_start|>system\nAnda asisten yang ramah.<|im_end|>\n"


def test_a_template_of_another_kind_is_trained_on_in_the_same_way(chatml, settings):
    example = encode_example(chatml, messages("Apa ibu kota Jepang?", "Tokyo."), settings, 2048)
    prompt = CHATML_HEAD + "<|im_start|>user\nApa ibu kota Jepang?<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.decode(example.input_ids) == prompt + "Tokyo.<|im_end|>"
    trained = [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]
    assert chatml.decode(trained) == "Tokyo.<|im_end|>"
    assert example.input_ids[: example.loss_mask.index(1)] == encode_prompt(chatml, messages("Apa ibu kota Jepang?"),
        settings, 2048)[0]  # fmt: skip
    assert prompts.end_of_turn_id(chatml, settings) == chatml.eos_token_id


@pytest.mark.parametrize("text", ["Apa ibu kota Jepang?", "  spasi di tepi \n", "dua\n\nbaris\n", "Rp 15.000 🙂", "'s"])
def test_with_another_template_too_the_ids_are_those_of_the_rendered_text(chatml, settings, text):
    example = encode_example(chatml, messages(text, text), settings, 2048)
    rendered = prompts.render(chatml, messages(text.strip(), text.strip()), settings)
    assert [*example.input_ids, *tokenized(chatml, "\n")] == tokenized(chatml, rendered)


@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>assistant", "<|endoftext|>"])
def test_the_special_tokens_of_another_template_stay_text_too(chatml, settings, special):
    example = encode_example(chatml, messages(f"Apa itu {special}?", f"Itu {special}."), settings, 2048)
    assert example.input_ids.count(chatml.eos_token_id) == 3
    assert example.input_ids.count(chatml.bos_token_id) == 3
    assert chatml.unk_token_id not in example.input_ids


def test_a_beginning_of_text_that_opens_every_turn_is_doubled_at_the_start_alone(chatml, settings):
    example = encode_example(chatml, messages("Halo", "Ya."), replace(settings, bos_tokens=2), 2048)
    bos = chatml.bos_token_id
    assert example.input_ids[:2] == [bos, bos] and example.input_ids[2] != bos
    assert example.input_ids.count(bos) == 4
