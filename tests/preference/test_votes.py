"""Which votes are read, and which of them a training may see."""

import json
from dataclasses import replace

import pytest
import small_run
import small_votes
from small_votes import vote

from lib.config import Preference
from lib.model import loading
from lib.preference import outcome, votes
from lib.preference.votes import VotesError


@pytest.fixture
def config():
    """A run whose votes are asked for: at least four, of which a quarter is held out."""
    final = small_run.make()[-1]
    return replace(outcome.after(final), preference=Preference(least_votes=4, held_out_share=0.25))


def divided(config, tmp_path, made):
    table = votes.read(small_votes.write(tmp_path / "votes.jsonl", made))
    return votes.divide(table, config, loading.load_tokenizer(config.model))


def test_a_file_of_the_chat_is_read_as_it_is(tmp_path):
    talk = vote(0, "Gula\u2028merah.")
    talk["prompt"] = [
        {"role": "user", "content": "Apa itu klepon?"},
        {"role": "assistant", "content": "Kue."},
        {"role": "user", "content": "Isinya apa?"},
    ]
    (read,) = votes.read(small_votes.write(tmp_path / "v.jsonl", [talk])).to_dict("records")
    assert read == {
        "prompt": talk["prompt"],
        "chosen": "Gula\u2028merah.",
        "rejected": small_votes.REJECTED,
        "adapter": "a" * 64,
    }


def test_a_vote_that_two_exports_have_counts_once(tmp_path):
    assert len(votes.read(small_votes.write(tmp_path / "v.jsonl", [vote(0), vote(1), vote(0)]))) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"prompt": []}',
        json.dumps(vote(0) | {"prompt": [{"role": "assistant", "content": "a"}]}),
        json.dumps(vote(0) | {"prompt": [{"role": "tool", "content": "a"}, {"role": "user", "content": "a"}]}),
        json.dumps(vote(0) | {"chosen": [{"role": "assistant", "content": None}]}),
        json.dumps(vote(0) | {"chosen": []}),
        json.dumps(vote(0) | {"rejected": "text"}),
    ],
)
def test_a_line_that_is_no_vote_is_named_with_its_number(tmp_path, line):
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(vote(1)) + "\n\n" + line + "\n")
    with pytest.raises(VotesError, match=r"v\.jsonl: line 3 is no vote"):
        votes.read(path)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(VotesError, match=r"cannot be read .* the file that the chat offers for download"):
        votes.read(tmp_path / "none.jsonl")


def test_votes_are_trained_on_or_held_out_in_the_asked_share(config, tmp_path):
    table = divided(config, tmp_path, [vote(n) for n in range(20)])
    assert table["part"].value_counts().to_dict() == {"trained on": 15, "held out": 5}
    assert table["group"].nunique() == 20


def test_votes_whose_prompts_are_alike_are_on_one_side(config, tmp_path):
    # Sixteen prompts, each asked three times in nearly the same words.
    made = [
        vote(n, f"{small_votes.CHOSEN} {n} {k}", asked=f"{small_votes.prompt(n)}{'!' * k}")
        for n in range(16)
        for k in range(3)
    ]
    table = divided(config, tmp_path, made)
    assert table["group"].nunique() == 16
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert set(table["part"]) == {"trained on", "held out"}


def test_votes_on_one_prompt_alone_cannot_be_held_out(config, tmp_path):
    with pytest.raises(VotesError, match="the 8 votes are on prompts that are all alike"):
        divided(config, tmp_path, [vote(0, f"Jawaban {n}") for n in range(8)])


def test_a_vote_that_asks_what_is_tested_is_left_out_and_counted(config, tmp_path):
    # Row 7 is tested, in other letters; row 30 is trained on. An earlier turn counts too.
    told = [vote(n) for n in range(8)]
    told[0] = vote(0, asked="soal NOMOR 7")
    told[1] = vote(1, asked=small_run.prompt(30))
    told[2]["prompt"] = [
        {"role": "user", "content": small_run.prompt(9)},
        {"role": "assistant", "content": "a"},
        *told[2]["prompt"],
    ]
    table = divided(config, tmp_path, told)
    left_out = table["part"] == "alike to a test row"
    assert table.index[left_out].tolist() == [0, 2], "and the trained row's prompt is not tested"


def test_what_does_not_fit_and_what_prefers_nothing_is_left_out_and_counted(config, tmp_path):
    told = [vote(n) for n in range(8)]
    told[3] = vote(3, "kata " * 3_000)
    told[4] = vote(4, small_votes.REJECTED)
    table = divided(config, tmp_path, told)
    assert table.loc[[3, 4], "part"].tolist() == ["too long", "equal answers"]
    assert table["part"].isin(votes.USED).sum() == 6


def test_too_few_votes_are_one_sentence_with_both_numbers(config, tmp_path):
    asked = replace(config, preference=Preference())
    with pytest.raises(VotesError, match=r"^there are 29 votes, and it takes 30 \(preference.least_votes\): vote on"):
        divided(asked, tmp_path, [vote(n) for n in range(29)])
    left = r"^there are 29 votes to learn from \(left out: 1 equal answers\), and it takes 30"
    with pytest.raises(VotesError, match=left):
        divided(asked, tmp_path, [vote(n) for n in range(29)] + [vote(29, small_votes.REJECTED)])


def test_token_ids_are_those_of_the_projects_prompts(config, tmp_path):
    from lib.model.prompts import encode_prompt, end_of_turn_id

    tokenizer = loading.load_tokenizer(config.model)
    table = divided(config, tmp_path, [vote(n) for n in range(8)])
    for line in table.to_dict("records"):
        assert line["prompt_ids"] == encode_prompt(tokenizer, line["prompt"], config.prompt, 2048)[0]
        for answer in ("chosen", "rejected"):
            *ids, end = line[f"{answer}_ids"]
            assert tokenizer.decode(ids) == line[answer]
            assert end == end_of_turn_id(tokenizer, config.prompt)
